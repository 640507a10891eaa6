"""RAVDESS, whose labels are in the names of its clips."""

import warnings
from collections import Counter
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from datamodules.clip_datamodule import ClipDataModule
from datamodules.inspection.inspect_data import inspect_data
from datamodules.media_settings import MediaSettings
from datamodules.ravdess import RAVDESS

pytestmark = pytest.mark.unit


def names(actor: int) -> list[str]:
    """The 60 speech names of an actor: two statements, repetitions and intensities; neutral has one intensity."""
    codes = product(range(1, 9), (1, 2), (1, 2), (1, 2))
    return [
        f"01-01-{emotion:02d}-{intensity:02d}-{statement:02d}-{repetition:02d}-{actor:02d}"
        for emotion, intensity, statement, repetition in codes
        if not (emotion == 1 and intensity == 2)
    ]


@pytest.fixture
def write_names(tmp_path: Path, write_clip: Callable[[Path, int], Path]) -> Callable[..., Path]:
    """A root with clips of the given names in `Actor_*/`."""

    def write(*clips: str, folder: str = "Actor_{}", suffix: str = ".mp4") -> Path:
        root = tmp_path / "RAVDESS"
        for name in clips:
            write_clip(root / folder.format(name[-2:]) / f"{name}{suffix}", int(name[6:8]))
        return root

    return write


def test_emotion_codes_become_targets(write_names: Callable[..., Path], settings: MediaSettings) -> None:
    root = write_names(*(f"01-01-{code:02d}-01-01-01-07" for code in (8, 7, 6, 5, 4, 3, 1)))
    data = ClipDataModule(RAVDESS(str(root), media=settings))
    data.setup("test")
    (batch,) = data.test_dataloader()
    assert batch.targets == ["neutral", "happiness", "sadness", "anger", "fear", "disgust", "surprise"]
    assert batch.failures == [None] * 7
    assert batch.ids[1] == "01-01-03-01-01-01-07"
    # Emotion 03 is written with the last of four grey levels, 160.
    assert batch.frames[1].float().mean().item() == pytest.approx(160, abs=4)
    assert batch.responses == [None] * 7


@pytest.mark.filterwarnings("ignore:RAVDESS test. 192 clips are left out")
def test_whole_corpus_has_the_published_counts(tmp_path: Path) -> None:
    for actor in range(1, 25):
        folder = tmp_path / f"Actor_{actor:02d}"
        folder.mkdir()
        for name in names(actor):
            (folder / f"{name}.mp4").touch()
            (folder / f"02{name[2:]}.mp4").touch()
    for calm, size in (("leave_out", 1248), ("neutral", 1440)):
        data = RAVDESS(str(tmp_path), calm=calm)  # type: ignore[arg-type]
        records = data.records("test")
        published = data.published("test")
        assert len(records) == size
        assert len(records) + len(data.left_out["test"]) == published.num_clips == 1440
        assert Counter(record.target for record in records) == published.classes
    assert published.classes["neutral"] == 96 + 192


def test_calm_is_left_out_and_counted_or_neutral(write_names: Callable[..., Path]) -> None:
    root = write_names("01-01-02-01-01-01-01", "01-01-02-02-01-01-01", "01-01-05-01-01-01-01")
    with pytest.warns(UserWarning, match=r"RAVDESS test: 2 clips are left out, .* dfew .*\(calm 2\)"):
        records = RAVDESS(str(root)).records("test")
    assert [record.target for record in records] == ["anger"]
    records = RAVDESS(str(root), calm="neutral", taxonomy="mafw").records("test")
    assert [record.target for record in records] == ["neutral", "neutral", "anger"]
    with pytest.raises(ValueError, match="calm must be leave_out or neutral, got 'happy'"):
        RAVDESS(str(root), calm="happy")  # type: ignore[arg-type]


@pytest.mark.parametrize("folder", ["Actor_{}", "Video_Speech_Actor_{0}/Actor_{0}", "."])
def test_only_speech_with_picture_and_sound_counts(write_names: Callable[..., Path], folder: str) -> None:
    write_names("02-01-05-01-01-01-01", "01-02-05-01-01-01-01", folder=folder)
    write_names("03-01-05-01-01-01-01", folder=folder, suffix=".wav")
    root = write_names("01-01-05-01-01-01-01", folder=folder)
    (root / "notes-01.mp4").write_bytes(b"something else")
    (record,) = RAVDESS(str(root)).records("test")
    assert record.id == "01-01-05-01-01-01-01"
    assert record.media == record.source == str(root / folder.format("01") / f"{record.id}.mp4")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("01-01-09-01-01-01-01", r"emotion 09 \(expected 01..08\)"),
        ("01-01-00-01-01-01-01", r"emotion 00 \(expected 01..08\)"),
        ("01-03-05-01-01-01-01", r"vocal channel 03 \(expected 01..02\)"),
        ("04-01-05-01-01-01-01", r"modality 04 \(expected 01..03\)"),
        ("01-01-05-03-01-01-25", r"intensity 03 \(expected 01..02\), actor 25 \(expected 01..24\)"),
    ],
)
def test_impossible_name_is_refused(write_names: Callable[..., Path], name: str, message: str) -> None:
    root = write_names(name, "01-01-05-01-01-01-01")
    with pytest.raises(ValueError, match=f"{name}.mp4: .*{message}"):
        ClipDataModule(RAVDESS(str(root))).setup("test")
    data = RAVDESS(str(root))
    data.problems = []
    assert [row.id for row in data.records("test")] == ["01-01-05-01-01-01-01"]
    assert len(data.problems) == 1


def test_same_clip_in_two_folders_is_refused(write_names: Callable[..., Path]) -> None:
    write_names("01-01-05-01-01-01-01")
    root = write_names("01-01-05-01-01-01-01", folder="copy")
    with pytest.raises(ValueError, match=r"Two files are RAVDESS clip 01-01-05-01-01-01-01: .*Actor_01.* and .*copy"):
        ClipDataModule(RAVDESS(str(root))).setup("test")


def test_empty_root_says_what_is_expected(tmp_path: Path, write_names: Callable[..., Path]) -> None:
    with pytest.raises(FileNotFoundError, match=f"{tmp_path}/nowhere"):
        ClipDataModule(RAVDESS(str(tmp_path / "nowhere"))).setup("test")
    with pytest.raises(ValueError, match=r"No RAVDESS clip under .* Expected names 01-01-EE-II-SS-RR-AA"):
        ClipDataModule(RAVDESS(str(write_names("02-01-05-01-01-01-01")))).setup("test")


@pytest.mark.parametrize("stage", ["fit", "validate"])
def test_there_is_no_train_split(write_names: Callable[..., Path], stage: Any) -> None:
    with pytest.raises(ValueError, match="has no train split; it has test, predict"):
        ClipDataModule(RAVDESS(str(write_names("01-01-05-01-01-01-01")))).setup(stage)


def test_predict_reads_the_same_clips(write_names: Callable[..., Path], settings: MediaSettings) -> None:
    data = ClipDataModule(RAVDESS(str(write_names("01-01-05-01-01-01-01")), media=settings))
    data.setup("predict")
    (batch,) = data.predict_dataloader()
    assert batch.targets == ["anger"]


@pytest.mark.parametrize(("taxonomy", "left_out"), [("dfew", 192), ("ravdess", 0)])
def test_calm_is_no_defect_in_any_taxonomy(tmp_path: Path, taxonomy: str, left_out: int) -> None:
    for name in (name for actor in range(1, 25) for name in names(actor)):
        (tmp_path / f"{name}.mp4").touch()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        data = RAVDESS(str(tmp_path), taxonomy=taxonomy)
        report = inspect_data(data, output=str(tmp_path / "out"), decode=False, strict=True)
    section = report["splits"]["test"]
    assert section["num_clips"] + left_out == 1440 == section["published"]["num_clips"]
    assert section["classes"].get("calm", 0) == 192 - left_out
