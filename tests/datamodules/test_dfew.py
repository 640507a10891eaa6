"""DFEW's two layouts, its codes, and label files that are not DFEW's."""

import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from datamodules import emotions
from datamodules.clip_datamodule import ClipDataModule
from datamodules.dfew import DFEW
from datamodules.media_settings import MediaSettings

pytestmark = pytest.mark.unit


@pytest.fixture
def erv_dfew(official_dfew: Path, tmp_path: Path) -> Path:
    """The same clips and labels in the layout of R1-Omni and ERV."""
    root = tmp_path / "ERV_DFEW"
    (root / "label").mkdir(parents=True)
    (root / "clip").mkdir()
    for split in ("train", "test"):
        source = official_dfew / "EmoLabel_DataSplit" / f"{split}(single-labeled)" / "set_5.csv"
        shutil.copy(source, root / "label" / f"single_{split}set_5.csv")
    for clip in (official_dfew / "Clip" / "original").rglob("*.mp4"):
        shutil.copy(clip, root / "clip" / clip.name)
    return root


def label_file(root: Path, split: str = "train") -> Path:
    return root / "EmoLabel_DataSplit" / f"{split}(single-labeled)" / "set_5.csv"


def rewrite(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.mark.parametrize("layout", ["official_dfew", "erv_dfew"])
def test_both_layouts_are_found(layout: str, request: pytest.FixtureRequest, settings: MediaSettings) -> None:
    root = request.getfixturevalue(layout)
    data = ClipDataModule(DFEW(str(root), media=settings, validation_fraction=0.25))
    for stage in ("fit", "test"):
        data.setup(stage)
    assert {name: len(dataset) for name, dataset in data.datasets.items()} == {"train": 21, "validation": 7, "test": 7}
    assert Counter(row.target for row in data.datasets["validation"].records) == dict.fromkeys(data.taxonomy.classes, 1)
    (batch,) = data.test_dataloader()
    assert batch.failures == [None] * 7
    # Clip 29 has code 29 % 7 + 1 = 2 (sad), and its grey level is 80: padded id, label and file belong together.
    assert batch.ids[0] == "00029"
    assert batch.targets[0] == "sadness"
    assert Path(batch.media[0]).name == "29.mp4"
    assert batch.frames[0].float().mean().item() == pytest.approx(80, abs=4)


def test_underscore_spelling_of_the_archives_is_found(official_dfew: Path) -> None:
    for split in ("train", "test"):
        label_file(official_dfew, split).parent.rename(
            official_dfew / "EmoLabel_DataSplit" / f"{split}(single_labeled)"
        )
    assert len(DFEW(str(official_dfew)).records("test")) == 7


def test_codes_are_dfews(official_dfew: Path) -> None:
    rows = "video_name,label\n" + "".join(f"{code},{code}\n" for code in range(1, 8))
    rewrite(label_file(official_dfew), rows)
    targets = [row.target for row in DFEW(str(official_dfew)).records("train")]
    assert targets == ["happiness", "sadness", "neutral", "anger", "surprise", "disgust", "fear"]


def test_fold_chooses_the_label_file(official_dfew: Path) -> None:
    label_file(official_dfew).with_name("set_2.csv").write_text("video_name,label\n3,7\n")
    (row,) = DFEW(str(official_dfew), fold=2).records("train")
    assert (row.id, row.target) == ("3", "fear")


@pytest.mark.parametrize("fold", [0, 6])
def test_fold_must_exist(fold: int) -> None:
    with pytest.raises(ValueError, match=f"folds 1 to 5, got {fold}"):
        DFEW("x", fold=fold)


def test_no_layout_names_every_place(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        ClipDataModule(DFEW(str(tmp_path), fold=3)).setup("fit")
    for place in (
        "EmoLabel_DataSplit/train(single-labeled)/set_3.csv",
        "EmoLabel_DataSplit/train(single_labeled)/set_3.csv",
        "label/single_trainset_3.csv",
    ):
        assert str(tmp_path / place) in str(caught.value)


def test_no_clip_directory_names_every_place(official_dfew: Path) -> None:
    shutil.rmtree(official_dfew / "Clip")
    with pytest.raises(FileNotFoundError) as caught:
        ClipDataModule(DFEW(str(official_dfew))).setup("fit")
    assert str(official_dfew / "Clip/original") in str(caught.value)
    assert str(official_dfew / "clip") in str(caught.value)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("3,0", r"set_5.csv:3: label code 0 .*Expected 1..7 .*count from 0"),
        ("3,8", r"set_5.csv:3: label code 8 .*Expected 1..7"),
        ("3,sad", r"set_5.csv:3: got 3,sad. Expected a clip number and a label code"),
        ("3", r"set_5.csv:3: got \['3'\]. Expected 2 fields: video_name,label"),
        ("3,1,2", r"set_5.csv:3: got \['3', '1', '2'\]. Expected 2 fields"),
        ("x.mp4,1", r"set_5.csv:3: got x.mp4,1. Expected a clip number"),
        ("-3,1", r"set_5.csv:3: got -3,1. Expected a clip number"),
    ],
)
def test_bad_row_is_named(official_dfew: Path, row: str, message: str) -> None:
    rewrite(label_file(official_dfew), f"video_name,label\n1,1\n{row}\n")
    with pytest.raises(ValueError, match=message):
        ClipDataModule(DFEW(str(official_dfew))).setup("fit")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"set_5.csv:1: got the header \[\]. Expected the columns video_name, label"),
        ("1,1\n2,2\n", r"set_5.csv:1: got the header \['1', '1'\]. Expected the columns video_name, label"),
        ("video_name,label\n", r"set_5.csv lists no clips"),
    ],
)
def test_label_file_without_header_or_rows_is_named(official_dfew: Path, text: str, message: str) -> None:
    rewrite(label_file(official_dfew), text)
    with pytest.raises(ValueError, match=message):
        ClipDataModule(DFEW(str(official_dfew))).setup("fit")


def test_windows_line_ends_blank_lines_and_byte_order_mark_are_read(official_dfew: Path) -> None:
    label_file(official_dfew).write_bytes(b"\xef\xbb\xbfvideo_name,label\r\n00001,1\r\n\r\n2, 2\r\n")
    rows = DFEW(str(official_dfew)).records("train")
    assert [(row.id, row.target) for row in rows] == [("00001", "happiness"), ("2", "sadness")]
    assert rows[1].source.endswith("set_5.csv:4")


def test_padded_and_unpadded_id_are_one_clip(official_dfew: Path) -> None:
    rewrite(label_file(official_dfew), "video_name,label\n00012,1\n12,1\n")
    with pytest.raises(ValueError, match=r"'12' is listed twice: .*set_5.csv:2 and .*set_5.csv:3"):
        ClipDataModule(DFEW(str(official_dfew))).setup("fit")


def test_clip_in_train_and_test_is_refused(official_dfew: Path) -> None:
    with label_file(official_dfew, "test").open("a") as file:
        file.write("7,1\n")
    with pytest.raises(
        ValueError, match=r"in both train and test, e.g. '7': .*train.*set_5.csv:8 and .*test.*set_5.csv:9"
    ):
        ClipDataModule(DFEW(str(official_dfew))).setup("test")


def test_two_files_of_one_clip_are_refused(official_dfew: Path, write_clip: Callable[[Path, int], Path]) -> None:
    write_clip(official_dfew / "Clip" / "original" / "00012.mp4", 12)
    with pytest.raises(ValueError, match=r"Two files are DFEW clip 12: .*00012.mp4 and .*part_0/12.mp4"):
        ClipDataModule(DFEW(str(official_dfew))).setup("fit")


def test_predict_reads_the_test_split(official_dfew: Path, settings: MediaSettings) -> None:
    data = ClipDataModule(DFEW(str(official_dfew), media=settings))
    data.setup("predict")
    (batch,) = data.predict_dataloader()
    assert batch.ids == [f"{number:05d}" for number in range(29, 36)]


def test_taxonomy_is_dfews() -> None:
    assert DFEW("x").taxonomy is emotions.DFEW_TAXONOMY


PUBLISHED_TRAIN = (1956, 1516, 2136, 1739, 1176, 116, 722)
"""Clips of each class, by code from 1, in the training split of fold 5 (all minus test, as published)."""


def write_full_size(root: Path, codes: Sequence[int]) -> None:
    """The training split of fold 5 in its published size, with another code for each class."""
    labels = [code for code, count in zip(codes, PUBLISHED_TRAIN, strict=True) for _ in range(count)]
    rewrite(label_file(root), "video_name,label\n" + "".join(f"{n},{code}\n" for n, code in enumerate(labels, 1)))


def test_published_split_is_read(official_dfew: Path) -> None:
    write_full_size(official_dfew, range(1, 8))
    data = DFEW(str(official_dfew))
    targets = Counter(data.target(row) for row in data.rows("train"))
    assert targets == dict(zip(emotions.DFEW_TAXONOMY.classes, PUBLISHED_TRAIN, strict=True))


def test_published_split_that_counts_from_0_is_refused_with_its_likely_source(official_dfew: Path) -> None:
    write_full_size(official_dfew, range(7))
    with pytest.raises(ValueError, match=r"set_5.csv: .*read as those of S2D's copies \(0=happiness, 1=sadness, "):
        ClipDataModule(DFEW(str(official_dfew))).setup("fit")


@pytest.mark.parametrize(
    ("codes", "swapped"),
    [
        ((4, 6, 5, 1, 7, 2, 3), "happiness 1739 .published: 1956., sadness 116 .published: 1516."),  # alphabetical
        ((1, 3, 2, 4, 5, 6, 7), "happiness 1956 .published: 1956., sadness 2136 .published: 1516."),
    ],
)
def test_published_split_in_another_order_is_refused(official_dfew: Path, codes: Sequence[int], swapped: str) -> None:
    write_full_size(official_dfew, codes)
    with pytest.raises(ValueError, match=rf"published sizes, but in another order: .*{swapped}"):
        ClipDataModule(DFEW(str(official_dfew))).setup("fit")


def test_inspection_lists_every_bad_row_and_keeps_the_others(official_dfew: Path) -> None:
    rewrite(label_file(official_dfew), "video_name,label\n1,1\n2,9\n3\nx,1\n5,5\n")
    data = DFEW(str(official_dfew))
    data.problems = []
    assert [row.id for row in data.records("train")] == ["1", "5"]
    assert [problem.split(": ")[0].rpartition(":")[2] for problem in data.problems] == ["4", "5", "3"]


@pytest.mark.parametrize("fold", range(1, 6))
def test_class_counts_of_every_fold_are_published(fold: int) -> None:
    train, test = (DFEW("x", fold=fold).published(split) for split in ("train", "test"))
    assert train.exact and test.exact
    assert sum(train.classes.values()) + sum(test.classes.values()) == 11_697
