"""JSON as it is read everywhere: what Python's reader would guess, change or lose is refused."""

import json
import math
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn

from datamodules.files.printable import printable, whole_characters
from datamodules.files.text import decode_utf8, read_bytes, read_text

_MOST_DIGITS = 4000  # Python refuses some more, in words for programmers
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def parse_json(text: str, where: str) -> Any:
    """The value of a JSON text.

    Half a surrogate pair, which no file can hold, is a replacement character in it, and a key is `printable`.

    Args:
        text: of one value.
        where: file, or `file:row`, for messages.

    Raises:
        ValueError: no valid JSON; a key that is there twice; a number that is none or that Python does not hold; too
            many levels.
    """
    try:
        value = _loads(text)
        if _SURROGATE.search(text):
            value = _loads(whole_characters(json.dumps(value, ensure_ascii=False)))
    except json.JSONDecodeError as error:
        hint = " (Is there a comma after the last item? JSON has none there.)" if _ends_with_comma(text, error) else ""
        raise ValueError(f"{where}: not valid JSON: {error}.{hint}") from error
    except RecursionError as error:
        raise ValueError(f"{where}: not valid JSON here: more levels inside each other than can be read.") from error
    except ValueError as error:
        raise ValueError(f"{where}: not valid JSON here: {error}.") from error
    return value


def read_json(path: str | Path) -> Any:
    """Content of a JSON file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: see `parse_json` and `read_text`.
    """
    return parse_json(read_text(path), str(path))


def read_json_object(path: str | Path) -> dict[str, Any]:
    """Content of a JSON file that holds an object, such as a model's `config.json`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it holds something else; see `parse_json` and `read_text`.
    """
    value = read_json(path)
    if not isinstance(value, dict):
        raise ValueError(f"{path}: got {shown(value)}. Expected a JSON object: {{...}}.")
    return value


def read_json_lines(path: str | Path) -> Iterator[tuple[Any, str]]:
    """Values of a JSONL file, one per line, and their `file:line`; blank lines are passed over.

    Raises:
        FileNotFoundError: no such file.
        ValueError: see `parse_json`; another encoding. Names file and line.
    """
    for number, line in enumerate(read_bytes(path).split(b"\n"), start=1):
        if line.strip():
            where = f"{path}:{number}"
            yield parse_json(decode_utf8(line, str(path), number), where), where


def shown(value: Any, length: int = 80) -> str:
    """A value of a JSON file, as a message shows it."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return printable(text if len(text) <= length else f"{text[:length]}...")


def _loads(text: str) -> Any:
    return json.loads(
        text,
        object_pairs_hook=_without_repeats,
        parse_constant=_refuse_constant,
        parse_float=_finite,
        parse_int=_whole,
    )


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = {_name(key): value for key, value in pairs}
    if len(content) < len(pairs):
        keys = [_name(key) for key, _ in pairs]
        twice = shown(next(key for key in keys if keys.count(key) > 1))
        raise ValueError(f"the key {twice} is there twice, in {shown(content, 120)}")
    return content


@lru_cache(maxsize=1024)  # most keys are the same few
def _name(key: str) -> str:
    return printable(key)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON's")


def _whole(digits: str) -> int:
    if len(digits) > _MOST_DIGITS:
        raise ValueError(f"a number of {len(digits):,} digits")
    return int(digits)


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"the number {digits:.20} is too large")
    return value


def _ends_with_comma(text: str, error: json.JSONDecodeError) -> bool:
    return text[: error.pos].rstrip().endswith(",") and text[error.pos : error.pos + 1] in ("]", "}", "")
