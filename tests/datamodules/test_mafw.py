"""MAFW's layouts, label sets and captions, and files that are not as distributed."""

import logging
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path

import pytest

from datamodules import emotions
from datamodules.clip_datamodule import ClipDataModule
from datamodules.mafw import MAFW
from datamodules.media_settings import MediaSettings
from datamodules.synthetic.layouts import SyntheticClip, media_path, write_mafw
from datamodules.synthetic.synthesize import ClipPlan, make_record

pytestmark = pytest.mark.unit

CLASSES = emotions.MAFW_TAXONOMY.classes
NUM_CLIPS = 66


@pytest.fixture(scope="module")
def records() -> dict[str, SyntheticClip]:
    """Clip id → what is shown and written of it; six clips of each class, half of them with a second emotion."""
    plan = ClipPlan(
        layout="mafw",
        taxonomy=emotions.MAFW_TAXONOMY,
        output=Path("unused"),
        seed=3,
        image_size=48,
        frame_rate=25.0,
        duration_seconds=0.24,
        sample_rate=8000,
        face_disagreement=0.4,
        voice_disagreement=0.1,
        face_only_rate=0.75,
    )
    return {Path(media_path("mafw", i)).name: make_record(plan, i) for i in range(NUM_CLIPS)}


@pytest.fixture(scope="module")
def template(
    records: dict[str, SyntheticClip], sample_clips: list[bytes], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """MAFW as distributed: split files of all folds, workbooks, clips."""
    root = tmp_path_factory.mktemp("template") / "MAFW"
    write_mafw(root, list(records.values()))
    for number, name in enumerate(records):
        path = root / "data" / "clips" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(sample_clips[number % len(sample_clips)])
    return root


@pytest.fixture
def mafw(template: Path, tmp_path: Path) -> Path:
    """A copy of it, to change."""
    return Path(shutil.copytree(template, tmp_path / "MAFW"))


def label_file(root: Path, split: str = "train", folder: str = "single/no_caption") -> Path:
    return root / "Train & Test Set" / folder / "set_5" / f"{split}.txt"


def write_labels(root: Path, content: str | bytes, split: str = "train", folder: str = "single/no_caption") -> Path:
    path = label_file(root, split, folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def write_captions(root: Path, rows: Sequence[Sequence[str]], encoding: str = "gb18030") -> Path:
    content = "".join("\t".join(row) + "\r\n" for row in rows)
    return write_labels(root, content.encode(encoding), folder="single/with_caption")


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A root with an empty clip directory and no label file."""
    (tmp_path / "clips").mkdir()
    return tmp_path


def problems_of(data: MAFW, split: str = "train") -> list[str]:
    """What `inspect_data` lists of a split."""
    data.problems = []
    data.records(split)
    return data.problems


def test_single_labels_of_the_true_layout(
    mafw: Path, records: dict[str, SyntheticClip], settings: MediaSettings
) -> None:
    data = ClipDataModule(MAFW(str(mafw), media=settings, validation_fraction=0.25))
    for stage in ("fit", "test"):
        data.setup(stage)
    # Six clips of each class: two of them in the test split of fold 5, and one in validation.
    assert {name: len(dataset) for name, dataset in data.datasets.items()} == {
        "train": 33,
        "validation": 11,
        "test": 22,
    }
    for dataset in data.datasets.values():
        for row in dataset.records:
            assert row.target == records[row.id].performance.label
            assert row.media == str(mafw / "data" / "clips" / row.id)
            assert row.response is None
    batch = next(iter(data.test_dataloader()))
    assert batch.failures == [None] * 8
    position = list(records).index(batch.ids[0])
    # The grey level of the clip's position: label, id and file belong together.
    assert batch.frames[0].float().mean().item() == pytest.approx(40 + 40 * (position % 4), abs=4)


def test_folds_partition_the_clips(mafw: Path, records: dict[str, SyntheticClip]) -> None:
    tested = [row.id for fold in range(1, 6) for row in MAFW(str(mafw), fold=fold).records("test")]
    assert sorted(tested) == sorted(records)


def test_layout_of_r1_and_erv(mafw: Path) -> None:
    (mafw / "data" / "clips").rename(mafw / "clips")
    (mafw / "data").rmdir()
    assert all(row.media == str(mafw / "clips" / row.id) for row in MAFW(str(mafw)).records("test"))


def test_compound_labels_are_joined_in_mafws_order(mafw: Path, records: dict[str, SyntheticClip]) -> None:
    data = MAFW(str(mafw), label_set="compound")
    targets = {row.id: row.target for split in ("train", "test") for row in data.records(split)}
    assert targets.keys() == records.keys()
    for name, target in targets.items():
        shown = records[name].emotions
        # A neutral modality takes nothing from the label.
        expected = shown if "neutral" not in shown else (records[name].performance.label,)
        assert emotions.members(target) == tuple(sorted(expected, key=CLASSES.index))
    assert 10 < sum("_" in target for target in targets.values()) < NUM_CLIPS


def test_compound_order_in_the_file_does_not_matter(bare: Path) -> None:
    write_labels(bare, "00019.mp4 sadness_anger\r\n", folder="compound/no_caption")
    (row,) = MAFW(str(bare), label_set="compound").records("train")
    assert row.target == "anger_sadness"


@pytest.mark.parametrize("language", ["english", "chinese"])
def test_captions_are_the_response_to_learn(
    mafw: Path, records: dict[str, SyntheticClip], language: str, caplog: pytest.LogCaptureFixture
) -> None:
    data = MAFW(str(mafw), captions=language)
    with caplog.at_level(logging.INFO):
        rows = data.records("train")
    described = {name: record for name, record in records.items() if record.performance.label != "neutral"}
    assert {row.id for row in rows} < described.keys()
    assert len(rows) == 40  # four of each of the ten classes that have captions
    for row in rows:
        think, answer = row.response.split("\n")
        assert answer == f"<answer>{described[row.id].performance.label}</answer>"
        if language == "english":
            assert think == f"<think>{described[row.id].rationale}</think>"
        else:
            assert think.startswith(("<think>一个男人", "<think>一个女人"))
    assert "4 clips of" in caplog.text
    assert "carry no caption and are left out, 4 of them neutral" in caplog.text


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_captions_in_a_utf_8_copy_are_the_same(mafw: Path, encoding: str) -> None:
    data = MAFW(str(mafw), captions="chinese")
    distributed = data.records("train")
    path = label_file(mafw, folder="single/with_caption")
    path.write_bytes(path.read_bytes().decode("gb18030").encode(encoding))
    assert data.records("train") == distributed


def test_line_separators_inside_captions_end_no_row(bare: Path) -> None:
    write_captions(bare, [("00019.mp4", "anger", "皱眉\u2028喊叫", "He frowns.\u0085He shouts.")])
    (row,) = MAFW(str(bare), captions="english").records("train")
    assert row.response == "<think>He frowns.\u0085He shouts.</think>\n<answer>anger</answer>"


@pytest.mark.parametrize(
    ("true", "wrong", "cause"),
    [
        ("gb18030", "cp1252", "its GB18030 bytes were read as Latin-1 or Windows-1252"),
        ("gb18030", "latin-1", "its GB18030 bytes were read as Latin-1 or Windows-1252"),
        ("utf-8", "cp1252", "its UTF-8 bytes were read as Latin-1 or Windows-1252"),
        ("utf-8", "gb18030", "its UTF-8 bytes were read as GB18030"),
    ],
)
@pytest.mark.parametrize("captions", ["english", "chinese"])
def test_garbled_captions_are_refused_with_their_cause(
    mafw: Path, true: str, wrong: str, cause: str, captions: str
) -> None:
    path = label_file(mafw, folder="single/with_caption")
    text = path.read_bytes().decode("gb18030")
    path.write_bytes(text.encode(true).decode(wrong, "replace").encode("utf-8"))
    with pytest.raises(
        ValueError, match=rf"with_caption/set_5/train.txt:1: the Chinese column .*Likely cause: {cause}"
    ):
        MAFW(str(mafw), captions=captions).records("train")


def test_garbled_file_is_one_problem(mafw: Path) -> None:
    path = label_file(mafw, folder="single/with_caption")
    path.write_bytes(path.read_bytes().decode("cp1252", "replace").encode())
    (problem,) = problems_of(MAFW(str(mafw), captions="chinese"))
    assert problem.startswith(f"{path}:1: the Chinese column")


@pytest.mark.parametrize("chinese", ["??????", "She frowns."])
def test_column_without_chinese_is_refused(bare: Path, chinese: str) -> None:
    write_captions(bare, [("00019.mp4", "anger", chinese, "She frowns.")])
    with pytest.raises(ValueError, match=r"train.txt:1: .*is not Chinese.*another order, or an editor replaced"):
        MAFW(str(bare), captions="english").records("train")


def test_undecodable_captions_are_refused_with_their_row(bare: Path) -> None:
    good = "00019.mp4\tanger\t皱眉\tShe frowns.\r\n".encode("gb18030")
    write_labels(bare, good + b"00020.mp4\tanger\t\xff\xff\tShe shouts.\r\n", folder="single/with_caption")
    with pytest.raises(ValueError, match=r"train.txt:2: neither GB18030 nor UTF-8"):
        MAFW(str(bare), captions="english").records("train")


def test_every_bad_captioned_row_is_listed(bare: Path) -> None:
    good = ("00019.mp4", "anger", "皱眉", "She frowns.")
    rows = [
        good,
        ("00020.mp4", "anger", "皱眉"),
        ("00021.mp4", "anger", "皱眉", " "),
        ("00022.mp4", "anger", "", "She frowns."),
        ("22.mp4", "anger", "皱眉", "She frowns."),
        ("00023.mp4", "frustration", "皱眉", "She frowns."),
        ("00024.mp4", "anger", "frowns", "She frowns."),
    ]
    path = write_captions(bare, rows)
    english = [
        f"{path}:2: got ['00020.mp4', 'anger', '皱眉']. Expected four fields with tabs between them",
        f"{path}:3: the english caption of 00021.mp4 is empty",
        f"{path}:5: got ['22.mp4', 'anger', '皱眉', 'She frowns.']. Expected four fields with tabs",
        f"{path}:6: label 'frustration' is not a mafw emotion",
    ]
    found = problems_of(MAFW(str(bare), captions="english"))
    assert [problem[: len(start)] for problem, start in zip(found, english, strict=True)] == english
    assert [problem.split(": ")[0] for problem in problems_of(MAFW(str(bare), captions="chinese"))] == [
        f"{path}:{row}" for row in (2, 4, 5, 7, 6)
    ]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("00020.mp4", r"train.txt:2: got '00020.mp4'. Expected a clip of five digits and a label"),
        ("00020.mp4 anger disgust", r"train.txt:2: got '00020.mp4 anger disgust'"),
        ("20.mp4 anger", r"train.txt:2: got '20.mp4 anger'"),
        ("00020.mp4 joy", r"train.txt:2: label 'joy' is not a mafw emotion. Expected one of anger, "),
        ("00020.mp4 anger_disgust", r"train.txt:2: got anger_disgust, several emotions.*label_set: compound"),
        ("00020.mp4 0", r"train.txt:2: got the label code 0. Expected a name such as anger"),
        ("00020.mp4 4", r"train.txt:2: got the label code 4. .*another repository's copy"),
    ],
)
def test_bad_row_is_named(bare: Path, row: str, message: str) -> None:
    write_labels(bare, f"00019.mp4 anger\r\n{row}\r\n00021.mp4 fear\r\n")
    with pytest.raises(ValueError, match=message):
        MAFW(str(bare)).records("train")
    assert len(problems_of(MAFW(str(bare)))) == 1


def test_captions_beside_labels_in_gb18030_are_no_split_file_without_captions(bare: Path) -> None:
    write_labels(bare, "00019.mp4\tanger\t皱眉\tShe frowns.\r\n".encode("gb18030"))
    with pytest.raises(ValueError, match=r"train.txt:1: not UTF-8"):
        MAFW(str(bare)).records("train")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fold": 0}, "folds 1 to 5, got 0"),
        ({"fold": 6}, "folds 1 to 5, got 6"),
        ({"label_set": "multi"}, "label sets are single and compound, got 'multi'"),
        ({"captions": "german"}, "captions are english or chinese, or null for none; got 'german'"),
        ({"label_set": "compound", "captions": "english"}, "no one answer to learn. Set label_set: single"),
    ],
)
def test_options_must_exist(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MAFW("x", **options)


def test_missing_files_name_every_place(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        ClipDataModule(MAFW(str(tmp_path), fold=3, captions="chinese")).setup("fit")
    assert str(tmp_path / "Train & Test Set/single/with_caption/set_3/train.txt") in str(caught.value)
    write_labels(tmp_path, "00019.mp4 anger\r\n")
    with pytest.raises(FileNotFoundError) as caught:
        ClipDataModule(MAFW(str(tmp_path))).setup("fit")
    assert str(tmp_path / "data" / "clips") in str(caught.value)
    assert str(tmp_path / "clips") in str(caught.value)


@pytest.mark.parametrize("names", [("single-set", "multi-set"), ("single_set", "multi_set")])
@pytest.mark.parametrize("label_set", ["single", "compound"])
def test_labels_that_differ_from_the_workbook_are_named(mafw: Path, names: tuple[str, str], label_set: str) -> None:
    for name, spelling in zip(("single-set", "multi-set"), names, strict=True):
        path = mafw / "Labels" / f"{name}.xlsx"
        path.rename(path.with_name(f"{spelling}.xlsx"))
    path = label_file(mafw, folder=f"{label_set}/no_caption")
    lines = path.read_text().splitlines()
    compound = label_set == "compound"
    row = next(i for i, line in enumerate(lines) if ("_" in line) == compound and "neutral" not in line)
    clip, label = lines[row].split()
    wrong = ("contempt_anxiety" if "contempt" not in label else "anger_fear") if compound else "neutral"
    lines[row] = f"{clip} {wrong}"
    path.write_text("\r\n".join(lines))
    (problem,) = problems_of(MAFW(str(mafw), label_set=label_set))
    assert problem.startswith(
        f"{path}:{row + 1}: clip {clip} is {wrong}, but {mafw / 'Labels' / names[compound]}.xlsx:"
    )
    assert f" says {label}." in problem


def test_distributed_workbooks_raise_nothing(mafw: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for options in ({}, {"label_set": "compound"}, {"captions": "english"}):
            assert not problems_of(MAFW(str(mafw), **options))
