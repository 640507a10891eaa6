"""Small real clips, and corpora made of them in the distributed layouts."""

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torchcodec.encoders import AudioEncoder, VideoEncoder

from datamodules.media_settings import MediaSettings

GOLDEN = Path(__file__).parents[1] / "golden" / "preprocess"


@pytest.fixture(scope="session")
def golden_media() -> Path:
    """Directory of the golden preprocessing values and their mp4 files."""
    return GOLDEN


@pytest.fixture(scope="session")
def settings() -> MediaSettings:
    """Two 32-pixel frames and one second of audio: enough to tell clips apart, quick to decode."""
    return MediaSettings(num_frames=2, image_size=32, max_audio_seconds=1.0)


def _encode(path: Path, grey: int) -> None:
    """A silent 64-pixel H.264 clip of 0.4 s whose grey level tells it from the others."""
    frames = torch.full((10, 3, 64, 64), grey, dtype=torch.uint8)
    VideoEncoder(frames=frames, frame_rate=25).to_file(str(path))


@pytest.fixture(scope="session")
def sample_clips(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """Four encoded clips of grey level 40, 80, 120 and 160."""
    directory = tmp_path_factory.mktemp("clips")
    contents = []
    for grey in (40, 80, 120, 160):
        path = directory / f"{grey}.mp4"
        _encode(path, grey)
        contents.append(path.read_bytes())
    return contents


@pytest.fixture
def write_clip(sample_clips: list[bytes]) -> Callable[[Path, int], Path]:
    """Write the clip of a number to a path."""

    def write(path: Path, number: int) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(sample_clips[number % len(sample_clips)])
        return path

    return write


@pytest.fixture
def bad_files(tmp_path: Path, golden_media: Path) -> dict[str, Path]:
    """Files that do not decode, by what is wrong with them."""
    good = (golden_media / "av_stereo44k.mp4").read_bytes()
    noise = random.Random(0)
    media_start, media_stop = good.index(b"mdat") + 200, good.index(b"moov") - 2000
    contents = {
        "zero bytes": b"",
        "truncated": good[:60_000],
        "not a video": b"these are words",
        "corrupt streams": good[:media_start] + noise.randbytes(media_stop - media_start) + good[media_stop:],
    }
    paths = {"missing": tmp_path / "missing.mp4"}
    for name, content in contents.items():
        paths[name] = tmp_path / f"{name.replace(' ', '_')}.mp4"
        paths[name].write_bytes(content)
    return paths


@pytest.fixture
def audio_only(tmp_path: Path) -> Path:
    """A stereo WAV at 16 kHz: 0.5 on the left, 0.1 on the right, for 0.5 s."""
    path = tmp_path / "sound.wav"
    samples: Tensor = torch.tensor([[0.5], [0.1]]).expand(2, 8000).contiguous()
    AudioEncoder(samples, sample_rate=16_000).to_file(str(path))
    return path


TRAIN_LABELS = {number: number % 7 + 1 for number in range(1, 29)}
"""DFEW clips 1..28, four of each class."""
TEST_LABELS = {number: number % 7 + 1 for number in range(29, 36)}


@pytest.fixture
def official_dfew(tmp_path: Path, write_clip: Callable[[Path, int], Path]) -> Path:
    """DFEW as distributed: 28 training and 7 test clips, in two `part_*` directories, padded ids in the CSV."""
    root = tmp_path / "DFEW"
    for split, labels in (("train", TRAIN_LABELS), ("test", TEST_LABELS)):
        rows = "".join(f"{number:05d},{label}\n" for number, label in labels.items())
        path = root / "EmoLabel_DataSplit" / f"{split}(single-labeled)" / "set_5.csv"
        path.parent.mkdir(parents=True)
        path.write_text("video_name,label\n" + rows)
        for number in labels:
            write_clip(root / "Clip" / "original" / f"part_{number % 2}" / f"{number}.mp4", number)
    return root


@pytest.fixture
def write_emer(tmp_path: Path, write_clip: Callable[[Path, int], Path]) -> Callable[[list], Path]:
    """An EMER root with the given JSON entries and a clip for each well-formed video path."""

    def write(entries: list) -> Path:
        root = tmp_path / "EMER"
        root.mkdir(exist_ok=True)
        (root / "EMER_cold_start.json").write_text(json.dumps(entries))
        for number, entry in enumerate(entries):
            if isinstance(entry, dict) and entry.get("video"):
                write_clip(root / "videos" / entry["video"], number)
        return root

    return write
