"""The key to an endpoint: read from the environment at each request, hidden in all that comes back."""

import base64
import html
import json
import os
import re
import string
from itertools import groupby
from operator import itemgetter
from urllib.parse import quote

from lightning_modules.endpoint.errors import EndpointError

DEFAULT_KEY_VARIABLE = "OPENAI_API_KEY"

_PART = 12
"""Characters of a key, or of an encoding of it, that are known as a part of it."""

_SHORT = 8
"""A shorter key, such as `EMPTY`, is looked for as a whole word only: as a part of words it means something else."""

_LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)


class EndpointKey:
    """The key in an environment variable.

    Args:
        variable: name of the variable; None: no key is sent.
        is_safe: whether what is sent is encrypted or stays on this machine. Else the default key, which is one for a
            hosted service, is not sent.

    Raises:
        ValueError: no name of a variable.
    """

    def __init__(self, variable: str | None, is_safe: bool) -> None:
        # What was given is not repeated: it may be the key itself.
        if variable is not None and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", variable):
            raise ValueError("key_variable is no name of an environment variable. Give the name, never the key itself.")
        self.variable = variable
        self._is_withheld = variable == DEFAULT_KEY_VARIABLE and not is_safe

    def read(self) -> str | None:
        """The key that is sent, or None.

        Raises:
            EndpointError: it cannot be one.
        """
        if self.variable is None or self._is_withheld:
            return None
        key = os.environ.get(self.variable, "").strip()
        if not re.fullmatch(r"[!-~]*", key):
            raise EndpointError(f"{self.variable} holds characters that no key has. Set it again.")
        return key or None

    def hide(self, text: str) -> str:
        """A text of the endpoint's with `***` for the key: an endpoint, or an error of it, may repeat what it was sent.

        Hidden are the key and parts of it of 12 characters or more, in any case of its letters: as it is, as escapes of
        URLs, JSON and HTML, in hexadecimal digits, in Base64 alone or inside something longer, and backwards.
        """
        key = self.read()
        if key is None:
            return text
        if len(key) < _SHORT:
            return re.sub(rf"(?<!\w){re.escape(key)}(?!\w)", "***", text)
        parts: dict[int, set[str]] = {}
        for form in _forms(key):
            size = min(len(form), _PART)
            parts.setdefault(size, set()).update(form[i : i + size] for i in range(len(form) - size + 1))
        lower, hidden = text.translate(_LOWER), bytearray(len(text))
        for size, own in parts.items():
            for i in range(len(text) - size + 1):
                if lower[i : i + size] in own:
                    hidden[i : i + size] = b"\x01" * size
        runs = groupby(zip(hidden, text, strict=True), key=itemgetter(0))
        return "".join("***" if is_key else "".join(character for _, character in run) for is_key, run in runs)

    def advice(self) -> str:
        """What may help where access is refused."""
        if self._is_withheld:
            return (
                f"{DEFAULT_KEY_VARIABLE} is sent over https or to this machine only: put this server's own key into "
                "another environment variable and name it with key_variable."
            )
        if self.read() is None:
            return f"No key was sent: put it into the environment variable {self.variable or DEFAULT_KEY_VARIABLE}."
        return f"Check the key in the environment variable {self.variable}."


def _forms(key: str) -> list[str]:
    """Spellings of a key, letters in lower case."""
    given = key.encode()
    spelt = [key, key[::-1], quote(key, safe=""), html.escape(key), json.dumps(key)[1:-1], given.hex(), given.hex(" ")]
    spelt += ["".join(pattern.format(code) for code in given) for pattern in ("%{:02x}", "\\u{:04x}", "\\x{:02x}")]
    spelt += ["".join(pattern.format(code) for code in given) for pattern in ("&#{};", "&#x{:x};")]
    for before in range(3):  # bytes that the key follows, modulo the three that make four characters
        encoded = base64.b64encode(bytes(before) + given).decode()
        own = encoded[-(-before * 4 // 3) : (before + len(given)) * 4 // 3]
        spelt += [own, own.replace("+", "-").replace("/", "_")]
    return [form.translate(_LOWER) for form in spelt]
