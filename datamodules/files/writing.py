"""Files that appear whole or not at all, and rows that no character keeps from being written."""

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from datamodules.files.printable import whole_characters


def require_directory(output: str, files: str) -> None:
    """Raise a ValueError where the directory that these files are to go into is a file."""
    if Path(output).is_file():
        raise ValueError(f"The output {output} is a file. Give a directory for {files}.")


@contextmanager
def written_whole(path: str | Path) -> Iterator[Path]:
    """A place to write a file to, which then appears whole or not at all: readers never see a part of it.

    Args:
        path: the file; its directory is made, and an earlier file is replaced.

    Returns:
        A path beside it, with its suffix; gone after an error.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}.{path.name[-200:]}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | Path, lines: Iterable[str]) -> None:
    """Write a text file whole or not at all.

    What is no character (half a surrogate pair) is written as an escape.

    Args:
        path: the file; its directory is made.
        lines: what it holds, each line without its newline.
    """
    with (
        written_whole(path) as temporary,
        temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="\n") as file,
    ):
        file.writelines(f"{line}\n" for line in lines)


def write_rows(path: str | Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write rows as JSONL, whole or not at all."""
    write_text(path, (json_line(row) for row in rows))


def json_line(row: dict[str, Any]) -> str:
    """A row as one line of JSONL, without the newline, that every reader takes.

    Half a surrogate pair, which no file can hold, becomes a replacement character.

    Raises:
        ValueError: a number that JSON does not have.
    """
    return _json_text(row)


def write_json(path: str | Path, value: Any) -> None:
    """Write a value as JSON, indented, whole or not at all; its characters as in `json_line`.

    Raises:
        ValueError: a number that JSON does not have.
    """
    write_text(path, [_json_text(value, indent=2)])


def _json_text(value: Any, indent: int | None = None) -> str:
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent)
    # Legal in JSON, but many readers take these characters for the end of a line.
    for separator in ("\u0085", "\u2028", "\u2029"):
        text = text.replace(separator, f"\\u{ord(separator):04x}")
    return whole_characters(text)
