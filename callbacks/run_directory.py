"""A run directory: it belongs to one run at a time, and its files belong together."""

import errno
import fcntl
import json
import os
import shlex
import socket
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import IO

from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn

from callbacks.config_secrets import hide_secrets
from callbacks.run_files import CONFIG_FILE, RUN_FILE

LOCK_FILE = ".lock"
EARLIER = "earlier"
"""Within the run directory: results that a later run found there."""

_RESULTS = ("predictions*.jsonl", "metrics.json", "ablation.*")
_BESIDE_RESULTS = (
    CONFIG_FILE,
    RUN_FILE,
    "bad_clips.jsonl",
    "reliability.png",
    "threshold_sweep.png",
    "confusion.png",
)
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}


class RunDirectoryError(RuntimeError):
    """Another run writes to the directory."""


@contextmanager
def own_run_directory(directory: Path) -> Iterator[None]:
    """Keep a run directory for this process, and set aside the results of an earlier run.

    The lock is the operating system's, also on NFS, and ends with its process, however that ends. The file says who
    holds it.

    Args:
        directory: of the run; made if there is none.

    Raises:
        RunDirectoryError: another process has it; says which one.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / LOCK_FILE).open("a+", encoding="utf-8") as file:
        _lock(file, directory)
        if left := _holder(file):
            rank_zero_info(f"{directory} was last written by {left}, which did not come to its end.")
        file.truncate(0)
        json.dump(_this_process(), file)
        file.flush()
        set_aside(directory)
        try:
            yield
        finally:
            file.truncate(0)


def _lock(file: IO[str], directory: Path) -> None:
    try:
        # Unlike flock's, this lock is not inherited: workers that outlive a killed run do not hold it.
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        raise RunDirectoryError(
            f"{directory} is in use by {_holder(file) or 'another process'}: wait for its end, or choose another "
            "--trainer.default_root_dir."
        ) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        rank_zero_warn(f"{directory} is on a file system without locks ({error}): see that no other run writes there.")


def _this_process() -> dict[str, str | int]:
    command = textwrap.shorten(hide_secrets(shlex.join(sys.argv)), 200)
    started = datetime.now().astimezone().isoformat(timespec="seconds")
    return {"host": socket.gethostname(), "process": os.getpid(), "started": started, "command": command}


def _holder(file: IO[str]) -> str:
    """Who wrote the lock file last, in words; empty where nobody did, or it ended properly."""
    file.seek(0)
    try:
        holder = json.load(file)
        return "process {process} on {host}, started {started} as `{command}`".format_map(holder)
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""


def set_aside(directory: Path) -> None:
    """Move the results of an earlier run to `earlier/N/`, with its configuration; a run that fails leaves none."""
    if not any(path for pattern in _RESULTS for path in directory.glob(pattern)):
        return
    earlier = next_earlier(directory)
    for pattern in (*_RESULTS, *_BESIDE_RESULTS):
        for path in directory.glob(pattern):
            path.rename(earlier / path.name)
    rank_zero_info(f"Results of an earlier run are now in {earlier}.")


def next_earlier(directory: Path) -> Path:
    """A new `earlier/N/` in a run directory."""
    numbers = [int(path.name) for path in (directory / EARLIER).glob("*") if path.name.isdecimal()]
    earlier = directory / EARLIER / str(max(numbers, default=0) + 1)
    earlier.mkdir(parents=True)
    return earlier
