"""JSONL files that only grow, and survive that their writer is killed."""

import json
import os
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any


class JsonLog:
    """A file of JSON objects, one per line; threads and processes may share it.

    Each line is one write at the end of the file, and in it when `append` returns. A kill costs at most the last line:
    what is left of it becomes a line of its own, which `rows` does not read, unless `drop_cut_line` takes it away.

    Args:
        path: the file; it need not exist, its directory must when a line is appended.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def rows(self) -> Iterator[dict[str, Any]]:
        """The object of each line that is not blank; an empty one where the line is cut, or anything else."""
        content = self.path.read_bytes() if self.path.is_file() else b""
        return (_object(line) or {} for line in content.split(b"\n") if line.strip())

    def drop_cut_line(self) -> bool:
        """Take the last line away if it is cut short; returns whether it was. For files that others read strictly."""
        if not self.path.is_file():
            return False
        with self.path.open("r+b") as file:
            content = file.read()
            end = content.rfind(b"\n") + 1
            is_cut = len(content) > end and _object(content[end:]) is None
            if is_cut:
                file.truncate(end)
        return is_cut

    def append(self, line: str) -> None:
        """Write a line.

        Args:
            line: a JSON object, without the newline.

        Raises:
            OSError: it cannot be written.
        """
        data = f"{line}\n".encode()
        # Unbuffered: the line goes out in one write, and lines of several processes do not mix.
        with self.path.open("ab+", buffering=0) as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                data = data if file.read(1) == b"\n" else b"\n" + data
            file.write(data)


def _object(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def json_digest(value: Any) -> str:
    """SHA-256 of a JSON value, whatever the order of its keys, as hexadecimal digits."""
    return sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
