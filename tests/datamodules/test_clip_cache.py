"""Decoded clips on disk: equal to the last bit, keyed by all that matters, and no harm from broken files."""

import os
import pickle
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import DataLoader

from datamodules import clip_cache
from datamodules.clip_cache import ClipCache
from datamodules.clip_dataset import ClipDataset
from datamodules.clip_source import ClipRecord
from datamodules.media import DecodedClip, decode_clip
from datamodules.media_settings import MediaSettings, MelSettings
from datamodules.mel import log_mel

pytestmark = pytest.mark.unit

SETTINGS = MediaSettings(num_frames=2, image_size=32, max_audio_seconds=1.0)
WITH_MEL = replace(SETTINGS, mel=MelSettings(num_bins=80, seconds=2))


@pytest.fixture
def cache(tmp_path: Path) -> ClipCache:
    return ClipCache(tmp_path / "cache", max_gigabytes=1.0)


def media_file(directory: Path, number: int = 0) -> Path:
    """A file for entries to belong to; what is in it is not read."""
    directory.mkdir(exist_ok=True)
    path = directory / f"{number}.mp4"
    path.write_bytes(b"some media")
    return path


def made_up(number: int) -> DecodedClip:
    """A clip under SETTINGS, told by its number."""
    generator = torch.Generator().manual_seed(number)
    frames = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8, generator=generator)
    return DecodedClip(
        frames, torch.randn(700, generator=generator), has_audio=True, duration_seconds=0.1 + 0.2 * (number + 1)
    )


def assert_same(loaded: DecodedClip | None, expected: DecodedClip) -> None:
    assert loaded is not None
    assert loaded.has_audio is expected.has_audio
    assert loaded.duration_seconds == expected.duration_seconds
    for field in ("frames", "waveform", "mel"):
        ours, theirs = getattr(loaded, field), getattr(expected, field)
        if theirs is None:
            assert ours is None, field
            continue
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape), field
        assert ours.contiguous().numpy().tobytes() == theirs.contiguous().numpy().tobytes(), field


def entries(cache: ClipCache) -> list[Path]:
    return sorted(cache.directory.glob("*/*.safetensors"))


@contextmanager
def no_warning() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.mark.parametrize("settings", [SETTINGS, WITH_MEL], ids=["waveform", "mel"])
@pytest.mark.parametrize("clip", ["av_stereo44k.mp4", "silent"])
def test_decoded_clip_comes_back_bit_for_bit(
    cache: ClipCache, tmp_path: Path, golden_media: Path, write_clip: Callable, clip: str, settings: MediaSettings
) -> None:
    path = write_clip(tmp_path / "silent.mp4", 1) if clip == "silent" else golden_media / clip
    decoded = decode_clip(path, settings)
    assert decoded.has_audio is (clip != "silent")
    assert decoded.duration_seconds == pytest.approx(0.4 if clip == "silent" else 1.8)
    assert cache.load(path, settings) is None
    assert cache.store(path, settings, decoded)
    assert_same(cache.load(path, settings), decoded)
    assert_same(ClipCache(cache.directory, 1.0).load(str(path), settings), decoded)


def test_frames_that_are_a_permuted_view_come_back(cache: ClipCache, tmp_path: Path) -> None:
    decoded = replace(made_up(0), frames=made_up(0).frames.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2))
    assert not decoded.frames.is_contiguous()
    path = media_file(tmp_path)
    cache.store(path, SETTINGS, decoded)
    assert_same(cache.load(path, SETTINGS), decoded)


def _constant_but_one(constant: float, frame: int, other: float) -> Tensor:
    mel = torch.full((80, 200), constant)
    mel[3, frame] = other
    return mel


MELS = {
    "sound to the end": torch.randn(80, 200),
    "silence": torch.full((80, 200), -1.5),
    "one bin differs in the last frame": _constant_but_one(-1.5, frame=199, other=2.0),
    "negative zero in the tail": _constant_but_one(0.0, frame=150, other=-0.0),
    "not a number": torch.full((80, 200), float("nan")),
}


@pytest.mark.parametrize("kind", MELS)
def test_mel_features_come_back_bit_for_bit(cache: ClipCache, tmp_path: Path, kind: str) -> None:
    decoded = replace(made_up(0), mel=MELS[kind])
    path = media_file(tmp_path)
    cache.store(path, WITH_MEL, decoded)
    assert_same(cache.load(path, WITH_MEL), decoded)


def test_constant_end_of_mel_features_takes_no_room(cache: ClipCache, tmp_path: Path) -> None:
    settings = replace(SETTINGS, mel=MelSettings())
    mel = log_mel(torch.randn(16_000), MelSettings())
    cache.store(media_file(tmp_path), settings, replace(made_up(0), mel=mel))
    assert mel.nbytes > 1_500_000
    assert entries(cache)[0].stat().st_size < 100_000  # 1 of 30 seconds has sound


OTHER_VALUES: dict[str, Any] = {
    "num_frames": 3,
    "image_size": 48,
    "frame_fit": "stretch",
    "max_audio_seconds": 2.0,
    "downmix": "mean",
    "mel": None,
}
OTHER_MEL_VALUES: dict[str, Any] = {"num_bins": 128, "seconds": 30}


@pytest.mark.parametrize("name", [field.name for field in fields(MediaSettings)])
def test_entry_belongs_to_every_media_setting(cache: ClipCache, tmp_path: Path, name: str) -> None:
    path = media_file(tmp_path)
    cache.store(path, WITH_MEL, replace(made_up(0), mel=torch.randn(80, 200)))
    assert cache.load(path, replace(WITH_MEL, **{name: OTHER_VALUES[name]})) is None
    assert cache.load(path, WITH_MEL) is not None


@pytest.mark.parametrize("name", [field.name for field in fields(MelSettings)])
def test_entry_belongs_to_every_mel_setting(cache: ClipCache, tmp_path: Path, name: str) -> None:
    path = media_file(tmp_path)
    cache.store(path, WITH_MEL, replace(made_up(0), mel=torch.randn(80, 200)))
    mel = replace(MelSettings(num_bins=80, seconds=2), **{name: OTHER_MEL_VALUES[name]})
    assert cache.load(path, replace(WITH_MEL, mel=mel)) is None


def test_entry_belongs_to_the_versions_of_the_decoders(
    cache: ClipCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = media_file(tmp_path)
    cache.store(path, SETTINGS, made_up(0))
    clip_cache._settings_key.cache_clear()
    monkeypatch.setattr(clip_cache, "version", lambda package: "99.0" if package == "torchcodec" else "1.0")
    assert cache.load(path, SETTINGS) is None
    clip_cache._settings_key.cache_clear()


@pytest.mark.parametrize("change", ["size", "modification time"])
def test_entry_of_a_changed_media_file_is_replaced(cache: ClipCache, tmp_path: Path, change: str) -> None:
    path = media_file(tmp_path)
    cache.store(path, SETTINGS, made_up(0))
    before = path.stat()
    if change == "size":
        path.write_bytes(b"some longer media")
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    else:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    with no_warning():
        assert cache.load(path, SETTINGS) is None
        assert cache.store(path, SETTINGS, made_up(1))
        assert_same(cache.load(path, SETTINGS), made_up(1))
    assert len(entries(cache)) == 1


def test_relative_and_absolute_path_are_one_entry(
    cache: ClipCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = media_file(tmp_path)
    cache.store(path, SETTINGS, made_up(0))
    monkeypatch.chdir(tmp_path)
    assert_same(cache.load("0.mp4", SETTINGS), made_up(0))


def test_missing_media_file_is_a_miss(cache: ClipCache, tmp_path: Path) -> None:
    with no_warning():
        assert cache.load(tmp_path / "missing.mp4", SETTINGS) is None


class Hostile:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


BROKEN_CONTENTS: dict[str, Callable[[bytes], bytes]] = {
    "truncated": lambda content: content[:-1],
    "cut in the header": lambda content: content[:20],
    "empty": lambda content: b"",
    "noise": lambda content: os.urandom(len(content)),
}
FRAMES, WAVEFORM = torch.zeros(2, 3, 32, 32, dtype=torch.uint8), torch.zeros(700)
OTHER_TENSORS = {
    "frames of another size": {"frames": FRAMES[..., :16], "waveform": WAVEFORM},
    "waveform of another type": {"frames": FRAMES, "waveform": WAVEFORM.int()},
    "no frames": {"waveform": WAVEFORM},
}
OTHER_METADATA = {"no duration": {"duration_seconds": None}, "duration in words": {"duration_seconds": "two seconds"}}


def _break(entry: Path, kind: str, executed: Path) -> None:
    if kind in BROKEN_CONTENTS:
        entry.write_bytes(BROKEN_CONTENTS[kind](entry.read_bytes()))
    elif kind in OTHER_TENSORS:
        with safe_open(entry, framework="pt") as file:
            metadata = file.metadata()
        save_file({name: tensor.contiguous() for name, tensor in OTHER_TENSORS[kind].items()}, entry, metadata)
    elif kind in OTHER_METADATA:
        with safe_open(entry, framework="pt") as file:
            metadata = {**file.metadata(), **OTHER_METADATA[kind]}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        save_file(tensors, entry, {name: value for name, value in metadata.items() if value is not None})
    else:
        torch.save(Hostile(executed), entry)


@pytest.mark.parametrize("kind", [*BROKEN_CONTENTS, *OTHER_TENSORS, *OTHER_METADATA, "pickle"])
def test_broken_entry_is_removed_with_one_warning_and_written_again(
    cache: ClipCache, tmp_path: Path, kind: str
) -> None:
    path = media_file(tmp_path)
    cache.store(path, SETTINGS, made_up(0))
    (entry,) = entries(cache)
    _break(entry, kind, tmp_path / "executed")
    with pytest.warns(UserWarning, match=f"{entry}: broken cache entry of {path} .*decoding the clip again") as caught:
        assert cache.load(path, SETTINGS) is None
    assert len(caught) == 1
    assert not entry.exists()
    with no_warning():
        assert cache.load(path, SETTINGS) is None
        assert cache.store(path, SETTINGS, made_up(0))
        assert_same(cache.load(path, SETTINGS), made_up(0))
    assert not (tmp_path / "executed").exists()


def test_hostile_file_of_the_broken_entry_test_does_run_code_when_unpickled(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Hostile(tmp_path / "executed")))
    assert (tmp_path / "executed").exists()


def test_copy_for_a_spawned_process_is_the_same_cache(cache: ClipCache, tmp_path: Path) -> None:
    copy = pickle.loads(pickle.dumps(cache))
    path = media_file(tmp_path)
    copy.store(path, SETTINGS, made_up(0))
    assert_same(cache.load(path, SETTINGS), made_up(0))


@pytest.mark.e2e
def test_workers_read_what_workers_stored_and_failures_are_not_stored(
    cache: ClipCache, tmp_path: Path, write_clip: Callable, bad_files: dict[str, Path]
) -> None:
    clips = [write_clip(tmp_path / f"{number}.mp4", number) for number in range(4)]
    records = [ClipRecord(path.stem, str(path), "happiness", None, "here") for path in (*clips, bad_files["truncated"])]
    dataset = ClipDataset(records, SETTINGS, "", "skip", cache_in_memory=False, cache=cache)
    loader = DataLoader(dataset, batch_size=None, num_workers=2)
    decoded = list(loader)
    assert len(entries(cache)) == 4
    for path in clips:  # no longer a video, but of the same size and time
        before = path.stat()
        path.write_bytes(bytes(before.st_size))
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    again = list(loader)
    assert [clip.failure is None for clip in again] == [True] * 4 + [False]
    for first, second in zip(decoded, again, strict=True):
        assert torch.equal(first.frames, second.frames)
        assert first.duration_seconds == second.duration_seconds
    assert [clip.duration_seconds for clip in again] == pytest.approx([0.4] * 4 + [0.0])
