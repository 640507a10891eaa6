"""Replies of an OpenAI-compatible chat-completions endpoint."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from datamodules.files.printable import whole_characters
from lightning_modules.endpoint.http import JsonEndpoint, Unreadable

_MAX_TOKENS = 1 << 40
"""More than any model reads or writes."""


@dataclass(frozen=True)
class Reply:
    """What the endpoint answered.

    Args:
        text: the message; empty where the model wrote none.
        prompt_tokens: as the endpoint counts them; 0 where it does not.
        completion_tokens: likewise.
    """

    text: str
    prompt_tokens: int
    completion_tokens: int


class ChatEndpoint(JsonEndpoint):
    """`POST {base_url}/chat/completions`; arguments as in `JsonEndpoint`."""

    def __init__(
        self, base_url: str, key_variable: str | None, timeout: float, retries: int, backoff: float, max_wait: float
    ) -> None:
        super().__init__(base_url, "/chat/completions", key_variable, timeout, retries, backoff, max_wait)

    async def complete(self, body: dict[str, Any], on_retry: Callable[[], None]) -> Reply:
        """The reply to a request, without the key; see `JsonEndpoint.ask`."""
        reply = await self.ask(body, _read_reply, on_retry)
        return Reply(self.key.hide(reply.text), reply.prompt_tokens, reply.completion_tokens)


def _read_reply(content: bytes) -> Reply:
    try:
        answer = json.loads(content)
        text = answer["choices"][0]["message"]["content"]
        usage = answer.get("usage")
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        raise Unreadable("the reply is no chat completion in JSON") from None
    if text is not None and not isinstance(text, str):
        raise Unreadable("the reply's message is no text")
    counts = usage if isinstance(usage, dict) else {}
    tokens = [token_count(counts.get(name)) for name in ("prompt_tokens", "completion_tokens")]
    return Reply(whole_characters(text or ""), *tokens)


def token_count(value: Any) -> int:
    """A number of tokens as JSON has it; 0, unknown, for what can be none."""
    return value if type(value) is int and 0 <= value < _MAX_TOKENS else 0
