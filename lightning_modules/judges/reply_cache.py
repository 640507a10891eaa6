"""Replies on disk: what was asked and paid for once is not asked again."""

import hashlib
import json
import logging
import threading
from pathlib import Path
from typing import Any

from lightning_modules.judges.chat import Reply, token_count

logger = logging.getLogger(__name__)


def reply_key(request: dict[str, Any]) -> str:
    """SHA-256 of a request (model, prompt and parameters, without address and key), as hexadecimal digits."""
    return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()


class ReplyCache:
    """A JSONL file of replies that only grows; threads and processes may share it.

    Each reply is one write at the end of the file. A line that a kill cut short is left as it is and skipped.

    Args:
        path: the file; made, with its directory, if it is not there.

    Raises:
        OSError: the file cannot be made or written to.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._replies: dict[str, Reply] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b") as file:
            file.seek(0)
            content = file.read()
        self._is_cut = bool(content) and not content.endswith(b"\n")
        lines = [line for line in content.split(b"\n") if line.strip()]
        num_unreadable = sum(not self._load(line) for line in lines)
        if num_unreadable:
            logger.warning("%s: %d of %d lines are cut or no replies; skipped.", path, num_unreadable, len(lines))

    def _load(self, line: bytes) -> bool:
        try:
            entry = json.loads(line)
            key, text = entry["key"], entry["reply"]
            tokens = [token_count(entry[name]) for name in ("prompt_tokens", "completion_tokens")]
        except (ValueError, TypeError, LookupError, RecursionError):
            return False
        if not isinstance(key, str) or not isinstance(text, str):
            return False
        self._replies[key] = Reply(text, *tokens)
        return True

    def get(self, key: str) -> Reply | None:
        """The reply with a key, or None."""
        return self._replies.get(key)

    def add(self, key: str, reply: Reply) -> None:
        """Keep a reply; it is in the file when this returns."""
        entry = {
            "key": key,
            "reply": reply.text,
            "prompt_tokens": reply.prompt_tokens,
            "completion_tokens": reply.completion_tokens,
        }
        with self._lock:
            line = f"{json.dumps(entry)}\n".encode()
            # Unbuffered: the line goes out in one write, and lines of several processes do not mix.
            with self.path.open("ab", buffering=0) as file:
                file.write(b"\n" + line if self._is_cut else line)
            self._is_cut = False
            self._replies[key] = reply
