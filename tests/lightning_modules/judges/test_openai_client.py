"""Why a judge's requests do not go through openai's client: what it does with the answers that `chat` guards against.

It would replace the one call that sends a request. A test that fails here says that it can replace more.
"""

import gzip
from typing import Any

import anyio
import openai
import pytest

from tests.chat_server import ENDLESS, KEY, Answer, ChatServer

pytestmark = pytest.mark.unit

LARGE = "x" * (2 << 20)


def ask(url: str, seconds: float = 5.0, **options: Any) -> Any:
    """What the client makes of an answer; None if it still waits after some seconds."""

    async def complete() -> Any:
        async with openai.AsyncOpenAI(api_key=KEY, base_url=url, timeout=0.1, **options) as client:
            with anyio.move_on_after(seconds):
                return await client.chat.completions.create(model="m", messages=[{"role": "user", "content": "a"}])

    return anyio.run(complete)


@pytest.mark.parametrize("fault", [fault for fault in ENDLESS if fault != "refusal"])
def test_its_timeout_is_not_one_of_the_whole_answer(fault: str) -> None:
    with ChatServer(lambda number, request: Answer(fault=fault)) as server:
        assert ask(server.url, seconds=0.4) is None
    assert len(server.requests) == 1


@pytest.mark.parametrize("packed", [False, True])
def test_it_reads_and_unpacks_answers_of_any_size(packed: bool) -> None:
    content, headers = Answer(LARGE).body(), {}
    if packed:
        content, headers = gzip.compress(content), {"Content-Encoding": "gzip"}
    with ChatServer(lambda number, request: Answer(content=content, headers=headers)) as server:
        assert ask(server.url).choices[0].message.content == LARGE


@pytest.mark.parametrize("content", [b'{"choices": [{"mess', b"<html>", b'{"error": {"message": "overloaded"}}'])
def test_what_is_no_completion_is_returned_and_not_asked_again(content: bytes) -> None:
    with ChatServer(lambda number, request: Answer(content=content)) as server:
        assert not getattr(ask(server.url), "choices", None)
    assert len(server.requests) == 1


def test_it_asks_wherever_a_redirect_points() -> None:
    with ChatServer() as elsewhere:
        headers = {"Location": f"{elsewhere.url}/chat/completions"}
        with ChatServer(lambda number, request: Answer(status=307, headers=headers)) as server:
            ask(server.url)
    assert elsewhere.prompts() == ["a"]


def test_its_errors_hold_the_key() -> None:
    content = b'{"error": {"message": "no such model %s"}}' % KEY.encode()
    with (
        ChatServer(lambda number, request: Answer(status=404, content=content)) as server,
        pytest.raises(openai.NotFoundError, match=KEY) as caught,
    ):
        ask(server.url)
    assert caught.value.request.headers["Authorization"] == f"Bearer {KEY}"


def test_it_sends_no_request_without_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(openai.OpenAIError, match="OPENAI_API_KEY"):
        openai.AsyncOpenAI(base_url="http://localhost/v1")


def test_it_tells_the_endpoint_of_this_machine() -> None:
    with ChatServer() as server:
        ask(server.url)
    assert {"x-stainless-os", "x-stainless-arch"} <= {name.lower() for name in server.requests[0].headers}
