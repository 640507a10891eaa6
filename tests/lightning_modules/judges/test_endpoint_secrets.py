"""What an endpoint, or an error of it, sends back: no key, and nothing that steers a terminal."""

import base64
import html
import json
import traceback
from urllib.parse import quote

import pytest

from datamodules.emotions import DFEW_TAXONOMY
from lightning_modules.endpoint.errors import EndpointError
from lightning_modules.judges.chat import ChatEndpoint
from tests.chat_server import KEY, Answer, ChatServer, then_fine

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (401, r"refuses access \(HTTP 401\). Check the key in the environment variable OPENAI_API_KEY"),
        (403, r"refuses access \(HTTP 403\)"),
        (404, r"HTTP 404: no such model \*\*\*. Check base_url"),
        (307, "redirects to http://127.0.0.1.*Redirects are not followed"),
    ],
)
def test_what_no_retry_can_cure_stops_at_once_and_never_shows_the_key(make_judge, tmp_path, caplog, status, message):
    content = json.dumps({"error": {"message": f"no such model {KEY}"}}).encode()
    with ChatServer() as elsewhere:
        headers = {"Location": f"{elsewhere.url}/chat/completions?{KEY}"} if status == 307 else {}
        with ChatServer(lambda number, request: Answer(status=status, content=content, headers=headers)) as server:
            with pytest.raises(EndpointError, match=message) as caught:
                make_judge(server.url, concurrency=1).judge(["a", "b"], DFEW_TAXONOMY)
            assert len(server.requests) == 1
    assert elsewhere.requests == []
    shown = "".join(traceback.format_exception(caught.value))
    assert KEY not in shown + caplog.text + (tmp_path / "replies.jsonl").read_text()


def test_the_key_is_in_no_file_log_or_report(make_judge, tmp_path, caplog, capsys):
    caplog.set_level("DEBUG")
    with ChatServer(then_fine(Answer(status=500, content=KEY.encode()))) as server:
        judge = make_judge(server.url)
        judge.judge(["a"], DFEW_TAXONOMY)
    assert server.requests[0].headers["Authorization"] == f"Bearer {KEY}"
    kept = "".join(path.read_text() for path in tmp_path.iterdir())
    printed = "".join(capsys.readouterr())
    assert KEY not in kept + caplog.text + printed + judge.report() + repr(vars(judge)) + repr(vars(judge.endpoint))


def in_base64(before: str, key: str, after: str) -> tuple[str, str]:
    encoded = base64.b64encode(f"{before}{key}{after}".encode()).decode()
    cut = -(-len(before) * 4 // 3)
    return encoded[:cut], encoded[cut : (len(before) + len(key)) * 4 // 3]


ECHOES = {
    "itself": lambda key: ("", key),
    "inside a word": lambda key: ("x", f"{key}y"),
    "a part": lambda key: ("", key[2:-2]),
    "a beginning": lambda key: ("", key[:14]),
    "upper case": lambda key: ("", key.upper()),
    "backwards": lambda key: ("", key[::-1]),
    "URL": lambda key: ("?key=", quote(key, safe="")),
    "all of a URL": lambda key: ("", "".join(f"%{byte:02X}" for byte in key.encode())),
    "JSON text": lambda key: ("", json.dumps(key)),
    "all of JSON": lambda key: ("", "".join(f"\\u{byte:04x}" for byte in key.encode())),
    "HTML text": lambda key: ("", html.escape(key)),
    "all of HTML": lambda key: ("", "".join(f"&#{byte};" for byte in key.encode())),
    "hexadecimal": lambda key: ("", key.encode().hex()),
    "Base64": lambda key: in_base64("", key, ""),
    "Base64 of a header": lambda key: in_base64("Authorization: Bearer ", key, ""),
    "Base64 of an object": lambda key: in_base64('{"a": "', key, '"}'),
}
"""From the key to what stands before it and to a spelling of it."""


@pytest.mark.parametrize("key", [KEY, 'sk-5ecret:value/with+s"gns&<more>'])
@pytest.mark.parametrize("echo", ECHOES)
@pytest.mark.parametrize("status", [200, 404, 500])
def test_an_endpoint_that_echoes_the_key(make_judge, monkeypatch, tmp_path, caplog, capsys, key, echo, status):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    before, spelt = ECHOES[echo](key)
    caplog.set_level("DEBUG")
    text = f"You sent {before}{spelt}."
    content = None if status == 200 else json.dumps({"error": {"message": text}}).encode()
    headers = {"X-Echo": key, "Retry-After": key}
    with ChatServer(lambda number, request: Answer(text, status, content, headers)) as server:
        judge = make_judge(server.url)
        try:
            (_, verdict), *_ = judge.stream(["a"], DFEW_TAXONOMY)
            shown = f"{verdict}{judge.report()}"
        except EndpointError as error:
            shown = "".join(traceback.format_exception(error))
    assert f"You sent {before}" in shown and "***" in shown
    everything = shown + caplog.text + "".join(capsys.readouterr()) + (tmp_path / "replies.jsonl").read_text()
    assert not [i for i in range(len(spelt) - 11) if spelt[i : i + 12] in everything]


def test_a_short_key_is_no_part_of_other_words(make_judge, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "app")
    with ChatServer(then_fine(Answer("app happy"), Answer("happy"))) as server:
        (_, first), (_, second) = make_judge(server.url, concurrency=1).stream(["a", "b"], DFEW_TAXONOMY)
    assert (first.reply, second.emotion) == ("*** happy", "happiness")


@pytest.mark.parametrize("secret", ["sk-a\nb", "sk-\N{SNOWMAN}", "sk a"])
def test_a_malformed_key_is_not_repeated(make_judge, monkeypatch, secret):
    monkeypatch.setenv("OPENAI_API_KEY", secret)
    with ChatServer() as server, pytest.raises(EndpointError, match="OPENAI_API_KEY holds characters") as caught:
        make_judge(server.url).judge(["a"], DFEW_TAXONOMY)
    assert secret not in "".join(traceback.format_exception(caught.value))
    assert server.requests == []


@pytest.mark.parametrize("options", [{"key_variable": None}, {"key_variable": "NOT_SET_ANYWHERE"}])
def test_no_key_is_needed(make_judge, options):
    with ChatServer(then_fine(Answer(status=401))) as server:
        with pytest.raises(EndpointError, match="No key was sent: put it into the environment variable"):
            make_judge(server.url, **options).judge(["a"], DFEW_TAXONOMY)
        assert make_judge(server.url, **options).judge(["a"], DFEW_TAXONOMY) == ["sadness"]
    assert not any("Authorization" in request.headers for request in server.requests)


@pytest.mark.parametrize(
    ("url", "variable", "sent"),
    [
        ("https://api.openai.com/v1", "OPENAI_API_KEY", True),
        ("http://localhost:8000/v1", "OPENAI_API_KEY", True),
        ("http://[::1]:8000/v1", "OPENAI_API_KEY", True),
        ("http://node17:8000/v1", "OPENAI_API_KEY", False),
        ("http://127.evil.example/v1", "OPENAI_API_KEY", False),
        ("http://node17:8000/v1", "VLLM_API_KEY", True),
    ],
)
def test_the_key_of_a_hosted_service_does_not_go_out_in_clear(monkeypatch, url, variable, sent):
    monkeypatch.setenv("VLLM_API_KEY", "own")
    endpoint = ChatEndpoint(url, variable, timeout=1, retries=0, backoff=0, max_wait=0)
    assert (endpoint.key.read() is not None) == sent


@pytest.mark.parametrize("proxy", ["foo://user:secret1@x", "http://user:secret1@[bad", "http://x:secret1"])
def test_a_proxy_that_is_none_is_named_without_its_password(monkeypatch, make_judge, proxy):
    for name in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, proxy)
    with pytest.raises(EndpointError, match=r"HTTP_PROXY|nowhere.invalid") as caught:
        make_judge("http://nowhere.invalid/v1", retries=0).judge(["a"], DFEW_TAXONOMY)
    assert "secret1" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("status", [200, 307, 404])
def test_what_steers_a_terminal_is_shown_as_text(make_judge, tmp_path, status):
    evil = "\x1b]0;title\x07\x9b31m\u202e\ud83d"
    content = None if status == 200 else json.dumps({"error": {"message": evil}}).encode()
    headers = {"Location": "http://a/\x9b31m"} if status == 307 else {}
    with ChatServer(lambda number, request: Answer(evil, status, content, headers)) as server:
        judge = make_judge(server.url, model="m\x1b[2J")
        try:
            (_, verdict), *_ = judge.stream(["a"], DFEW_TAXONOMY)
            shown = f"{verdict.reply}{judge.report()}"
        except EndpointError as error:
            shown = str(error)
    shown += judge.name + (tmp_path / "replies.jsonl").read_text()
    assert not set("\x1b\x07\x9b\u202e\ud83d") & set(shown)
    assert "\\x9b31m" in shown
