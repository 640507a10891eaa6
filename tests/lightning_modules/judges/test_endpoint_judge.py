"""The endpoint judge against a real server on this machine, with every fault that a server has."""

import base64
import gzip
import html
import json
import os
import signal
import threading
import time
import traceback
from email.utils import formatdate
from pathlib import Path
from urllib.parse import quote

import anyio
import pytest

from datamodules.emotions import DFEW_TAXONOMY
from lightning_modules.judges import EndpointJudge, Judge
from lightning_modules.judges.chat import ChatEndpoint
from lightning_modules.judges.errors import EndpointError, RequestFailed
from lightning_modules.judges.prompt import judge_prompt
from tests.chat_server import ENDLESS, Answer, ChatServer, Request

pytestmark = pytest.mark.unit

KEY = "sk-secret-0123456789"
RATIONALES = [f"The man smiles, number {i}." for i in range(12)]


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


@pytest.fixture
def make_judge(tmp_path):
    def make(url: str, **options) -> EndpointJudge:
        values = {
            "model": "m",
            "backoff": 0.001,
            "retries": 2,
            "timeout": 5.0,
            "cache": str(tmp_path / "replies.jsonl"),
        }
        return EndpointJudge(url, **{**values, **options})

    return make


def then_fine(*faults: Answer):
    """The faults for the first requests, one each, and a good reply for the others."""
    return lambda number, request: faults[number] if number < len(faults) else Answer("Sad")


def test_request_and_reply(make_judge):
    with ChatServer(lambda number, request: Answer("**Happy**.")) as server:
        judge = make_judge(server.url)
        assert isinstance(judge, Judge)
        assert judge.name == "endpoint:m"
        assert judge.judge(["He smiles."], DFEW_TAXONOMY) == ["happiness"]
    (request,) = server.requests
    assert request.path == "/v1/chat/completions"
    assert request.headers["Authorization"] == f"Bearer {KEY}"
    message = {"role": "user", "content": judge_prompt("He smiles.", DFEW_TAXONOMY)}
    assert request.body == {"model": "m", "temperature": 0, "max_tokens": 16, "messages": [message]}


def test_parameters_are_added_and_null_takes_a_field_out(make_judge):
    parameters = {"max_tokens": None, "max_completion_tokens": 4, "chat_template_kwargs": {"enable_thinking": False}}
    with ChatServer() as server:
        make_judge(server.url, parameters=parameters).judge(["a"], DFEW_TAXONOMY)
    body = server.requests[0].body
    assert "max_tokens" not in body
    assert (body["max_completion_tokens"], body["chat_template_kwargs"]) == (4, {"enable_thinking": False})


def test_order_duplicates_and_empty_rationales(make_judge):
    def answer(number: int, request: Request) -> Answer:
        # The first request is the last to be answered.
        time.sleep(0.05 if number == 0 else 0)
        return Answer("sad" if "cries" in request.prompt else "happy")

    with ChatServer(answer) as server:
        judge = make_judge(server.url)
        verdicts = judge.judge(["He cries.", "", "He smiles.", "He cries.", " \n"], DFEW_TAXONOMY)
    assert verdicts == ["sadness", None, "happiness", "sadness", None]
    assert len(server.requests) == 2
    assert (judge.num_judged, judge.num_invalid) == (5, 2)


def test_requests_run_at_the_same_time_and_not_more_than_allowed(make_judge):
    together = threading.Barrier(3)

    def answer(number: int, request: Request) -> Answer:
        together.wait(5)  # broken, and the test with it, unless three requests are under way
        return Answer()

    with ChatServer(answer) as server:
        assert make_judge(server.url, concurrency=3).judge(RATIONALES, DFEW_TAXONOMY) == ["happiness"] * 12
    assert server.most_at_once == 3


@pytest.mark.parametrize(
    "fault",
    [
        Answer(status=500),
        Answer(status=503),
        Answer(status=429),
        Answer(content=b'{"choices": [{"mess'),
        Answer(content=b"<html>gateway</html>"),
        Answer(content=b'{"error": {"message": "overloaded"}}'),
        Answer(content=b'{"choices": []}'),
        Answer(content=b'{"choices": [{"message": {"content": [1]}}]}'),
        Answer(content=b"[" * 100_000),
        Answer(content=b'{"choices": ' + b"9" * 5000 + b"}"),
        Answer(content=b'{"choices": {"message": {"content": "sad"}}}'),
        Answer(content=b'"choices"'),
        Answer(content="{'choices': 'ä'}".encode("latin-1")),
        Answer(content=gzip.compress(Answer().body()), headers={"Content-Encoding": "gzip"}),
        Answer(content=b"x" * (2 << 20)),
        Answer(fault="reset"),
    ],
    ids=[
        "500",
        "503",
        "429",
        "cut",
        "html",
        "error",
        "empty",
        "no_text",
        "deep",
        "digits",
        "object",
        "text",
        "latin",
        "gzip",
    ]
    + ["large", "reset"],
)
def test_passing_faults_are_retried(make_judge, fault):
    with ChatServer(then_fine(fault)) as server:
        judge = make_judge(server.url)
        assert judge.judge(["a"], DFEW_TAXONOMY) == ["sadness"]
    assert len(server.requests) == 2
    assert (judge.usage.asked, judge.usage.retries, judge.usage.failures) == (1, 1, 0)


@pytest.mark.parametrize("fault", ["silence", *ENDLESS])
def test_an_attempt_has_a_deadline_and_is_retried(make_judge, fault):
    with ChatServer(then_fine(Answer(fault=fault))) as server:
        judge = make_judge(server.url, timeout=0.15)
        assert judge.judge(["a"], DFEW_TAXONOMY) == ["sadness"]
    assert (len(server.requests), judge.usage.retries) == (2, 1)


def test_an_endpoint_that_never_ends_its_answers_is_an_error_that_names_the_limit(make_judge):
    with (
        ChatServer(lambda number, request: Answer(fault="drip")) as server,
        pytest.raises(EndpointError, match=r"no whole answer within 0\.1 s \(attempt 3 of 3\)"),
    ):
        make_judge(server.url, timeout=0.1).judge(["a"], DFEW_TAXONOMY)


@pytest.mark.parametrize("end", ["interrupt", "error", "close"])
def test_what_ends_the_run_does_not_wait_for_requests_under_way(make_judge, end):
    waiting = threading.Barrier(2)

    def answer(number: int, request: Request) -> Answer:
        if "hang" in request.prompt:
            waiting.wait(5)
            return Answer(fault="drip")
        if end == "error":
            waiting.wait(5)
            return Answer(status=404)
        return Answer()

    threads = set(threading.enumerate())
    with ChatServer(answer) as server:
        stream = make_judge(server.url, timeout=60, concurrency=2).stream(["hang", "b"], DFEW_TAXONOMY)
        if end == "error":
            with pytest.raises(EndpointError, match="404"):
                next(stream)
            start = time.monotonic()
        else:
            assert next(stream)[0] == 1
            waiting.wait(5)
            start = time.monotonic()
            if end == "interrupt":
                threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
                with pytest.raises(KeyboardInterrupt):
                    next(stream)
            else:
                stream.close()
        assert time.monotonic() - start < 5
        left = {thread for thread in set(threading.enumerate()) - threads if not thread.daemon}
        assert not left, "the program would wait for them at its exit"


@pytest.mark.parametrize("number", ["1e999", "-5", "true", '"7"', "[1]", "{}", "1.5", "NaN", "9" * 400, "null"])
def test_a_number_of_tokens_that_is_none_is_unknown(make_judge, number):
    content = Answer("sad").body().replace(b"100", number.encode())
    with ChatServer(lambda n, request: Answer(content=content)) as server:
        for _ in range(2):  # asked, and from the file
            judge = make_judge(server.url)
            assert judge.judge(["a"], DFEW_TAXONOMY) == ["sadness"]
    assert len(server.requests) == 1
    assert "cost" not in judge.report() and judge.usage.prompt_tokens == 0


def test_usage_of_another_form_is_unknown(make_judge):
    content = Answer("sad").body().replace(b'{"prompt_tokens": 100, "completion_tokens": 2}', b'"many"')
    with ChatServer(lambda number, request: Answer(content=content)) as server:
        judge = make_judge(server.url)
        assert judge.judge(["a"], DFEW_TAXONOMY) == ["sadness"]
    assert judge.usage.completion_tokens == 0


@pytest.mark.parametrize(
    ("header", "expected"),
    [("7", 7.0), ("in an hour", 3600.0), ("soon", 0.5), (None, 0.5), ("0", 0.5)],
)
def test_waits(monkeypatch, header, expected):
    monkeypatch.setattr("random.uniform", lambda low, high: low)
    waits = []

    async def sleep(seconds):
        waits.append(seconds)

    monkeypatch.setattr("anyio.sleep", sleep)
    date = formatdate(time.time() + 3600, usegmt=True)
    headers = {} if header is None else {"Retry-After": date if header == "in an hour" else header}
    with ChatServer(then_fine(Answer(status=429, headers=headers))) as server:
        endpoint = ChatEndpoint(server.url, None, timeout=5, retries=1, backoff=1.0, max_wait=4000)
        anyio.run(endpoint.complete, {"messages": [{"content": ""}]}, lambda: None)
    assert waits == [pytest.approx(expected, abs=60 if expected == 3600 else 1e-9)]


def test_back_off_doubles_up_to_the_longest_wait(monkeypatch):
    drawn = []
    monkeypatch.setattr("random.uniform", lambda low, high: drawn.append((low, high)) or high)
    waits = []

    async def sleep(seconds):
        waits.append(seconds)

    monkeypatch.setattr("anyio.sleep", sleep)
    with ChatServer(lambda number, request: Answer(status=500)) as server:
        endpoint = ChatEndpoint(server.url, None, timeout=5, retries=5, backoff=1.0, max_wait=5.0)
        with pytest.raises(RequestFailed, match=r"HTTP 500.*\(attempt 6 of 6\)"):
            anyio.run(endpoint.complete, {"messages": [{"content": ""}]}, lambda: None)
    assert waits == [1.0, 2.0, 4.0, 5.0, 5.0]
    assert set(drawn) == {(0.5, 1.0)}


def test_an_endpoint_that_asks_for_too_long_a_wait_ends_the_run(make_judge):
    with (
        ChatServer(lambda number, request: Answer(status=429, headers={"Retry-After": "3600"})) as server,
        pytest.raises(EndpointError, match=r"asks to wait 3600 s, longer than max_wait \(120 s\)"),
    ):
        make_judge(server.url).judge(["a"], DFEW_TAXONOMY)
    assert len(server.requests) == 1


@pytest.mark.parametrize("text", ["The emotion is happiness", "surprised", "happiness or fear", "", "7", None])
def test_replies_outside_the_taxonomy_are_invalid_and_not_asked_again(make_judge, text):
    with ChatServer(lambda number, request: Answer(text)) as server:
        assert make_judge(server.url).judge(["a"], DFEW_TAXONOMY) == [None]
        judge = make_judge(server.url)
        assert judge.judge(["a"], DFEW_TAXONOMY) == [None]
    assert len(server.requests) == 1
    assert (judge.num_invalid, judge.usage.cached) == (1, 1)


def test_an_endpoint_that_dies_half_way_loses_nothing(make_judge, tmp_path):
    def dying(number: int, request: Request) -> Answer:
        return Answer("happy") if number < 5 else Answer(fault="reset")

    with ChatServer(dying) as server:
        judge = make_judge(server.url, concurrency=1)
        with pytest.raises(EndpointError, match=r"5 of 12 replies are kept in .*replies.jsonl: run the same command"):
            judge.judge(RATIONALES, DFEW_TAXONOMY)
    answered = server.prompts()[:5]
    assert judge.usage.asked == 5
    with ChatServer() as second:  # elsewhere: replies are known by what was asked, not by the address
        judge = make_judge(second.url)
        assert judge.judge(RATIONALES, DFEW_TAXONOMY) == ["happiness"] * 12
    assert sorted(answered + second.prompts()) == sorted(
        judge_prompt(rationale, DFEW_TAXONOMY) for rationale in RATIONALES
    )
    assert (judge.usage.cached, judge.usage.asked) == (5, 7)


def test_an_endpoint_that_is_gone_is_an_error(make_judge):
    with ChatServer() as server:
        pass
    with pytest.raises(EndpointError, match=r"Refused.*attempt 3 of 3.*0 of 1 replies are kept"):
        make_judge(server.url).judge(["a"], DFEW_TAXONOMY)


def test_other_model_question_or_parameters_are_asked_anew(make_judge):
    with ChatServer() as server:
        make_judge(server.url).judge(["a"], DFEW_TAXONOMY)
        make_judge(server.url, model="other").judge(["a"], DFEW_TAXONOMY)
        make_judge(server.url, max_tokens=4).judge(["a"], DFEW_TAXONOMY)
        make_judge(server.url).judge(["b"], DFEW_TAXONOMY)
        make_judge(server.url, concurrency=1, timeout=1.0).judge(["a"], DFEW_TAXONOMY)
    assert len(server.requests) == 4


def test_failures_up_to_a_number_are_invalid_and_asked_for_again(make_judge):
    broken = True

    def answer(number: int, request: Request) -> Answer:
        return Answer(status=500) if broken and "number 1" in request.prompt else Answer()

    with ChatServer(answer) as server:  # numbers 1, 10 and 11
        judge = make_judge(server.url, max_failures=3, retries=1)
        assert judge.judge(RATIONALES, DFEW_TAXONOMY).count(None) == 3
        assert (judge.usage.failures, judge.usage.retries, judge.num_invalid) == (3, 3, 3)
        with pytest.raises(EndpointError, match="9 of 12 replies are kept"):
            make_judge(server.url, max_failures=2, retries=0).judge(RATIONALES, DFEW_TAXONOMY)
        broken = False
        assert make_judge(server.url).judge(RATIONALES, DFEW_TAXONOMY).count(None) == 0


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_refused_text_counts_as_one_failure_and_is_not_retried(make_judge, status):
    refusal = Answer(status=status, content=b'{"error": {"message": "maximum context length is 8"}}')
    with ChatServer(lambda number, request: refusal if "long" in request.prompt else Answer()) as server:
        assert make_judge(server.url, max_failures=1).judge(["long", "b"], DFEW_TAXONOMY) == [None, "happiness"]
        with pytest.raises(EndpointError, match=f"HTTP {status}: maximum context length is 8"):
            make_judge(server.url).judge(["long"], DFEW_TAXONOMY)
    assert len(server.requests) == 3


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
                make_judge(server.url, concurrency=1).judge(RATIONALES, DFEW_TAXONOMY)
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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"base_url": "localhost:8000/v1"}, "Expected base_url such as https"),
        ({"base_url": "file:///etc/passwd"}, "Expected base_url such as https"),
        ({"base_url": "https://a/v1?key=b"}, "Expected base_url such as https"),
        ({"base_url": f"https://user:{KEY}@a/v1"}, "holds a user name or password"),
        ({"base_url": "http://a b/v1"}, "white space"),
        ({"key_variable": KEY}, "Give the name, never the key itself"),
        ({"concurrency": 0}, "concurrency >= 1"),
        ({"timeout": 0}, "timeout > 0"),
        ({"max_failures": -1}, "max_failures >= 0"),
        ({"prompt_price": 1.0}, "both prompt_price and completion_price"),
    ],
)
def test_options_are_checked(make_judge, options, message):
    url = options.pop("base_url", "http://localhost/v1")
    with pytest.raises(ValueError, match=message) as caught:
        make_judge(url, **options)
    assert KEY not in str(caught.value)


def test_cost_and_counts_are_reported(make_judge):
    with ChatServer(then_fine(Answer(status=500), Answer("I cannot say"))) as server:
        options = {"prompt_price": 0.4, "completion_price": 1.6, "concurrency": 1}
        make_judge(server.url, **options).judge(["a"], DFEW_TAXONOMY)
        judge = make_judge(server.url, **options)
        judge.judge(["a", "b", "c"], DFEW_TAXONOMY)
    # 2 × 100 prompt tokens and 2 × 2 completion tokens, per million
    assert judge.cost() == pytest.approx((200 * 0.4 + 4 * 1.6) / 1e6, rel=1e-12)
    assert judge.report() == (
        "endpoint:m: 3 rationales judged, 1 invalid, such as the reply 'I cannot say'. 2 replies asked for, 1 from "
        f"{judge.cache_path}; 0 retries, 0 failures. 200 prompt and 4 completion tokens, cost 0.0001."
    )


def test_half_a_surrogate_pair_in_text_and_reply(make_judge):
    with ChatServer(lambda number, request: Answer("sad\ud83d")) as server:
        (_, verdict), *_ = make_judge(server.url).stream(["He \ud83d smiles."], DFEW_TAXONOMY)
    assert verdict.reply == "sad\N{REPLACEMENT CHARACTER}"
    assert verdict.emotion is None


def test_a_reader_that_stops_early_keeps_every_reply(make_judge, tmp_path):
    with ChatServer() as server:
        judge = make_judge(server.url, concurrency=1)
        stream = judge.stream(RATIONALES, DFEW_TAXONOMY)
        next(stream)
        stream.close()
    assert 1 <= judge.usage.asked < 12
    assert len(Path(tmp_path / "replies.jsonl").read_text().splitlines()) == judge.usage.asked


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
