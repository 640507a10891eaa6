"""Files with changed bytes, of many containers and codecs: each ends as a clip or as a named error, none ends a run."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from datamodules import clip_dataset
from datamodules.clip_dataset import ClipDataset
from datamodules.clip_source import ClipRecord
from datamodules.containers import MediaError
from datamodules.media import import_decoders
from datamodules.media_settings import MediaSettings
from tests.media_files import encode

pytestmark = pytest.mark.unit

KINDS = {  # name: container, codec of the pictures, codec of the sound
    "h264.mp4": ("mp4", "libx264", "aac"),
    "mpeg4.mp4": ("mp4", "mpeg4", "ac3"),
    "vp9.mp4": ("mp4", "libvpx-vp9", "libopus"),
    "mjpeg.mov": ("mov", "mjpeg", "pcm_s16be"),
    "prores.mov": ("mov", "prores_ks", "alac"),
    "mpeg4.3gp": ("3gp", "mpeg4", "aac"),
    "mpeg4.avi": ("avi", "mpeg4", "libmp3lame"),
    "mjpeg.avi": ("avi", "mjpeg", "pcm_s16le"),
    "h264.mkv": ("matroska", "libx264", "flac"),
    "ffv1.mkv": ("matroska", "ffv1", "pcm_f32le"),
    "vp8.webm": ("webm", "libvpx", "libopus"),
    "h264.flv": ("flv", "libx264", "aac"),
    "flv1.flv": ("flv", "flv", "libmp3lame"),
    "h264.ts": ("mpegts", "libx264", "aac"),
    "mpeg2.ts": ("mpegts", "mpeg2video", "mp2"),
    "mpeg1.mpg": ("mpeg", "mpeg1video", "mp2"),
    "wmv2.wmv": ("asf", "wmv2", "wmav2"),
    "vp8.ogg": ("ogg", "libvpx", "flac"),
    "h264.h264": ("h264", "libx264", None),
}
FILES_PER_KIND = 40
EXTREMES = [bytes(4), b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x80\x00\x00\x00", b"\x00\x00\x00\x01"]


def changed(content: bytes, draw: random.Random) -> bytes:
    """The bytes of a file after one of the things that happen to files, or that somebody does to them."""
    damaged = bytearray(content)
    reach = len(content) if draw.random() < 0.5 else min(1024, len(content))  # headers as often as all the rest
    match draw.randrange(5):
        case 0:
            for _ in range(draw.choice([1, 3, 10, 60])):
                damaged[draw.randrange(reach)] = draw.randrange(256)
        case 1:
            for _ in range(draw.choice([1, 2, 5])):
                start = draw.randrange(max(reach - 4, 1))
                damaged[start : start + 4] = draw.choice(EXTREMES)
        case 2:
            start = draw.randrange(reach)
            damaged[start : start + draw.choice([1, 7, 200])] = b""
        case 3:
            start = draw.randrange(reach)
            damaged[start:start] = draw.randbytes(draw.choice([1, 7, 200]))
        case 4:
            start, source = draw.randrange(reach), draw.randrange(len(content))
            damaged[start : start + 64] = content[source : source + 64]
    return bytes(damaged)


def files(directory: Path, per_kind: int, seed: int) -> Iterator[Path]:
    """Write and name a sound file of each kind, whose name is in `KINDS`, and damaged copies of it."""
    for name, kind in KINDS.items():
        sound = encode(directory / name, *kind)
        yield sound
        content = sound.read_bytes()
        for number in range(per_kind):
            path = directory / f"{number}_{name}"
            path.write_bytes(changed(content, random.Random(f"{seed}/{name}/{number}")))
            yield path


def test_a_file_with_changed_bytes_is_a_clip_or_a_named_error(
    tmp_path: Path, settings: MediaSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clip_dataset, "RETRY_PAUSE_SECONDS", 0.0)
    import_decoders()
    paths = list(files(tmp_path, FILES_PER_KIND, seed=0))
    assert len(KINDS) >= 15 and len(KINDS) * FILES_PER_KIND >= 500
    records = [ClipRecord(path.name, str(path), None, None, "fuzz.csv:1") for path in paths]
    data = ClipDataset(records, settings, "Which?", "error", cache_in_memory=False, timeout_seconds=60.0)
    clips, errors = [], {}
    for index, path in enumerate(paths):
        try:
            clips.append(data[index])
        except MediaError as error:
            errors[path] = str(error)
    assert min(len(clips), len(errors)) > len(paths) // 5
    assert {clip.id for clip in clips} > set(KINDS)
    for clip in clips:
        assert clip.frames.shape == (2, 3, 32, 32)
        assert clip.duration_seconds > 0 and clip.waveform.isfinite().all()
    for path, message in errors.items():
        assert message.startswith(f"{path}: ") and "\n" not in message
