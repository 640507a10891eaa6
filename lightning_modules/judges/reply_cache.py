"""Replies on disk: nothing is asked and paid for twice."""

import json
import logging
from pathlib import Path
from typing import Any

from datamodules.files.json_log import JsonLog
from lightning_modules.judges.chat import Reply, token_count

logger = logging.getLogger(__name__)


class ReplyCache:
    """A JSONL file of replies that only grows; threads and processes may share it.

    A line that a kill cut short is left as it is and skipped.

    Args:
        path: the file; made, with its directory, if it is not there.

    Raises:
        OSError: the file cannot be made or written to.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._log = JsonLog(path)
        self._replies: dict[str, Reply] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.open("ab").close()
        loaded = [self._load(row) for row in self._log.rows()]
        if not all(loaded):
            logger.warning("%s: %d of %d lines are cut or no replies; skipped.", path, loaded.count(False), len(loaded))

    def _load(self, row: dict[str, Any]) -> bool:
        try:
            key, text = row["key"], row["reply"]
            tokens = [token_count(row[name]) for name in ("prompt_tokens", "completion_tokens")]
        except (TypeError, LookupError):
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
        self._log.append(json.dumps(entry))
        self._replies[key] = reply
