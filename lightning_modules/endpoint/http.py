"""Requests to an endpoint that speaks JSON over HTTP, repeated with growing pauses where that may help.

No error or reply that leaves this module holds the key. openai's client is not used: it limits neither the time nor the
size of a whole answer, takes what is no completion for one, and its errors hold the key.
"""

import email.utils
import ipaddress
import json
import logging
import random
import re
import ssl
import time
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar
from urllib.parse import urlsplit

import anyio
import httpx2

from datamodules.files.printable import printable
from lightning_modules.endpoint.errors import EndpointError, RequestFailed
from lightning_modules.endpoint.key import EndpointKey

Answer = TypeVar("Answer")

_PASSING = {408, 409, 425, 429}
"""Statuses below 500 after which the same request may succeed later."""

_ABOUT_THE_TEXT = {400, 413, 422}
"""Statuses that may be about this one text: too long, or refused by a filter."""

for _library in ("httpx2", "httpcore2"):
    # Below this they log what a server sends, which may be the key or steer a terminal.
    logging.getLogger(_library).setLevel(logging.WARNING)


class _Passing(Exception):
    """An attempt failed, and a later one may succeed.

    Args:
        reason: what happened.
        retry_after: seconds that the endpoint asks to wait; None if it does not say.
    """

    def __init__(self, reason: str, retry_after: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


class Unreadable(ValueError):
    """What an endpoint answered is not what was asked for; another attempt may bring it."""


class JsonEndpoint:
    """`POST {base_url}{path}` with a JSON body.

    Args:
        base_url: e.g. `http://localhost:8000/v1`.
        path: behind it, e.g. `/chat/completions`.
        max_bytes: largest answer; more is no answer.
        key_variable: environment variable with the key; None sends none. The default one is a key for a hosted
            service: it goes over https or to this machine only.
        timeout: seconds from an attempt's begin to the last byte of its answer.
        retries: further attempts after a failed one.
        backoff: seconds to wait after the first failure, doubled after each further one; each wait is shortened by a
            random part of up to a half, so that requests which failed together do not come back together.
        max_wait: longest wait in seconds.

    Raises:
        ValueError: an address or name of another form, or a number out of range.
    """

    def __init__(
        self,
        base_url: str,
        path: str,
        key_variable: str | None,
        timeout: float,
        retries: int,
        backoff: float,
        max_wait: float,
        max_bytes: int = 1 << 20,
    ) -> None:
        if timeout <= 0 or retries < 0 or backoff < 0 or max_wait < 0:
            raise ValueError(
                "Expected timeout > 0, retries >= 0, backoff >= 0 and max_wait >= 0; got "
                f"{timeout}, {retries}, {backoff}, {max_wait}."
            )
        self._is_local = _check_address(base_url)
        self.url = f"{base_url.rstrip('/')}{path}"
        self.key = EndpointKey(key_variable, is_safe=self._is_local or base_url.lower().startswith("https:"))
        self.timeout = timeout
        self.retries = retries
        self.backoff = backoff
        self.max_wait = max_wait
        self.max_bytes = max_bytes

    async def ask(
        self, body: dict[str, Any] | None, read: Callable[[bytes], Answer], on_retry: Callable[[], None]
    ) -> Answer:
        """The answer to a request.

        Args:
            body: the request; None asks by GET, without one.
            read: makes the answer of what came, or raises `Unreadable`.
            on_retry: called before each further attempt.

        Raises:
            RequestFailed: no reply to this request.
            EndpointError: there will be no reply to any.
        """
        payload = None if body is None else json.dumps(body).encode()
        for attempt in range(self.retries + 1):
            try:
                return read(await self._send(payload))
            except Unreadable as problem:
                reason, wait = str(problem), self._wait(attempt, None)
            except _Passing as failure:
                reason, wait = str(failure), self._wait(attempt, failure.retry_after)
            if attempt < self.retries:
                await anyio.sleep(wait)
                on_retry()
        raise RequestFailed(f"{self.url}: {reason} (attempt {attempt + 1} of {self.retries + 1}).")

    def _wait(self, attempt: int, retry_after: float | None) -> float:
        if retry_after is not None and retry_after > self.max_wait:
            raise EndpointError(
                f"{self.url} asks to wait {retry_after:.0f} s, longer than max_wait ({self.max_wait:g} s)."
            )
        own = min(self.max_wait, self.backoff * 2**attempt) * random.uniform(0.5, 1.0)
        return max(own, retry_after or 0.0)

    async def _send(self, payload: bytes | None) -> bytes:
        headers = {"Content-Type": "application/json", "User-Agent": "erv", "Accept-Encoding": "identity"}
        if (key := self.key.read()) is not None:
            headers["Authorization"] = f"Bearer {key}"
        # Chains are cut below: the library's own errors are not known to be free of what was sent.
        try:
            with anyio.fail_after(self.timeout):
                async with (
                    # A proxy for the outside world does not know this machine's own servers. Redirects are not
                    # followed: they would take the key along to wherever they point.
                    httpx2.AsyncClient(
                        timeout=None, follow_redirects=False, trust_env=not self._is_local, verify=_certificates()
                    ) as client,
                    client.stream(
                        "GET" if payload is None else "POST", self.url, content=payload, headers=headers
                    ) as response,
                ):
                    content = await self._read(response)
        except TimeoutError:
            raise _Passing(f"no whole answer within {self.timeout:g} s") from None
        except (httpx2.InvalidURL, ValueError, ImportError):
            raise EndpointError(
                f"{self.url} cannot be asked: HTTP_PROXY, HTTPS_PROXY or ALL_PROXY of the environment is no http:// or "
                "https:// address."
            ) from None
        except (httpx2.HTTPError, OSError) as error:
            cause = _root(error)
            if isinstance(cause, ssl.SSLCertVerificationError):
                raise EndpointError(f"{self.url} has no valid certificate: {cause.verify_message}.") from None
            raise _Passing(self._shown(f"{type(cause).__name__}: {cause}")) from None
        if not response.is_success:
            raise self._refusal(response.status_code, response.headers, content)
        return content

    async def _read(self, response: httpx2.Response) -> bytes:
        """The body as it was sent: what is packed although nobody asked for it is no JSON, and is not unpacked."""
        content = bytearray()
        async for part in response.aiter_raw():
            content += part
            if len(content) > self.max_bytes:
                raise _Passing(f"a reply of more than {self.max_bytes} bytes")
        return bytes(content)

    def _shown(self, text: str) -> str:
        """What came from the endpoint, as an error may show it."""
        return printable(self.key.hide(" ".join(text.split())))[:300]

    def _refusal(self, status: int, headers: httpx2.Headers, content: bytes) -> Exception:
        """The exception for an answer that is no success."""
        message = self._shown(_message(content))
        said = f": {message}" if message else ""
        if status in _PASSING or status >= 500:
            return _Passing(f"HTTP {status}{said}", _seconds(headers.get("Retry-After")))
        if status in (401, 403):
            # Services repeat part of a wrong key in their message.
            return EndpointError(f"{self.url} refuses access (HTTP {status}). {self.key.advice()}")
        if 300 <= status < 400:
            return EndpointError(
                f"{self.url} redirects to {self._shown(str(headers.get('Location')))}. Redirects are not followed, as "
                "they would take the key along: give the final address as base_url."
            )
        if status in _ABOUT_THE_TEXT:
            return RequestFailed(f"{self.url} refuses the request: HTTP {status}{said}.")
        return EndpointError(
            f"{self.url} refuses the request: HTTP {status}{said}. Check base_url (such as http://localhost:8000/v1) "
            "and model."
        )


def _check_address(base_url: str) -> bool:
    """Whether an address, which must be of the expected form, is on this machine."""
    parts = urlsplit(base_url)
    if "@" in parts.netloc:
        raise ValueError("base_url holds a user name or password. Put the key into an environment variable instead.")
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError(f"Expected base_url such as https://api.openai.com/v1; got {base_url!r}.")
    if re.search(r"\s", base_url):
        raise ValueError(f"base_url has white space in it: {base_url!r}.")
    try:
        return ipaddress.ip_address(parts.hostname).is_loopback
    except ValueError:
        return parts.hostname == "localhost"


@cache
def _certificates() -> ssl.SSLContext:
    """Whom to trust; to load it takes as long as a reply."""
    return httpx2.create_ssl_context()


def _root(error: BaseException) -> BaseException:
    """The error of the system or the protocol that a library's error is about."""
    while cause := error.__cause__ or error.__context__:
        error = cause
    return error


def _message(content: bytes) -> str:
    """What the endpoint says of an error."""
    text = content.decode("utf-8", "replace")
    try:
        return str(json.loads(text)["error"]["message"])
    except (ValueError, TypeError, LookupError, RecursionError):
        return text


def _seconds(retry_after: str | None) -> float | None:
    """Seconds of a Retry-After header, which is a number or a date; None for anything else."""
    if retry_after is None:
        return None
    if re.fullmatch(r"[0-9]{1,9}", retry_after.strip()):
        return float(retry_after)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None
