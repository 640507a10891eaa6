"""Requests to an OpenAI-compatible chat-completions endpoint, repeated with growing pauses where that may help.

The key comes from the environment at each request. Nothing that leaves this module holds it: no error, no reply.
"""

import email.utils
import ipaddress
import json
import os
import random
import re
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, ProxyHandler, Request, build_opener

from datamodules.files.printable import whole_characters

DEFAULT_KEY_VARIABLE = "OPENAI_API_KEY"

_MAX_BYTES = 1 << 20
"""A reply of a few words is a thousandth of this: more is no reply."""

_PASSING = {408, 409, 425, 429}
"""Statuses below 500 after which the same request may succeed later."""

_ABOUT_THE_TEXT = {400, 413, 422}
"""Statuses that may be about this one text: too long, or refused by a filter."""


class EndpointError(RuntimeError):
    """The endpoint cannot be used like this: asking for more would be in vain."""


class RequestFailed(EndpointError):
    """One request has no reply, after all attempts or because the endpoint refuses its text."""


class Stopped(EndpointError):
    """A request was not made, or not made again, as the run has ended."""


class _Passing(Exception):
    """An attempt failed, and a later one may succeed.

    Args:
        reason: what happened.
        retry_after: seconds that the endpoint asks to wait; None if it does not say.
    """

    def __init__(self, reason: str, retry_after: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


class _NoRedirect(HTTPRedirectHandler):
    """A redirect would take the key along to wherever it points."""

    def redirect_request(self, *args: Any) -> None:
        return None


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


class ChatEndpoint:
    """`POST {base_url}/chat/completions`.

    Args:
        base_url: up to and including the version, e.g. `http://localhost:8000/v1`.
        key_variable: environment variable with the key; None sends none. The default one is a key for a hosted
            service: it goes over https or to this machine only.
        timeout: seconds without a byte after which an attempt is given up.
        retries: further attempts after a failed one.
        backoff: seconds to wait after the first failure, doubled after each further one; each wait is shortened by a
            random part of up to a half, so that requests which failed together do not come back together.
        max_wait: longest wait in seconds.

    Raises:
        ValueError: an address or name of another form, or a number out of range.
    """

    def __init__(
        self, base_url: str, key_variable: str | None, timeout: float, retries: int, backoff: float, max_wait: float
    ) -> None:
        if timeout <= 0 or retries < 0 or backoff < 0 or max_wait < 0:
            raise ValueError(
                "Expected timeout > 0, retries >= 0, backoff >= 0 and max_wait >= 0; got "
                f"{timeout}, {retries}, {backoff}, {max_wait}."
            )
        # What was given is not repeated: it may be the key itself.
        if key_variable is not None and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", key_variable):
            raise ValueError("key_variable is no name of an environment variable. Give the name, never the key itself.")
        self._is_local = _check_address(base_url)
        self._is_encrypted = base_url.lower().startswith("https:")
        self.url = f"{base_url.rstrip('/')}/chat/completions"
        self.key_variable = key_variable
        self.timeout = timeout
        self.retries = retries
        self.backoff = backoff
        self.max_wait = max_wait

    def complete(self, body: dict[str, Any], stopped: threading.Event, on_retry: Callable[[], None]) -> Reply:
        """The reply to a request.

        Args:
            body: the request.
            stopped: once set, no attempt is made.
            on_retry: called before each further attempt.

        Raises:
            RequestFailed: no reply to this request.
            Stopped: `stopped` was set.
            EndpointError: there will be no reply to any.
        """
        payload = json.dumps(body).encode()
        for attempt in range(self.retries + 1):
            if stopped.is_set():
                raise Stopped(f"{self.url}: stopped.")
            try:
                return self._post(payload)
            except _Passing as failure:
                reason, wait = str(failure), self._wait(attempt, failure.retry_after)
            if attempt < self.retries and not stopped.wait(wait):
                on_retry()
        raise RequestFailed(f"{self.url}: {reason} (attempt {attempt + 1} of {self.retries + 1}).")

    def _wait(self, attempt: int, retry_after: float | None) -> float:
        if retry_after is not None and retry_after > self.max_wait:
            raise EndpointError(
                f"{self.url} asks to wait {retry_after:.0f} s, longer than max_wait ({self.max_wait:g} s)."
            )
        own = min(self.max_wait, self.backoff * 2**attempt) * random.uniform(0.5, 1.0)
        return max(own, retry_after or 0.0)

    def _post(self, payload: bytes) -> Reply:
        headers = {"Content-Type": "application/json", "User-Agent": "erv"}
        if (key := self.key()) is not None:
            headers["Authorization"] = f"Bearer {key}"
        request = Request(self.url, data=payload, headers=headers, method="POST")
        # A proxy for the outside world does not know this machine's own servers.
        opener = build_opener(_NoRedirect, *([ProxyHandler({})] if self._is_local else []))
        # Chains are cut below: the library's own errors are not known to be free of what was sent.
        try:
            with opener.open(request, timeout=self.timeout) as response:
                content = response.read(_MAX_BYTES + 1)
        except HTTPError as error:
            raise self._refusal(error) from None
        except (OSError, HTTPException) as error:
            cause = error.reason if isinstance(error, URLError) else error
            if isinstance(cause, ssl.SSLCertVerificationError):
                raise EndpointError(f"{self.url} has no valid certificate: {cause.verify_message}.") from None
            raise _Passing(self._without_key(f"{type(cause).__name__}: {cause}")) from None
        return _read_reply(content)

    def key(self) -> str | None:
        """The key that is sent, or None.

        Raises:
            EndpointError: it cannot be one.
        """
        if self.key_variable is None or self._withholds_key:
            return None
        key = os.environ.get(self.key_variable, "").strip()
        if not re.fullmatch(r"[!-~]*", key):
            raise EndpointError(f"{self.key_variable} holds characters that no key has. Set it again.")
        return key or None

    @property
    def _withholds_key(self) -> bool:
        return self.key_variable == DEFAULT_KEY_VARIABLE and not self._is_encrypted and not self._is_local

    def _without_key(self, text: str) -> str:
        key = self.key()
        return text if key is None else text.replace(key, "***")

    def _refusal(self, error: HTTPError) -> Exception:
        """The exception for an answer with a status other than 200."""
        status = error.code
        said = self._without_key(_message(error))
        if status in _PASSING or status >= 500:
            return _Passing(f"HTTP {status}{said}", _seconds(error.headers.get("Retry-After")))
        if status in (401, 403):
            # Services repeat part of a wrong key in their message.
            return EndpointError(f"{self.url} refuses access (HTTP {status}). {self._key_advice()}")
        if 300 <= status < 400:
            target = self._without_key(str(error.headers.get("Location")))
            return EndpointError(
                f"{self.url} redirects to {target}. Redirects are not followed, as they would take the key along: "
                "give the final address as base_url."
            )
        if status in _ABOUT_THE_TEXT:
            return RequestFailed(f"{self.url} refuses the request: HTTP {status}{said}.")
        return EndpointError(
            f"{self.url} refuses the request: HTTP {status}{said}. Check base_url (such as http://localhost:8000/v1) "
            "and model."
        )

    def _key_advice(self) -> str:
        if self._withholds_key:
            return (
                f"{DEFAULT_KEY_VARIABLE} is sent over https or to this machine only: put this server's own key into "
                "another environment variable and name it with key_variable."
            )
        if self.key() is None:
            return f"No key was sent: put it into the environment variable {self.key_variable or DEFAULT_KEY_VARIABLE}."
        return f"Check the key in the environment variable {self.key_variable}."


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


def _read_reply(content: bytes) -> Reply:
    if len(content) > _MAX_BYTES:
        raise _Passing(f"a reply of more than {_MAX_BYTES} bytes")
    try:
        answer = json.loads(content)
        text = answer["choices"][0]["message"]["content"]
        usage = answer.get("usage") or {}
        tokens = [int(usage.get(name) or 0) for name in ("prompt_tokens", "completion_tokens")]
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        raise _Passing("the reply is no chat completion in JSON") from None
    if text is not None and not isinstance(text, str):
        raise _Passing("the reply's message is no text")
    return Reply(whole_characters(text or ""), *tokens)


def _message(error: HTTPError) -> str:
    """What the endpoint says of an error, as `: text`; empty where it says nothing."""
    try:
        content = error.read(_MAX_BYTES).decode("utf-8", "replace")
    except (OSError, HTTPException):
        return ""
    try:
        said = json.loads(content)["error"]["message"]
    except (ValueError, TypeError, LookupError, RecursionError):
        said = content
    said = " ".join(str(said).split())
    return f": {said[:300]}" if said else ""


def _seconds(retry_after: str | None) -> float | None:
    """Seconds of a Retry-After header, which is a number or a date; None for anything else."""
    if retry_after is None:
        return None
    if re.fullmatch(r"\d{1,9}", retry_after.strip()):
        return float(retry_after)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time())
    except ValueError:
        return None
