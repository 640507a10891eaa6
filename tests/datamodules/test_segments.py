"""Segments: frames and sound between two times of a file, wherever the file's own clock begins."""

from pathlib import Path

import numpy as np
import pytest

from datamodules.clip_cache import ClipCache
from datamodules.containers import MediaError
from datamodules.media import decode_clip
from datamodules.media_settings import MediaSettings
from datamodules.segments import Segment, failure_reason, split_media
from datamodules.video import frame_indices
from tests.media_files import FRAMES_PER_SECOND

pytestmark = pytest.mark.unit

NUM_FRAMES = 50
SETTINGS = MediaSettings(num_frames=4, image_size=32, max_audio_seconds=10.0)


def write_film(path: Path, video: str = "libx264", container: str | None = None) -> Path:
    """Two seconds that brighten from frame to frame; their sound is silent in the first one and loud in the second."""
    import av

    with av.open(str(path), "w", format=container) as output:
        pictures = output.add_stream(video, rate=FRAMES_PER_SECOND)
        pictures.width = pictures.height = 32
        pictures.pix_fmt = "yuv420p"
        sound = output.add_stream("pcm_s16le" if path.suffix in (".avi", ".mkv") else "aac", rate=16_000)
        for index in range(NUM_FRAMES):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 4 * index, np.uint8), format="rgb24")
            output.mux(pictures.encode(frame))
        samples = np.zeros((1, 32_000), np.int16)
        samples[:, 16_000:] = (8_000 * np.sin(np.arange(16_000) / 4)).astype(np.int16)
        for start in range(0, 32_000, 1_000):
            piece = av.AudioFrame.from_ndarray(samples[:, start : start + 1_000], format="s16", layout="mono")
            piece.sample_rate, piece.pts = 16_000, start
            output.mux(sound.encode(piece))
        output.mux(pictures.encode())
        output.mux(sound.encode())
    return path


@pytest.mark.parametrize("name", ["film.mp4", "film.mkv", "film.avi"])
@pytest.mark.parametrize(("start", "end"), [(0.4, 1.2), (1.2, None), (0.0, 0.8), (1.96, 2.2)])
def test_frames_and_sound_of_a_segment(name: str, start: float, end: float | None, tmp_path: Path) -> None:
    path = write_film(tmp_path / name, "mpeg4" if name.endswith("avi") else "libx264")
    clip = decode_clip(f"{path}{Segment(start, end).fragment}", SETTINGS)
    stop = min(2.0 if end is None else end, 2.0)
    available = range(round(start * 25), round(stop * 25))
    expected = [4.0 * available[i] for i in frame_indices(len(available), 4)]
    assert clip.frames.float().mean(dim=(1, 2, 3)).tolist() == pytest.approx(expected, abs=4)
    assert clip.duration_seconds == pytest.approx(stop - start, abs=0.001)
    loudness = clip.waveform.square()
    assert len(loudness) / 16_000 == pytest.approx(stop - start, abs=0.1)
    loud = max(stop - max(start, 1.0), 0.0)
    assert float((loudness > 1e-4).float().sum()) / 16_000 == pytest.approx(loud, abs=0.15)


def test_a_segment_between_two_frames_is_the_one_on_show(tmp_path: Path) -> None:
    path = write_film(tmp_path / "film.mp4")
    clip = decode_clip(f"{path}#t=1.01,1.03", SETTINGS)
    assert clip.frames.float().mean(dim=(1, 2, 3)).tolist() == pytest.approx([100.0] * 4, abs=4)


@pytest.mark.parametrize(("fragment", "shown"), [("#t=2,3", "2–3 s"), ("#t=1,2.6", "1–2.6 s"), ("#t=7", "7–end s")])
def test_a_segment_outside_the_file(fragment: str, shown: str, tmp_path: Path) -> None:
    path = write_film(tmp_path / "film.mp4")
    with pytest.raises(MediaError) as caught:
        decode_clip(f"{path}{fragment}", SETTINGS)
    reason = failure_reason(caught.value, f"{path}{fragment}")
    assert reason == f"the segment {shown} is not within the file, which lasts 2.00 s. Correct its start and end"


def test_the_cache_tells_segments_apart(tmp_path: Path) -> None:
    path, cache = write_film(tmp_path / "film.mp4"), ClipCache(tmp_path / "cache", 1.0)
    names = [f"{path}#t=0,1", f"{path}#t=1,2", str(path)]
    for name in names:
        assert cache.load(name, SETTINGS) is None
        assert cache.store(name, SETTINGS, decode_clip(name, SETTINGS))
    first, second, whole = (cache.load(name, SETTINGS) for name in names)
    assert first.frames.float().mean() < whole.frames.float().mean() < second.frames.float().mean()
    path.write_bytes(path.read_bytes() + b"\0")
    assert all(cache.load(name, SETTINGS) is None for name in names), "the file has changed"


def test_fragments_are_read_back() -> None:
    for segment in (Segment(0.0, 1.5), Segment(3.25), Segment(1e-5, 7200.0)):
        assert split_media(f"a/b.mp4{segment.fragment}") == ("a/b.mp4", segment)
    for name in ("a.mp4", "a#t=.mp4", "a.mp4#t=x", "a.mp4#t=1,2.mp4", "#t"):
        assert split_media(name) == (name, None)
