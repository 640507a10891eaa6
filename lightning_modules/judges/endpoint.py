"""A language model behind an OpenAI-compatible endpoint as judge: an own server, such as vLLM's, or a hosted one."""

from collections.abc import Iterator, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
from anyio.from_thread import start_blocking_portal

from datamodules.files.json_log import json_digest
from lightning_modules.endpoint.errors import EndpointError, RequestFailed
from lightning_modules.endpoint.key import DEFAULT_KEY_VARIABLE
from lightning_modules.judges.chat import ChatEndpoint
from lightning_modules.judges.prompt import PromptedJudge
from lightning_modules.judges.reply_cache import ReplyCache


@dataclass
class Usage:
    """What the judge's questions came to, in this process.

    Args:
        asked: replies of the endpoint.
        cached: replies that were there already.
        retries: attempts after the first of a request.
        failures: requests without a reply.
        prompt_tokens: of the replies asked for, as the endpoint counts.
        completion_tokens: likewise.
    """

    asked: int = 0
    cached: int = 0
    retries: int = 0
    failures: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0


class EndpointJudge(PromptedJudge):
    """Any chat model behind an OpenAI-compatible endpoint as judge, asked the paper's question at temperature 0.

    Under the protocol `released` the temperature is the endpoint's, unless `parameters` names one.

    Every reply is kept in a file at once. A run that ends early loses none: the next one asks only for what is missing.
    Replies are known by model, question and parameters: a server may move, another model needs another name.

    Args:
        base_url: the endpoint up to and including the version, e.g. http://localhost:8000/v1.
        model: name of the model, as the endpoint knows it.
        key_variable: name of the environment variable with the key; a variable that is not set sends none, as null
            does. OPENAI_API_KEY goes over https or to this machine only.
        concurrency: requests at a time.
        timeout: seconds after which an attempt without a whole answer is given up.
        retries: further attempts after a timeout, a broken connection, a malformed reply, or a status 429 or 5xx.
        backoff: seconds before the first further attempt, then twice as long each time; shortened at random by up to a
            half. A longer Retry-After is honoured.
        max_wait: longest pause in seconds; an endpoint that asks for a longer one ends the run.
        max_tokens: longest reply, in tokens.
        max_failures: requests without a reply, in the whole run, that count as invalid; one more ends the run. They are
            not kept, and asked for again next time.
        parameters: further fields of the request, e.g. '{chat_template_kwargs: {enable_thinking: false}}' for vLLM with
            a thinking model; null takes a field out, e.g. '{max_tokens: null, max_completion_tokens: 16}'.
        cache: JSONL file of the replies.
        prompt_price: price of a million prompt tokens, for the cost in the report.
        completion_price: price of a million completion tokens.

    Raises:
        ValueError: an address or name of another form, or a number out of range.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        key_variable: str | None = DEFAULT_KEY_VARIABLE,
        concurrency: int = 8,
        timeout: float = 60.0,
        retries: int = 5,
        backoff: float = 1.0,
        max_wait: float = 120.0,
        max_tokens: int = 16,
        max_failures: int = 0,
        parameters: dict[str, Any] | None = None,
        cache: str = "runs/judge_replies.jsonl",
        prompt_price: float | None = None,
        completion_price: float | None = None,
    ) -> None:
        super().__init__(f"endpoint:{model}")
        if (prompt_price is None) != (completion_price is None):
            raise ValueError("Expected both prompt_price and completion_price, or neither; got one of them.")
        if concurrency < 1 or max_tokens < 1 or max_failures < 0:
            raise ValueError(
                "Expected concurrency >= 1, max_tokens >= 1 and max_failures >= 0; got "
                f"{concurrency}, {max_tokens}, {max_failures}."
            )
        self.endpoint = ChatEndpoint(base_url, key_variable, timeout, retries, backoff, max_wait)
        self._fields = {"model": model, "max_tokens": max_tokens}
        self._parameters = parameters or {}
        self.concurrency = concurrency
        self.max_failures = max_failures
        self.cache_path = Path(cache)
        self.prompt_price = prompt_price
        self.completion_price = completion_price
        self.usage = Usage()
        self._cache: ReplyCache | None = None

    def ask(self, prompts: Sequence[str]) -> Iterator[tuple[int, str | None]]:
        """Replies as they come, kept ones first; None for a request without one, as far as `max_failures` allows.

        Raises:
            EndpointError: more requests have no reply than `max_failures`, or the endpoint cannot be used at all.
            OSError: the cache cannot be written.
        """
        if self._cache is None:
            self._cache = ReplyCache(self.cache_path)
        cache = self._cache
        requests = [self._request(prompt) for prompt in prompts]
        keys = [json_digest(request) for request in requests]
        kept = {i: reply for i, key in enumerate(keys) if (reply := cache.get(key)) is not None}
        self.usage.cached += len(kept)
        yield from ((i, reply.text) for i, reply in kept.items())
        try:
            yield from self._fetch({i: requests[i] for i in range(len(prompts)) if i not in kept}, keys, cache)
        except EndpointError as error:
            num_kept = sum(cache.get(key) is not None for key in keys)
            raise EndpointError(
                f"{error} {num_kept} of {len(keys)} replies are kept in {self.cache_path}: run the same command again, "
                f"and only the other {len(keys) - num_kept} are asked for. Up to max_failures requests without a reply "
                f"(now {self.max_failures}) count as invalid."
            ) from error

    def _request(self, prompt: str) -> dict[str, Any]:
        temperature = {"temperature": 0} if self.protocol == "paper" else {}
        fields = {**self._fields, **temperature, **self._parameters}
        given = {name: value for name, value in fields.items() if value is not None}
        return {**given, "messages": [{"role": "user", "content": prompt}]}

    def _fetch(
        self, requests: dict[int, dict[str, Any]], keys: list[str], cache: ReplyCache
    ) -> Iterator[tuple[int, str | None]]:
        slots = anyio.Semaphore(self.concurrency)

        def count_retry() -> None:
            self.usage.retries += 1

        async def fetch(i: int) -> str | None:
            # An error keeps its slot: nothing more is asked there until it has ended the run.
            await slots.acquire()
            try:
                reply = await self.endpoint.complete(requests[i], count_retry)
            except RequestFailed:
                self.usage.failures += 1
                if self.usage.failures > self.max_failures:
                    raise
                slots.release()
                return None
            cache.add(keys[i], reply)
            self.usage.asked += 1
            self.usage.prompt_tokens += reply.prompt_tokens
            self.usage.completion_tokens += reply.completion_tokens
            slots.release()
            return reply.text

        # An error or Ctrl-C cancels what is under way, so that the program ends at once.
        with start_blocking_portal(name="judge") as portal:
            futures = {portal.start_task_soon(fetch, i): i for i in requests}
            for future in as_completed(futures):
                yield futures[future], future.result()

    def cost(self) -> float | None:
        """Price of the tokens of this run; None without prices."""
        if self.prompt_price is None or self.completion_price is None:
            return None
        prompt, completion = self.usage.prompt_tokens, self.usage.completion_tokens
        return (prompt * self.prompt_price + completion * self.completion_price) / 1e6

    def report(self) -> str:
        return f"{super().report()} {self.usage_report()}"

    def usage_report(self) -> str:
        """What was asked so far by this process and what it came to, for the screen."""
        usage, cost = self.usage, self.cost()
        price = "" if cost is None else f", cost {cost:.4f}"
        return (
            f"{usage.asked} replies asked for, {usage.cached} from {self.cache_path}; "
            f"{usage.retries} retries, {usage.failures} failures. {usage.prompt_tokens:,} prompt and "
            f"{usage.completion_tokens:,} completion tokens{price}."
        )
