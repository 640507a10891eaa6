"""Files that hang, vanish or come back while clips are loaded."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from torch.utils.data import DataLoader

from datamodules import clip_dataset
from datamodules.batch import Clip
from datamodules.clip_dataset import ClipDataset
from datamodules.clip_source import ClipRecord
from datamodules.containers import MediaError, UnreadableError, check_file
from datamodules.media import DecodedClip, import_decoders
from datamodules.media_settings import MediaSettings

pytestmark = pytest.mark.unit


@pytest.fixture
def hanging(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file whose decoder waits for a pipe that nobody writes to; the decoding process, a fork, has it, too."""
    os.mkfifo(tmp_path / "pipe")
    path = tmp_path / "hanging.mp4"
    decode_clip = clip_dataset.decode_clip

    def decode(clip: str, settings: MediaSettings) -> DecodedClip:
        if clip == str(path):
            (tmp_path / "pipe").read_bytes()
        return decode_clip(clip, settings)

    monkeypatch.setattr(clip_dataset, "decode_clip", decode)
    return path


@pytest.fixture
def load(settings: MediaSettings) -> Callable[..., ClipDataset]:
    def make(*paths: Path, timeout_seconds: float | None = 60.0, on_undecodable: str = "skip") -> ClipDataset:
        records = [ClipRecord(path.stem, str(path), "anger", None, f"train.csv:{i}") for i, path in enumerate(paths)]
        return ClipDataset(records, settings, "Which?", on_undecodable, False, timeout_seconds=timeout_seconds)

    return make


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_decoder_that_hangs_costs_one_clip(
    load: Callable[..., ClipDataset],
    hanging: Path,
    write_clip: Callable[[Path, int], Path],
    tmp_path: Path,
    num_workers: int,
) -> None:
    import_decoders()
    paths = [write_clip(tmp_path / "a.mp4", 0), hanging, write_clip(tmp_path / "b.mp4", 1)]
    loader = DataLoader(
        load(*paths, timeout_seconds=3.0), batch_size=None, num_workers=num_workers, collate_fn=lambda clip: clip
    )
    clips: list[Clip] = list(loader)
    assert [clip.failure for clip in clips] == [None, "timed out after 3 s", None]
    assert clips[0].frames.float().mean() == pytest.approx(40, abs=4)
    assert clips[1].frames.sum() == 0 and clips[1].media == str(hanging)
    assert clips[2].frames.float().mean() == pytest.approx(80, abs=4)


def test_a_hang_is_fatal_by_choice(load: Callable[..., ClipDataset], hanging: Path) -> None:
    with pytest.raises(MediaError, match="hanging.mp4: timed out after 0.2 s"):
        load(hanging, timeout_seconds=0.2, on_undecodable="error")[0]


@pytest.mark.parametrize(("num_kills", "failure"), [(1, None), (2, "the decoder crashed (SIGKILL)")])
def test_a_clip_whose_decoder_is_killed_from_outside_is_read_again(
    load: Callable[..., ClipDataset],
    write_clip: Callable[[Path, int], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    num_kills: int,
    failure: str | None,
) -> None:
    killers = [tmp_path / f"killer_{number}" for number in range(num_kills)]
    for killer in killers:
        killer.touch()
    decode_clip = clip_dataset.decode_clip

    def decode(clip: str, settings: MediaSettings) -> DecodedClip:
        for killer in killers:
            if killer.exists():
                killer.unlink()
                os.kill(os.getpid(), signal.SIGKILL)
        return decode_clip(clip, settings)

    monkeypatch.setattr(clip_dataset, "decode_clip", decode)
    data = load(write_clip(tmp_path / "a.mp4", 0))
    assert data[0].failure == failure
    assert data[0].failure is None


@pytest.mark.parametrize("timeout_seconds", [None, 60.0])
def test_a_file_that_comes_back_is_read_after_a_pause(
    load: Callable[..., ClipDataset],
    write_clip: Callable[[Path, int], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    timeout_seconds: float | None,
) -> None:
    def mount_again(seconds: float) -> None:
        assert seconds == clip_dataset.RETRY_PAUSE_SECONDS
        write_clip(tmp_path / "a.mp4", 0)

    monkeypatch.setattr(clip_dataset, "time", SimpleNamespace(sleep=mount_again))
    assert load(tmp_path / "a.mp4", timeout_seconds=timeout_seconds)[0].failure is None


def test_the_pause_counts_in_the_time_of_a_clip(
    load: Callable[..., ClipDataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clip_dataset, "RETRY_PAUSE_SECONDS", 500.0)
    assert load(tmp_path / "gone.mp4", timeout_seconds=0.5)[0].failure == "timed out after 0.5 s"


def test_a_file_that_stays_away_is_tried_twice_and_a_broken_one_once(
    load: Callable[..., ClipDataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(clip_dataset, "time", SimpleNamespace(sleep=pauses.append))
    (tmp_path / "empty.mp4").touch()
    data = load(tmp_path / "gone.mp4", tmp_path / "empty.mp4", timeout_seconds=None)
    assert data[0].failure == "no such file" and len(pauses) == 1
    assert data[1].failure == "the file has zero bytes" and len(pauses) == 1


def test_what_the_system_refuses_to_read_is_a_failure_of_the_clip(tmp_path: Path) -> None:
    with pytest.raises(UnreadableError, match=r"xx.mp4: cannot be read \(File name too long\)"):
        check_file(tmp_path / f"{'x' * 300}.mp4")
