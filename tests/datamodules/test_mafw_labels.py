"""MAFW's labels against the published counts, against other repositories' codings, and against MAFW's workbooks."""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from openpyxl import Workbook

from datamodules import emotions
from datamodules.mafw import MAFW

pytestmark = pytest.mark.unit

CLASSES = emotions.MAFW_TAXONOMY.classes


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A root with an empty clip directory and no label file."""
    (tmp_path / "clips").mkdir()
    return tmp_path


def write_labels(root: Path, content: str, label_set: str = "single") -> Path:
    path = root / "Train & Test Set" / label_set / "no_caption" / "set_5" / "train.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode())
    return path


def write_workbook(root: Path, name: str, header: Sequence[str], rows: Sequence[Sequence[object]]) -> Path:
    """A workbook in `Labels/`; the emotion columns, which nothing reads, are left out."""
    workbook = Workbook(write_only=True)
    sheet = workbook.create_sheet()
    for row in (header, *rows):
        sheet.append(list(row))
    path = root / "Labels" / f"{name}.xlsx"
    path.parent.mkdir(parents=True, exist_ok=True)
    workbook.save(path)
    return path


def problems_of(data: MAFW) -> list[str]:
    """What `inspect_data` lists of the train split."""
    data.problems = []
    data.records("train")
    return data.problems


# Label files of the published sizes: clips by code, all and in the test split of fold 5.
TOTALS = (1390, 639, 625, 1242, 1138, 1470, 1072, 236, 916, 262, 182)
TEST_OF_FOLD_5 = (278, 127, 125, 248, 227, 294, 214, 47, 183, 52, 36)
TRAIN = {code: n - test for code, (n, test) in enumerate(zip(TOTALS, TEST_OF_FOLD_5, strict=True), 1)}
ONE_OF_COMPOUND = (425, 310, 180, 1075, 1138, 610, 497, 111, 408, 143, 41)
SEVERAL = """1_2 883, 6_10 542, 3_7 392, 7_9 232, 3_9 218, 2_8 208, 4_7 206, 6_9 185, 9_10 156, 2_9 131, 10_11 98,
3_6 96, 1_6 90, 6_9_10 76, 9_10_11 59, 1_9 54, 4_8 52, 3_7_9 45, 2_10 39, 2_7 37, 1_2_9 36, 1_7 33, 6_11 32, 6_7 26,
6_10_11 22, 3_6_9 19, 2_9_10 19, 1_2_8 18, 2_6 17, 1_10 13, 2_11 12, 2_10_11 12"""
COMPOUND = {(code,): n for code, n in enumerate(ONE_OF_COMPOUND, 1)} | {
    tuple(map(int, codes.split("_"))): int(n) for codes, n in (entry.split() for entry in SEVERAL.split(","))
}

ALPHABETICAL = {code: sorted(CLASSES).index(name) for code, name in enumerate(CLASSES, 1)}
DFER_CLIP_ORDER = (
    "happiness", "sadness", "neutral", "anger", "surprise", "disgust", "fear",
    "contempt", "anxiety", "helplessness", "disappointment",
)  # fmt: skip
DFER_CLIP = {code: DFER_CLIP_ORDER.index(name) for code, name in enumerate(CLASSES, 1)}
FROM_0 = {code: code - 1 for code in range(1, 12)}
S2D_CAUSE = r"S2D's csv \(alphabetical\) \(0=anger, 1=anxiety"
DFER_CLIP_CAUSE = r"DFER-CLIP's annotation \(0=happiness, 1=sadness"


def full_size(label_of: Callable[[int], object], counts: dict[int, int] = TRAIN) -> str:
    labels = [label_of(code) for code, count in counts.items() for _ in range(count)]
    return "".join(f"{number:05d}.mp4 {label}\r\n" for number, label in enumerate(labels))


def compound_train(name_of: Callable[[int], str]) -> str:
    """The compound training split of fold 5: of n clips of a class, n // 5 are in its test split."""
    labels = ["_".join(map(name_of, codes)) for codes, n in COMPOUND.items() for _ in range(n - n // 5)]
    return "".join(f"{number:05d}.mp4 {label}\r\n" for number, label in enumerate(labels))


def test_published_single_split_is_read(bare: Path) -> None:
    write_labels(bare, full_size(lambda code: CLASSES[code - 1]))
    data = MAFW(str(bare))
    targets = Counter(data.target(row) for row in data.rows("train"))
    assert targets == {CLASSES[code - 1]: n for code, n in TRAIN.items()}
    assert targets.total() == 7341


def test_published_compound_split_is_read(bare: Path) -> None:
    write_labels(bare, compound_train(lambda code: CLASSES[code - 1]), label_set="compound")
    data = MAFW(str(bare), label_set="compound")
    targets = Counter(data.target(row) for row in data.rows("train"))
    assert (targets.total(), len(targets)) == (7213, 43)


@pytest.mark.parametrize(
    ("codes", "cause"),
    [
        (ALPHABETICAL, S2D_CAUSE),
        (DFER_CLIP, DFER_CLIP_CAUSE),
        (FROM_0, r"MAE-DFER's csv \(MAFW's own minus 1\) \(0=anger, 1=disgust"),
    ],
)
def test_codes_of_other_repositories_are_recognised(bare: Path, codes: dict[int, int], cause: str) -> None:
    write_labels(bare, full_size(codes.__getitem__))
    with pytest.raises(ValueError, match=rf"train.txt: .*if its codes are read as those of {cause}"):
        MAFW(str(bare)).records("train")


@pytest.mark.parametrize(("codes", "cause"), [(ALPHABETICAL, S2D_CAUSE), (DFER_CLIP, DFER_CLIP_CAUSE)])
def test_names_from_codes_of_other_repositories_are_recognised(bare: Path, codes: dict, cause: str) -> None:
    def misnamed(code: int) -> str:
        return CLASSES[codes[code]]

    write_labels(bare, full_size(misnamed))
    write_labels(bare, compound_train(misnamed), label_set="compound")
    for label_set in ("single", "compound"):
        with pytest.raises(
            ValueError, match=rf"train.txt: .*if the codes behind its names are read as those of {cause}"
        ):
            MAFW(str(bare), label_set=label_set).records("train")


def test_names_that_are_off_by_one_are_recognised(bare: Path) -> None:
    write_labels(bare, full_size(lambda code: CLASSES[code - 2]))
    with pytest.raises(ValueError, match=r"in another order: anger 512 \(published: 1112\)"):
        MAFW(str(bare)).records("train")


def test_compound_clips_of_one_emotion_are_looked_up_in_the_single_set(bare: Path) -> None:
    path = write_labels(bare, "00019.mp4 anger\r\n00020.mp4 anger_disgust\r\n00021.mp4 fear\r\n", label_set="compound")
    single = write_workbook(bare, "single-set", ("clip", "single_label"), [("00019.mp4", 1), ("00020.mp4", 2)])
    write_workbook(bare, "multi-set", ("clip", "multi_label"), [("00020.mp4", "2, 1"), ("00021.mp4", "1,2")])
    assert problems_of(MAFW(str(bare), label_set="compound")) == [
        f"{path}:3: clip 00021.mp4 (fear) is not in {single}. Use files of one release."
    ]


def test_first_data_row_of_a_workbook_counts(bare: Path) -> None:
    path = write_labels(bare, "00019.mp4 anger\r\n")
    workbook = write_workbook(bare, "single-set", ("clip", "single_label"), [("00019.mp4", 2.0)])
    (problem,) = problems_of(MAFW(str(bare)))
    assert problem.startswith(f"{path}:1: clip 00019.mp4 is anger, but {workbook}:2 says disgust")


@pytest.mark.parametrize(
    ("kind", "cell", "message"),
    [
        ("single", 0, "label code 0 is not a mafw code. Expected 1..11"),
        ("single", 12, "label code 12 is not a mafw code"),
        ("single", None, "got {'clip': '00030.mp4', 'single_label': None}. Expected .* and one code"),
        ("single", 0.5, "got {'clip': '00030.mp4', 'single_label': 0.5}"),
        ("single", "anger", "got {'clip': '00030.mp4', 'single_label': 'anger'}"),
        ("single", "1,2", "got {'clip': '00030.mp4', 'single_label': '1,2'}"),
        ("multi", 1.2, "got {'clip': '00030.mp4', 'multi_label': 1.2}. Expected .* several codes as text, e.g. 1,2"),
        ("multi", 1, "got {'clip': '00030.mp4', 'multi_label': 1}"),
        ("multi", "1,0", "label code 0 is not a mafw code"),
        ("multi", "1,", "got {'clip': '00030.mp4', 'multi_label': '1,'}"),
    ],
)
def test_bad_workbook_row_is_named(bare: Path, kind: str, cell: object, message: str) -> None:
    write_labels(bare, "00019.mp4 anger_disgust\r\n00020.mp4 anger\r\n", label_set="compound")
    rows = {"single": [("00020.mp4", 1)], "multi": [("00019.mp4", "1,2")]}
    rows[kind].append(("00030.mp4", cell))
    for name, content in rows.items():
        write_workbook(bare, f"{name}-set", ("clip", f"{name}_label"), content)
    with pytest.raises(ValueError, match=rf"{kind}-set.xlsx:3: {message}"):
        MAFW(str(bare), label_set="compound").records("train")
    assert len(problems_of(MAFW(str(bare), label_set="compound"))) == 1


def test_workbook_with_two_labels_of_a_clip_is_refused(bare: Path) -> None:
    write_labels(bare, "00019.mp4 anger\r\n")
    rows = [("00019.mp4", 1), ("00020.mp4", 3), ("00019.mp4", 1), ("00020.mp4", 4)]
    write_workbook(bare, "single-set", ("clip", "single_label"), rows)
    with pytest.raises(ValueError, match=r"set.xlsx:3 and .*set.xlsx:5 label clip 00020.mp4 differently"):
        MAFW(str(bare)).records("train")


@pytest.mark.parametrize(("codes", "cause"), [(FROM_0, "MAE-DFER"), (ALPHABETICAL, "S2D"), (DFER_CLIP, "DFER-CLIP")])
@pytest.mark.parametrize("kind", ["single", "multi"])
def test_workbook_in_another_coding_is_refused_once(bare: Path, kind: str, codes: dict[int, int], cause: str) -> None:
    counts = {(code,): n for code, n in enumerate(TOTALS, 1)}
    if kind == "multi":
        counts = {several: n for several, n in COMPOUND.items() if len(several) > 1}
    cells = [",".join(str(codes[code]) for code in classes) for classes, n in counts.items() for _ in range(n)]
    rows = [(f"{number:05d}.mp4", cell) for number, cell in enumerate(cells)]
    path = write_workbook(bare, f"{kind}_set", ("clip", f"{kind}_label"), rows)
    label_set, label = ("single", "anger") if kind == "single" else ("compound", "anger_disgust")
    write_labels(bare, f"00000.mp4 {label}\r\n", label_set=label_set)
    (problem,) = problems_of(MAFW(str(bare), label_set=label_set))
    assert problem.startswith(
        f"{path}: its class counts are the published ones if its codes are read as those of {cause}"
    )


def test_listed_clips_that_annotators_marked_are_counted(bare: Path) -> None:
    write_labels(bare, "".join(f"{number:05d}.mp4 anger\r\n" for number in range(19, 25)))
    marks = [(19, -1), (20, 0), (21, 0.93), (22, "-1"), (20, "x"), (23, None), (24, -1), (99, -1)]
    path = write_workbook(bare, "annotation", ("clip", "invalid"), [(f"{n:05d}.mp4", mark) for n, mark in marks])
    with pytest.warns(UserWarning, match="MAFW train: 3 listed clips are marked as invalid") as caught:
        rows = MAFW(str(bare)).records("train")
    assert len(caught) == 1
    assert f"00019.mp4 ({path}:2), 00022.mp4 ({path}:5), 00024.mp4 ({path}:8). " in str(caught[0].message)
    assert len(rows) == 6
