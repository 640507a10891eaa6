"""The line in which clips wait: one is explained, the others see their place."""

import json
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator
from http.client import HTTPResponse
from pathlib import Path

import pytest
import uvicorn

from datamodules.media_settings import MediaSettings
from tests.tools.report.conftest import GOLDEN_CLIP
from tools.app import server as module
from tools.app.server import BODY_TYPE, Server

pytestmark = pytest.mark.e2e


class Patient:
    """Explains nothing until it is allowed to, and counts."""

    media = MediaSettings(num_frames=2, image_size=32)

    def __init__(self) -> None:
        self.may_end = threading.Event()
        self.told = 0

    def explain(self, clip, mode, show) -> None:
        while not self.may_end.wait(0.02):
            show({"done": False})
            self.told += 1
        show({"done": True})


@pytest.fixture
def patient() -> Patient:
    return Patient()


@pytest.fixture
def served(patient: Patient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Server, str]]:
    monkeypatch.setattr(module, "_SECONDS_BETWEEN_LOOKS", 0.05)
    own = Server([patient], "<p>page</p>", tmp_path, 10**6, 20.0)
    listener = socket.create_server(("127.0.0.1", 0))
    runner = uvicorn.Server(uvicorn.Config(own.app(["127.0.0.1"]), log_level="warning", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=runner.run, kwargs={"sockets": [listener]})
    thread.start()
    yield own, f"http://127.0.0.1:{listener.getsockname()[1]}/explain"
    runner.should_exit = True
    thread.join(20)
    own.close()
    listener.close()


def send(address: str) -> HTTPResponse:
    headers = {"Content-Type": BODY_TYPE}
    return urllib.request.urlopen(urllib.request.Request(address, GOLDEN_CLIP.read_bytes(), headers), timeout=20)


def test_clips_wait_for_each_other_and_leave_no_file(
    served: tuple[Server, str], patient: Patient, tmp_path: Path
) -> None:
    _, address = served
    with send(address) as first, send(address) as second:
        assert json.loads(second.readline()) == {"event": "place", "ahead": 1}
        patient.may_end.set()
        events = {name: [json.loads(line) for line in own] for name, own in (("1", first), ("2", second))}
    for own in events.values():
        done = [event["mode"] for event in own if event.get("done")]
        assert done == ["full", "video_only", "audio_only"]
    assert not list(tmp_path.iterdir())


def test_nothing_is_written_for_who_has_left(served: tuple[Server, str], patient: Patient) -> None:
    own, address = served
    first = send(address)
    assert json.loads(first.readline())["event"] in ("place", "clip")
    first.close()
    deadline = time.monotonic() + 20
    while own._line and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not own._line and not patient.may_end.is_set()


def test_a_fault_costs_one_clip(
    served: tuple[Server, str], patient: Patient, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    _, address = served
    monkeypatch.setattr(patient, "explain", lambda *arguments: 1 / 0)
    for _ in range(2):
        with send(address) as answer:
            events = [json.loads(line) for line in answer]
        assert events[-1] == {"event": "error", "text": "This failed; the terminal says where."}
    assert "ZeroDivisionError" in capfd.readouterr().err
