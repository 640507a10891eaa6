"""The size limit of the cache of decoded clips, also with several writers, kill -9, and disks that refuse."""

import errno
import multiprocessing
import os
import resource
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock

from datamodules.clip_cache import ClipCache
from datamodules.media import DecodedClip
from datamodules.media_settings import MediaSettings

pytestmark = pytest.mark.unit

SETTINGS = MediaSettings(num_frames=2, image_size=32, max_audio_seconds=1.0)
ENTRY_BYTES = 10_000  # a little more than an entry of `made_up` takes


@pytest.fixture
def cache(tmp_path: Path) -> ClipCache:
    return ClipCache(tmp_path / "cache", max_gigabytes=1.0)


def media_files(directory: Path, count: int) -> list[Path]:
    """Files for entries to belong to; what is in them is not read."""
    directory.mkdir(exist_ok=True)
    paths = [directory / f"{number}.mp4" for number in range(count)]
    for path in paths:
        path.write_bytes(b"some media")
    return paths


def made_up(number: int) -> DecodedClip:
    """A clip of about 9 kB under SETTINGS, told by its number."""
    generator = torch.Generator().manual_seed(number)
    frames = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8, generator=generator)
    return DecodedClip(frames, torch.randn(700, generator=generator), has_audio=True, duration_seconds=1.5)


def holds(cache: ClipCache, path: Path, settings: MediaSettings = SETTINGS) -> bool:
    """Whether there is an entry for the clip, which must then be the one that its file's number makes up."""
    loaded = cache.load(path, settings)
    if loaded is None:
        return False
    expected = made_up(int(path.stem))
    assert torch.equal(loaded.frames, expected.frames)
    assert torch.equal(loaded.waveform, expected.waveform)
    return True


def entries(cache: ClipCache) -> list[Path]:
    return sorted(cache.directory.glob("*/*.safetensors"))


def temporaries(cache: ClipCache) -> list[Path]:
    return sorted(cache.directory.glob("*/*.tmp"))


def bytes_on_disk(directory: Path) -> int:
    with FileLock(directory / "lock"):  # nothing is renamed while we count
        return sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())


def counted(cache: ClipCache) -> int:
    return int((cache.directory / "total_bytes").read_text())


@contextmanager
def no_warning() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_full_cache_keeps_what_it_has(tmp_path: Path) -> None:
    cache = ClipCache(tmp_path / "cache", max_gigabytes=5 * ENTRY_BYTES / 1e9)
    paths = media_files(tmp_path / "media", 12)
    with no_warning():
        stored = [cache.store(path, SETTINGS, made_up(number)) for number, path in enumerate(paths)]
    assert stored == [True] * 5 + [False] * 7
    assert bytes_on_disk(cache.directory) == counted(cache) <= cache.max_bytes
    assert [holds(cache, path) for path in paths] == stored


def _used_at(cache: ClipCache, settings: MediaSettings, path: Path, seconds: int) -> None:
    os.utime(cache._entry(path, settings), (seconds, seconds))


def test_lowered_limit_removes_the_least_recently_used(tmp_path: Path, cache: ClipCache) -> None:
    paths = media_files(tmp_path / "media", 4)
    for number, path in enumerate(paths):
        cache.store(path, SETTINGS, made_up(number))
        _used_at(cache, SETTINGS, path, seconds=1_000_000 + number)
    cache.load(paths[0], SETTINGS)  # now the last one used
    smaller = ClipCache(cache.directory, max_gigabytes=2 * ENTRY_BYTES / 1e9)
    assert [holds(smaller, path) for path in paths] == [True, False, False, True]
    assert counted(smaller) == bytes_on_disk(cache.directory) <= smaller.max_bytes


def test_prune_gives_room_to_other_settings(tmp_path: Path) -> None:
    cache = ClipCache(tmp_path / "cache", max_gigabytes=10 * ENTRY_BYTES / 1e9)
    stretch = replace(SETTINGS, frame_fit="stretch")
    paths = media_files(tmp_path / "media", 11)
    for number, path in enumerate(paths[:9]):
        cache.store(path, SETTINGS, made_up(number))
        _used_at(cache, SETTINGS, path, seconds=1_000_000 + number)
    assert cache.prune(stretch) == 0  # not yet nearly full
    cache.store(paths[9], stretch, made_up(9))
    cache.store(paths[10], stretch, made_up(10))
    _used_at(cache, stretch, paths[9], seconds=1)
    assert cache.prune(stretch) > 0
    assert bytes_on_disk(cache.directory) == counted(cache) <= 0.5 * cache.max_bytes
    assert holds(cache, paths[9], stretch)  # the oldest, but of these settings
    kept = [holds(cache, path) for path in paths[:9]]
    assert kept == sorted(kept)  # the least recently used went first
    assert any(kept)


def test_limit_must_be_positive(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="max_gigabytes must be above 0, got 0"):
        ClipCache(tmp_path, 0)


def test_lost_or_broken_counter_is_counted_anew(cache: ClipCache, tmp_path: Path) -> None:
    first, *others = media_files(tmp_path, 4)
    cache.store(first, SETTINGS, made_up(0))
    counter = cache.directory / "total_bytes"
    for path, content in zip(others, (None, b"", b"not a number"), strict=True):
        counter.unlink() if content is None else counter.write_bytes(content)
        assert cache.store(path, SETTINGS, made_up(0))
        assert counted(cache) == bytes_on_disk(cache.directory)


def in_process(target: Callable, *args: Any) -> multiprocessing.Process:
    process = multiprocessing.get_context("fork").Process(target=target, args=args)
    process.start()
    return process


def _store_all(cache: ClipCache, paths: list[Path], repeats: int) -> None:
    torch.set_num_threads(1)
    for _ in range(repeats):
        for number, path in enumerate(paths):
            cache.store(path, SETTINGS, made_up(number))


def test_kill_while_storing_leaves_whole_entries_or_none(cache: ClipCache, tmp_path: Path) -> None:
    paths = media_files(tmp_path / "media", 10)
    for attempt in range(8):
        process = in_process(_store_all, cache, paths, 10_000)
        while not entries(cache):
            time.sleep(0.001)
        time.sleep(0.003 * attempt)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        with no_warning():
            for path in paths:
                holds(cache, path)  # equal to what was stored, if it is there
        assert counted(cache) >= bytes_on_disk(cache.directory)  # never too low: the limit holds
        cache = ClipCache(cache.directory, 1.0)
        assert not temporaries(cache)
        assert counted(cache) == bytes_on_disk(cache.directory)


def _die_before_the_rename(cache: ClipCache, path: Path) -> None:
    os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)
    cache.store(path, SETTINGS, made_up(0))


def test_what_a_killed_writer_leaves_is_counted_and_then_removed(cache: ClipCache, tmp_path: Path) -> None:
    path = media_files(tmp_path, 1)[0]
    in_process(_die_before_the_rename, cache, path).join()
    assert len(temporaries(cache)) == 1
    assert not entries(cache)
    assert counted(cache) == bytes_on_disk(cache.directory) > ENTRY_BYTES / 2
    assert cache.load(path, SETTINGS) is None
    reopened = ClipCache(cache.directory, 1.0)
    assert not temporaries(reopened)
    assert counted(reopened) == bytes_on_disk(cache.directory) < ENTRY_BYTES / 2


@pytest.mark.parametrize("moment", ["before it is filled", "after it is filled"])
def test_writer_whose_temporary_another_opening_removed_goes_on(
    cache: ClipCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    (path,) = media_files(tmp_path, 1)
    reserve = cache._reserve

    def reserve_and_open_elsewhere(entry: Path, num_bytes: int) -> Path | None:
        temporary = reserve(entry, num_bytes)
        ClipCache(cache.directory, 1.0)
        return temporary

    with monkeypatch.context() as patched, no_warning():
        if moment == "before it is filled":
            patched.setattr(cache, "_reserve", reserve_and_open_elsewhere)
        else:
            patched.setattr(os, "fsync", lambda descriptor: ClipCache(cache.directory, 1.0))
        assert not cache.store(path, SETTINGS, made_up(0))
    assert not entries(cache)
    assert counted(cache) == bytes_on_disk(cache.directory)
    assert cache.store(path, SETTINGS, made_up(0))


def test_processes_that_write_at_once_stay_under_the_limit(tmp_path: Path) -> None:
    cache = ClipCache(tmp_path / "cache", max_gigabytes=20 * ENTRY_BYTES / 1e9)
    paths = media_files(tmp_path / "media", 40)
    # The first two write the same clips, the third others.
    parts = [paths[:15], paths[:15], paths[15:]]
    processes = [in_process(_store_all, cache, part, 3) for part in parts]
    while any(process.is_alive() for process in processes):
        assert bytes_on_disk(cache.directory) <= cache.max_bytes
    assert [process.exitcode for process in processes] == [0, 0, 0]
    # Full, but for the room of clips that two processes were writing at once when others found none left.
    assert counted(cache) == bytes_on_disk(cache.directory) > cache.max_bytes - len(processes) * ENTRY_BYTES
    assert not temporaries(cache)


@contextmanager
def largest_file(num_bytes: int) -> Iterator[None]:
    """The operating system refuses to let any file of this process grow beyond a size."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextmanager
def full_disk() -> Iterator[None]:
    """No data reaches the disk, although the file could be made."""

    def refuse(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "fsync", refuse)
        yield


@pytest.mark.parametrize("refusal", [lambda: largest_file(ENTRY_BYTES // 2), full_disk], ids=["making", "writing"])
def test_refusal_of_the_disk_is_warned_of_once_and_ends_the_storing(
    cache: ClipCache, tmp_path: Path, refusal: Callable
) -> None:
    paths = media_files(tmp_path / "media", 3)
    cache.store(paths[0], SETTINGS, made_up(0))
    message = f"{cache.directory}: cannot store decoded clips .*going on without"
    with refusal(), pytest.warns(UserWarning, match=message) as caught:
        assert not cache.store(paths[1], SETTINGS, made_up(1))
    assert len(caught) == 1
    with no_warning():
        assert not cache.store(paths[2], SETTINGS, made_up(2))
        assert holds(cache, paths[0])
    assert not temporaries(cache)
    assert counted(cache) == bytes_on_disk(cache.directory)


def test_a_cache_on_a_full_disk_is_opened_and_gone_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (media,) = media_files(tmp_path / "media", 1)

    def refuse(store: ClipCache, total: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(ClipCache, "_write_total", refuse)
    with pytest.warns(UserWarning, match="cannot store decoded clips .*No space left on device.*going on without"):
        cache = ClipCache(tmp_path / "cache", max_gigabytes=1.0)
    assert not cache.store(media, SETTINGS, made_up(0)) and cache.prune(SETTINGS) == 0
    assert cache.load(media, SETTINGS) is None
