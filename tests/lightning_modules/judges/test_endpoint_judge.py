"""The endpoint judge against a real server on this machine: what is asked, kept and reported."""

import threading
import time
from pathlib import Path

import pytest

from datamodules.emotions import DFEW_TAXONOMY
from lightning_modules.judges import Judge
from lightning_modules.judges.prompt import follow, judge_prompt
from tests.chat_server import KEY, Answer, ChatServer, Request, then_fine

pytestmark = pytest.mark.unit

RATIONALES = [f"The man smiles, number {i}." for i in range(12)]


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


def test_the_released_protocol_sends_no_temperature_of_its_own(make_judge):
    with ChatServer() as server:
        for parameters in (None, {"temperature": 0.7}):
            judge = make_judge(server.url, parameters=parameters)
            follow(judge, "released")
            judge.judge([f"a {parameters}"], DFEW_TAXONOMY)
    first, second = (request.body for request in server.requests)
    assert "temperature" not in first and second["temperature"] == 0.7


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


@pytest.mark.parametrize("text", ["The emotion is happiness", "surprised", "happiness or fear", "", "7", None])
def test_replies_outside_the_taxonomy_are_invalid_and_not_asked_again(make_judge, text):
    with ChatServer(lambda number, request: Answer(text)) as server:
        assert make_judge(server.url).judge(["a"], DFEW_TAXONOMY) == [None]
        judge = make_judge(server.url)
        assert judge.judge(["a"], DFEW_TAXONOMY) == [None]
    assert len(server.requests) == 1
    assert (judge.num_invalid, judge.usage.cached) == (1, 1)


def test_other_model_question_or_parameters_are_asked_anew(make_judge):
    with ChatServer() as server:
        make_judge(server.url).judge(["a"], DFEW_TAXONOMY)
        make_judge(server.url, model="other").judge(["a"], DFEW_TAXONOMY)
        make_judge(server.url, max_tokens=4).judge(["a"], DFEW_TAXONOMY)
        make_judge(server.url).judge(["b"], DFEW_TAXONOMY)
        make_judge(server.url, concurrency=1, timeout=1.0).judge(["a"], DFEW_TAXONOMY)
    assert len(server.requests) == 4


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
