"""Every fault that a server has: what is asked again, and when, and what ends the run."""

import gzip
import os
import signal
import threading
import time
from email.utils import formatdate

import anyio
import pytest

from datamodules.emotions import DFEW_TAXONOMY
from lightning_modules.endpoint.errors import EndpointError, RequestFailed
from lightning_modules.judges.chat import ChatEndpoint
from lightning_modules.judges.prompt import judge_prompt
from tests.chat_server import ENDLESS, Answer, ChatServer, Request, then_fine

pytestmark = pytest.mark.unit

RATIONALES = [f"The man smiles, number {i}." for i in range(12)]


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
