"""Any folder of media files, without labels."""

import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from datamodules.clip_datamodule import ClipDataModule
from datamodules.clips import Clips
from datamodules.media_settings import MediaSettings

pytestmark = pytest.mark.unit


@pytest.fixture
def folder(tmp_path: Path, write_clip: Callable[[Path, int], Path]) -> Path:
    """Clips at two depths, two of which differ in their suffix only, beside other and hidden files."""
    root = tmp_path / "my clips"
    for number, name in enumerate(("b.mp4", "day 1/a.MP4", "day 1/c.mov", "day 1/c.mp4")):
        write_clip(root / name, number)
    for hidden in (".b.mp4", ".trash/d.mp4", "day 1/.cache/e.mp4"):
        write_clip(root / hidden, 0)
    for other in ("notes.txt", "day 1/more.TXT", "README"):
        (root / other).write_text("words")
    return root


def test_every_media_file_is_predicted_in_the_order_of_paths(folder: Path, settings: MediaSettings) -> None:
    data = ClipDataModule(Clips(str(folder), media=settings))
    data.setup("predict")
    (batch,) = data.predict_dataloader()
    assert batch.ids == ["b", "day 1/a", "day 1/c.mov", "day 1/c.mp4"]
    assert batch.media == [str(folder / name) for name in ("b.mp4", "day 1/a.MP4", "day 1/c.mov", "day 1/c.mp4")]
    assert batch.failures == [None] * 4
    assert [round(frames.float().mean().item() / 40) for frames in batch.frames] == [1, 2, 3, 4]
    assert batch.targets == batch.responses == [None] * 4
    assert batch.datasets == ["Clips"] * 4


def test_other_files_are_counted(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        ClipDataModule(Clips(str(folder))).setup("predict")
    assert "3 other files" in caplog.text
    assert "(.txt 2, no suffix 1)" in caplog.text
    assert "Clips predict: 4 clips (no labels)" in caplog.text


def test_a_name_in_another_encoding_is_readable_and_its_clip_is_read(
    tmp_path: Path, settings: MediaSettings, write_clip: Callable[[Path, int], Path]
) -> None:
    for number, name in enumerate(("开心.mp4".encode("gb18030"), b"caf\xe9.mp4", b"plain.mp4")):
        write_clip(tmp_path / os.fsdecode(name), number)
    data = ClipDataModule(Clips(str(tmp_path), media=settings))
    data.setup("predict")
    (batch,) = data.predict_dataloader()
    assert batch.failures == [None] * 3
    assert sorted(batch.ids) == ["caf\\udce9", "plain", "开心"]


def test_one_file_is_a_corpus(folder: Path, settings: MediaSettings) -> None:
    data = ClipDataModule(Clips(str(folder / "day 1" / "a.MP4"), media=settings))
    data.setup("predict")
    (batch,) = data.predict_dataloader()
    assert batch.ids == ["a"]
    assert batch.failures == [None]


def test_broken_file_is_kept_and_named(folder: Path, settings: MediaSettings) -> None:
    (folder / "b.mp4").write_bytes(b"")
    data = ClipDataModule(Clips(str(folder), media=settings))
    data.setup("predict")
    (batch,) = data.predict_dataloader()
    assert batch.failures == ["the file has zero bytes", None, None, None]


def test_folder_in_a_hidden_folder_is_read(tmp_path: Path, write_clip: Callable[[Path, int], Path]) -> None:
    write_clip(tmp_path / ".cache" / "clips" / "a.mp4", 0)
    (record,) = Clips(str(tmp_path / ".cache" / "clips")).records("predict")
    assert record.id == "a"


def test_nothing_to_predict_lists_the_suffixes(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("words")
    with pytest.raises(ValueError, match=r"No media file at .*: got .txt 1. Expected files ending in .mp4, .avi, .mkv"):
        ClipDataModule(Clips(str(tmp_path))).setup("predict")
    with pytest.raises(ValueError, match=r"No media file at .*notes.txt: got .txt 1"):
        ClipDataModule(Clips(str(tmp_path / "notes.txt"))).setup("predict")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="got nothing"):
        ClipDataModule(Clips(str(tmp_path / "empty"))).setup("predict")
    with pytest.raises(FileNotFoundError, match=r"No file or folder .*gone. Set `path`"):
        ClipDataModule(Clips(str(tmp_path / "gone"))).setup("predict")


@pytest.mark.parametrize("stage", ["fit", "validate", "test"])
def test_there_is_nothing_to_learn_or_to_test(folder: Path, stage: str) -> None:
    with pytest.raises(ValueError, match="it has predict"):
        ClipDataModule(Clips(str(folder))).setup(stage)
    assert Clips(str(folder)).taxonomy is None
