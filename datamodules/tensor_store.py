"""Tensors on disk, shared by all workers, processes and later runs: a directory that never grows beyond a limit.

One safetensors file per entry, so that reading one never runs code. Entries are written under a temporary name and
renamed when complete; what a killed process leaves behind is removed when the directory is next opened.
"""

import errno
import os
import uuid
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import ClassVar, TypeVar

from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

_COUNTER_DIGITS = 20
_LOCK_SECONDS = 60.0  # the lock is held for well under a millisecond: who waits this long waits for a stopped process
_DISK_IS_FULL = {errno.ENOSPC, errno.EDQUOT}
_PRUNE_ABOVE, _PRUNE_TO = 0.9, 0.5  # shares of the limit

T = TypeVar("T")


class TensorStore:
    """A directory of named tensors with metadata. A subclass says what they are, and which file they stand in.

    When the limit is reached, new entries are not added, and those that are there stay: an epoch visits every clip
    once, so that dropping the least recently used one would drop each clip just before its turn. A fixed part of the
    corpus gives limit / size of the corpus in hits instead. Entries that are made in the same way share a subdirectory,
    so that those of another way can be removed; see `_prune_others`.

    Args:
        directory: made if it is not there. Nothing else may be in it.
        max_gigabytes: largest size of all its files together, in 10⁹ bytes. Where they are more, the least recently
            used ones are removed.

    Raises:
        ValueError: `max_gigabytes` is not positive.
        OSError: the directory cannot be made or written to, for another reason than a full disk, which is warned of.
    """

    content: ClassVar[str]
    """What is stored, in warnings."""

    remedy: ClassVar[str]
    """What happens to a clip whose entry is broken, in warnings."""

    def __init__(self, directory: str | Path, max_gigabytes: float) -> None:
        if not max_gigabytes > 0:
            raise ValueError(f"max_gigabytes must be above 0, got {max_gigabytes}.")
        self.directory = Path(directory).absolute()
        self.max_bytes = int(max_gigabytes * 1e9)
        self._failed = False  # the disk refused a write in this process: no further attempts
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            with self._lock():
                # Under the lock every temporary has its full size (see `_reserve`). One of a run that is writing right
                # now goes as well; that run then finds its temporary gone and does without the entry.
                for temporary in self.directory.glob("*/*.tmp"):
                    temporary.unlink(missing_ok=True)
                self._remove_oldest(self._entries(), down_to=self.max_bytes)
        except OSError as error:
            if error.errno not in _DISK_IS_FULL:
                raise
            self._go_without(error)

    def _get(
        self, entry: Path, restore: Callable[[dict[str, Tensor], dict[str, str]], T | None], owner: str
    ) -> T | None:
        """What an entry holds, or None if it is not stored or no longer valid.

        An entry that cannot be read is removed with a warning.

        Args:
            entry: `<directory>/<group>/<name>.safetensors`.
            restore: makes of tensors and metadata what was stored; None: no longer valid, which removes the entry.
                LookupError, ValueError and RuntimeError say that the entry is broken, FileNotFoundError that its owner
                is gone.
            owner: whose entry it is, for the warning.
        """
        try:
            with safe_open(entry, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            value = restore(tensors, metadata)
        except FileNotFoundError:
            return None
        except (SafetensorError, OSError, LookupError, ValueError, RuntimeError) as error:
            warnings.warn(f"{entry}: broken cache entry of {owner} ({error}); {self.remedy}.", stacklevel=3)
            value = None
        with suppress(OSError):  # a cache that only others may write can still be read
            if value is None:
                with self._lock():
                    self._remove(entry)
            else:
                os.utime(entry)  # time of the last use; the file system's own is often off
        return value

    def _put(self, entry: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> bool:
        """Add an entry; False, and no entry, where the limit is reached or the disk refuses.

        The disk's first refusal is warned of, and ends the storing of this process.

        Args:
            entry: `<directory>/<group>/<name>.safetensors`; replaced if it is there.
            tensors: contiguous, none of which shares memory with another.
            metadata: texts.
        """
        if self._failed:
            return False
        try:
            content = save(tensors, metadata)
            temporary = self._reserve(entry, len(content))
            return temporary is not None and self._write(temporary, entry, content)
        except OSError as error:
            self._go_without(error)
            return False

    def _go_without(self, error: OSError) -> None:
        self._failed = True
        warnings.warn(f"{self.directory}: cannot store {self.content} ({error}); going on without.", stacklevel=4)

    def _prune_others(self, keep: Path) -> int:
        """Make room for the entries of one subdirectory, where those of others fill the directory.

        From 90 % of the limit on, those are removed, least recently used first, until the directory is half full.

        Returns:
            the number of entries removed.
        """
        if self._failed:
            return 0
        with self._lock():
            if self._read_total() <= _PRUNE_ABOVE * self.max_bytes:
                return 0
            others = [entry for entry in self._entries() if entry.parent != keep]
            return self._remove_oldest(others, down_to=int(_PRUNE_TO * self.max_bytes))

    def _entries(self) -> list[Path]:
        return list(self.directory.glob("*/*.safetensors"))

    def _reserve(self, entry: Path, num_bytes: int) -> Path | None:
        """A temporary of the final size, so that whoever counts the directory sees the room taken; None if full."""
        temporary = entry.with_name(f"{entry.stem}.{uuid.uuid4().hex}.tmp")
        with self._lock():
            total = self._read_total() + num_bytes
            if total > self.max_bytes:
                return None
            # First counted, then made: a process killed in between leaves the total too high, never too low.
            self._write_total(total)
            try:
                entry.parent.mkdir(exist_ok=True)
                with temporary.open("xb") as file:
                    file.truncate(num_bytes)
            except OSError:
                temporary.unlink(missing_ok=True)
                self._write_total(total - num_bytes)
                raise
        return temporary

    def _write(self, temporary: Path, entry: Path, content: bytes) -> bool:
        """Fill a reserved temporary and give it its name; False if the cache was opened anew meanwhile."""
        try:
            # No new file where another opening of the cache has removed this one: it would not be counted.
            with temporary.open("r+b") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())  # else a power cut may leave the name with half of the content
            with self._lock():
                replaced = _size(entry)
                temporary.replace(entry)
                self._write_total(self._read_total() - replaced)
        except FileNotFoundError:
            return False
        except OSError:
            with suppress(OSError), self._lock():
                self._remove(temporary)
            raise
        return True

    def _remove(self, file: Path) -> None:
        """Remove a file, if it is there, from the directory and from the total; the lock is held."""
        num_bytes = _size(file)
        file.unlink(missing_ok=True)
        self._write_total(self._read_total() - num_bytes)

    def _remove_oldest(self, entries: list[Path], down_to: int) -> int:
        """Count the directory, and remove the least recently used of `entries` while it is above; the lock is held."""
        total = self._count()
        num_removed = 0
        for entry in sorted(entries, key=lambda entry: entry.stat().st_mtime_ns):
            if total <= down_to:
                break
            total -= _size(entry)
            entry.unlink(missing_ok=True)
            num_removed += 1
        self._write_total(total)
        return num_removed

    @property
    def _counter(self) -> Path:
        return self.directory / "total_bytes"

    def _count(self) -> int:
        files = [file for file in self.directory.rglob("*") if file != self._counter and file.is_file()]
        return _COUNTER_DIGITS + sum(_size(file) for file in files)

    def _read_total(self) -> int:
        """Bytes of all files, the counter's own included; counted where the counter is missing or broken."""
        try:
            return int(self._counter.read_bytes()[:_COUNTER_DIGITS])
        except (FileNotFoundError, ValueError):
            return self._count()

    def _write_total(self, total: int) -> None:
        # In place, and always of one length: a process killed here leaves a whole number.
        with self._counter.open("r+b" if self._counter.exists() else "xb") as file:
            file.write(b"%0*d" % (_COUNTER_DIGITS, total))

    @contextmanager
    def _lock(self) -> Iterator[None]:
        # A new lock object each time: one that was forked or pickled while held would not exclude anyone.
        with FileLock(self.directory / "lock", timeout=_LOCK_SECONDS, poll_interval=0.005):
            yield


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0
