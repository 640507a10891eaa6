"""Text from outside, as screens and files may show it.

A name or a reply may hold bytes that steer a terminal (escape sequences), turn the reading order round, or are no
characters at all (half a surrogate pair, which Python makes of a file name in another encoding).
"""

import os
import re
from collections.abc import Iterable
from difflib import get_close_matches

_STEERING = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_STEERING_WITHIN_LINES = re.compile(_STEERING.pattern.replace("\x00-\x1f", "\x00-\x08\x0b-\x1f"))


def printable(text: str, multiline: bool = False) -> str:
    r"""The text with what steers a terminal, or is no character, as a visible escape: `\x1b`, `\u202e`, `\udcc4`.

    Args:
        text: anything.
        multiline: keep line feeds and tabs.
    """
    pattern = _STEERING_WITHIN_LINES if multiline else _STEERING
    return pattern.sub(lambda match: match[0].encode("unicode_escape", "backslashreplace").decode("ascii"), text)


def did_you_mean(name: str, known: Iterable[str], most: int = 1) -> str:
    """The sentence, behind a space, that names the nearest of what is known, `most` of it; empty if none is near."""
    near = get_close_matches(name, list(known), n=most)
    return f" Did you mean {' or '.join(near)}?" if near else ""


def whole_characters(text: str) -> str:
    """The text with a replacement character for each half of a surrogate pair, which no file can hold.

    JSON can spell such halves, and has them where a model's output was cut inside a character.
    """
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def readable_name(name: str) -> str:
    """A file's name or path as it is written and shown; itself where it is in UTF-8.

    A part of it in other bytes is read as GB18030, which a Chinese archive leaves when it is unpacked, else escaped.
    """
    return "/".join(printable(part if is_unicode(part) else _read_as_chinese(part)) for part in name.split("/"))


def is_unicode(text: str) -> bool:
    """Whether a text has only whole characters; a file's name has others where its bytes are no UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _read_as_chinese(name: str) -> str:
    try:
        return os.fsencode(name).decode("gb18030")
    except UnicodeError:
        return name


def clock_time(seconds: float) -> str:
    """Seconds as `m:ss` or `h:mm:ss`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
