"""What the app refuses: other hosts, other pages, other files than the reader's own, and every connection."""

import json
import secrets
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.tools.app.conftest import App
from tests.tools.report.conftest import GOLDEN_CLIP

pytestmark = pytest.mark.e2e


def ask(address: str, data: Any = None, **headers: str) -> tuple[int, str]:
    """Status and body of an answer; `data` is posted, as JSON unless it is bytes."""
    if data is not None and not isinstance(data, bytes):
        data, headers = json.dumps(data).encode(), {"Content-Type": "application/json", **headers}
    try:
        with urllib.request.urlopen(urllib.request.Request(address, data, headers), timeout=20) as answer:
            return answer.status, answer.read().decode(errors="replace")
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(errors="replace")


def upload(served: App, content: bytes, **headers: str) -> tuple[int, str]:
    part = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.mp4"\r\n\r\n' + content + b"\r\n--x--\r\n"
    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    return ask(f"{served.address}gradio_api/upload", part, **kind, **headers)


def choose(served: App, path: str) -> str:
    """What the page is told when it says that a file was uploaded to a path."""
    config = json.loads(ask(served.address)[1].partition("window.gradio_config = ")[2].partition(";</script>")[0])
    (index,) = [own["id"] for own in config["dependencies"] if own["targets"][0][1] == "upload"]
    session = secrets.token_hex(5)
    file = {"path": path, "meta": {"_type": "gradio.FileData"}}
    joined, _ = ask(
        f"{served.address}gradio_api/queue/join", {"data": [file], "fn_index": index, "session_hash": session}
    )
    assert joined == 200
    return ask(f"{served.address}gradio_api/queue/data?session_hash={session}")[1]


def test_other_hosts_and_other_pages_are_refused(served: App) -> None:
    own, foreign = served.address.rstrip("/"), "http://attacker.example"
    assert ask(served.address)[0] == ask(served.address, Origin=own)[0] == 200
    assert ask(served.address, Host="attacker.example")[0] == 400, "a name that was made to lead here"
    for origin in (foreign, "null", "http://127.0.0.1:1"):
        assert upload(served, b"x", Origin=origin)[0] == 403
        assert ask(f"{served.address}gradio_api/queue/join", {}, Origin=origin)[0] == 403
    assert upload(served, b"x", Origin=own)[0] == 200


def test_no_file_is_served_but_the_readers_own(served: App) -> None:
    status, answer = upload(served, b"mine")
    (mine,) = json.loads(answer)
    with urllib.request.urlopen(f"{served.address}gradio_api/file={mine}") as sent:
        assert sent.headers["Content-Security-Policy"] == "sandbox", "it is no page of this origin"
    assert status == 200 and ask(f"{served.address}gradio_api/file={mine}")[1] == "mine"
    for path in ("/etc/passwd", "main.py", f"{served.temporary}/../log0/stderr", "http://attacker.example/a.mp4"):
        assert ask(f"{served.address}gradio_api/file={path}")[0] in (403, 404)
    for path in ("file=/etc/passwd", "etc/passwd", "static/../../../main.py", "assets/%2e%2e/%2e%2e/main.py"):
        assert ask(served.address + path)[0] in (403, 404)
    for path in (
        "info",
        "openapi.json",
        "process_recording",
        "deep_link",
        "run/predict",
        "vibe-code",
        "proxy=http://x/",
    ):
        assert ask(f"{served.address}gradio_api/{path}")[0] == 404, "what the page does not need"


def test_what_is_explained_was_uploaded(served: App, tmp_path: Path) -> None:
    (clip,) = json.loads(upload(served, GOLDEN_CLIP.read_bytes())[1])
    assert '"success":true' in choose(served, clip)
    for name in ("secret.txt", "secret.svg"):
        (tmp_path / name).write_text("secret")
        assert '"success":false' in choose(served, str(tmp_path / name))
        assert ask(f"{served.address}gradio_api/file={tmp_path / name}")[0] == 403
        assert not list(served.temporary.rglob(name))
    assert '"success":false' in choose(served, "http://192.0.2.1/clip.mp4")
    assert "PermissionError: The app connects to nothing." in served.log.read_text()


def test_a_file_that_is_too_large_is_not_kept(served: App) -> None:
    before = set(served.temporary.rglob("*"))
    assert upload(served, bytes(1_100_000))[0] == 413
    assert set(served.temporary.rglob("*")) == before
