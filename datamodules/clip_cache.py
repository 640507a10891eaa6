"""Decoded clips on disk: frames, waveform, duration and mel features, shared by all workers, processes and later runs.

One safetensors file per clip and settings, so that reading an entry never runs code. Entries are written under a
temporary name and renamed when complete; what a killed process leaves behind is removed when the cache is next opened.
"""

import hashlib
import json
import os
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import cache
from importlib.metadata import version
from pathlib import Path

import torch
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from datamodules.media import DecodedClip, MediaSettings

_FORMAT = 2  # raise it when decoding gives other values, or more of them, for the same settings
_DECODERS = ("av", "pillow", "torchcodec", "transformers")  # packages whose release may change a value, too
_COUNTER_DIGITS = 20
_LOCK_SECONDS = 60.0  # the lock is held for well under a millisecond: who waits this long waits for a stopped process
_PRUNE_ABOVE, _PRUNE_TO = 0.9, 0.5  # shares of the limit


class ClipCache:
    """A directory of decoded clips that never grows beyond a limit.

    An entry belongs to the absolute path, size and modification time of a media file, to all `MediaSettings`, and to
    the versions of the decoding packages; when one of them changes, the clip is decoded again.

    When the limit is reached, new clips are not added, and those that are there stay: an epoch visits every clip once,
    so that dropping the least recently used one would drop each clip just before its turn. A fixed part of the corpus
    gives limit / size of the corpus in hits instead. Room is made only at opening: for a lowered limit in the
    constructor, and for other settings in `prune`.

    Args:
        directory: of the cache; made if it is not there. Nothing else may be in it.
        max_gigabytes: largest size of all its files together, in 10⁹ bytes.

    Raises:
        ValueError: `max_gigabytes` is not positive.
        OSError: the directory cannot be made or written to.
    """

    def __init__(self, directory: str | Path, max_gigabytes: float) -> None:
        if not max_gigabytes > 0:
            raise ValueError(f"max_gigabytes must be above 0, got {max_gigabytes}.")
        self.directory = Path(directory).absolute()
        self.max_bytes = int(max_gigabytes * 1e9)
        self._failed = False  # the disk refused a write in this process: no further attempts
        self.directory.mkdir(parents=True, exist_ok=True)
        with self._lock():
            # Under the lock every temporary has its full size (see `_reserve`). One of a run that is writing right now
            # goes as well; that run then finds its temporary gone and does without the entry.
            for temporary in self.directory.glob("*/*.tmp"):
                temporary.unlink(missing_ok=True)
            self._remove_oldest(self._entries(), down_to=self.max_bytes)

    def load(self, path: str | Path, settings: MediaSettings) -> DecodedClip | None:
        """The decoded clip, equal to the last bit, or None if it is not stored or the media file has changed since.

        An entry that cannot be read is removed with a warning.

        Args:
            path: the media file.
            settings: how it is decoded.
        """
        entry = self._entry(path, settings)
        try:
            source = _source(path)
            with safe_open(entry, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            decoded = _restore(tensors, metadata, settings) if metadata.get("source") == source else None
        except FileNotFoundError:
            return None
        except (SafetensorError, OSError, LookupError, ValueError, RuntimeError) as error:
            warnings.warn(f"{entry}: broken cache entry of {path} ({error}); decoding the clip again.", stacklevel=2)
            decoded = None
        with suppress(OSError):  # a cache that only others may write can still be read
            if decoded is None:
                with self._lock():
                    self._remove(entry)
            else:
                os.utime(entry)  # time of the last use; the file system's own is often off
        return decoded

    def store(self, path: str | Path, settings: MediaSettings, decoded: DecodedClip) -> bool:
        """Add a decoded clip; False, and no entry, where the limit is reached or the disk refuses.

        The disk's first refusal is warned of, and ends the storing of this process.

        Args:
            path: the media file.
            settings: how it was decoded.
            decoded: what came of it.
        """
        if self._failed:
            return False
        entry = self._entry(path, settings)
        try:
            content = save(*_pack(decoded, _source(path)))
            temporary = self._reserve(entry, len(content))
            return temporary is not None and self._write(temporary, entry, content)
        except OSError as error:
            self._failed = True
            warnings.warn(f"{self.directory}: cannot store decoded clips ({error}); going on without.", stacklevel=2)
            return False

    def prune(self, settings: MediaSettings) -> int:
        """Make room for clips decoded with `settings`, where entries of other settings fill the cache.

        From 90 % of the limit on, those are removed, least recently used first, until the cache is half full.

        Returns:
            the number of entries removed.
        """
        keep = self.directory / _settings_key(settings)
        with self._lock():
            if self._read_total() <= _PRUNE_ABOVE * self.max_bytes:
                return 0
            others = [entry for entry in self._entries() if entry.parent != keep]
            return self._remove_oldest(others, down_to=int(_PRUNE_TO * self.max_bytes))

    def _entry(self, path: str | Path, settings: MediaSettings) -> Path:
        name = hashlib.sha256(os.fsencode(Path(path).absolute())).hexdigest()
        return self.directory / _settings_key(settings) / f"{name}.safetensors"

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


@cache
def _settings_key(settings: MediaSettings) -> str:
    """Name of the directory for entries of these settings."""
    versions = {package: version(package) for package in _DECODERS}
    description = json.dumps([_FORMAT, versions, asdict(settings)], sort_keys=True)
    return hashlib.sha256(description.encode()).hexdigest()


def _source(path: str | Path) -> str:
    status = Path(path).stat()
    return f"{status.st_size} bytes, modified at {status.st_mtime_ns} ns"


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0


def _pack(decoded: DecodedClip, source: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of an entry. Mel features end in one constant (there is no sound): stored as a number."""
    tensors = {"frames": decoded.frames.contiguous(), "waveform": decoded.waveform.contiguous()}
    metadata = {
        "source": source,
        "has_audio": json.dumps(decoded.has_audio),
        "duration_seconds": repr(decoded.duration_seconds),  # the shortest text that gives the same number again
    }
    if decoded.mel is not None:
        # Compared as bits, where 0.0 is not -0.0 and a NaN is itself.
        differs = (decoded.mel.view(torch.int32) != decoded.mel[-1, -1].view(torch.int32)).any(dim=0)
        num_stored = int(differs.nonzero().max()) + 1 if differs.any() else 0
        tensors["mel"] = decoded.mel[:, :num_stored].contiguous()
        tensors["mel_tail"] = decoded.mel[-1, -1].clone()
        metadata["num_mel_frames"] = str(decoded.mel.shape[1])
    return tensors, metadata


def _restore(tensors: dict[str, Tensor], metadata: dict[str, str], settings: MediaSettings) -> DecodedClip:
    """What `_pack` packed.

    Raises:
        LookupError, ValueError, RuntimeError: it does not hold what `settings` ask for.
    """
    frames, waveform, mel = tensors["frames"], tensors["waveform"], None
    expected = (settings.num_frames, 3, settings.image_size, settings.image_size)
    if frames.dtype != torch.uint8 or frames.shape != expected:
        raise ValueError(f"frames are {frames.dtype} {list(frames.shape)}, expected uint8 {list(expected)}")
    if waveform.dtype != torch.float32 or waveform.ndim != 1:
        raise ValueError(f"waveform is {waveform.dtype} {list(waveform.shape)}, expected float32 [S]")
    if settings.mel is not None:
        stored, tail = tensors["mel"], tensors["mel_tail"]
        mel = tail.expand(len(stored), int(metadata["num_mel_frames"])).clone()
        mel[:, : stored.shape[1]] = stored
    has_audio, duration_seconds = json.loads(metadata["has_audio"]) is True, float(metadata["duration_seconds"])
    return DecodedClip(frames, waveform, has_audio, duration_seconds, mel)
