"""Label files and archives that name files elsewhere on the machine."""

import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from openpyxl import Workbook

from datamodules.clip_source import ClipSource
from datamodules.clips import Clips
from datamodules.cremad import CREMAD
from datamodules.dfew import DFEW
from datamodules.emer import EMER
from datamodules.files import tables
from datamodules.mafw import MAFW
from datamodules.mer import MER
from datamodules.merr import MERR
from datamodules.ravdess import RAVDESS

pytestmark = pytest.mark.unit

Write = Callable[[Path], Path]


def write_dfew(root: Path, clip: str) -> DFEW:
    clip = "1" if clip == "1.mp4" else clip
    for split in ("train", "test"):
        labels = root / "label" / f"single_{split}set_5.csv"
        labels.parent.mkdir(parents=True, exist_ok=True)
        labels.write_text(f"video_name,label\n{clip if split == 'train' else 2},1\n")
    return DFEW(str(root))


def write_mafw(root: Path, clip: str) -> MAFW:
    for split in ("train", "test"):
        labels = root / "Train & Test Set" / "single" / "no_caption" / "set_5" / f"{split}.txt"
        labels.parent.mkdir(parents=True, exist_ok=True)
        labels.write_text(f"{clip if split == 'train' else '00002.mp4'} anger\n")
    return MAFW(str(root))


def write_emer(root: Path, clip: str) -> EMER:
    (root / "gt-eng.csv").write_text(f"names,emotions,subtitles,reasons\n{clip},angry,,He frowns.\n")
    return EMER(str(root), taxonomy="mafw")


def write_conversations(root: Path, clip: str) -> EMER:
    turns = [{"from": "human", "value": "?"}, {"from": "gpt", "value": "<think>x</think>\n<answer>angry</answer>"}]
    (root / "emer.json").write_text(json.dumps([{"video": clip, "conversations": turns}]))
    return EMER(str(root), taxonomy="mafw")


def write_merr(root: Path, clip: str) -> MERR:
    entry = {"pseu_emotion": "angry", "smp_reason_caption": "He frowns."}
    (root / "MERR_fine_grained.json").write_text(json.dumps({clip: entry}))
    return MERR(str(root))


def write_ravdess(root: Path, clip: str) -> RAVDESS:
    return RAVDESS(str(root))


def write_cremad(root: Path, clip: str) -> CREMAD:
    return CREMAD(str(root))


def write_mer(root: Path, clip: str) -> MER:
    (root / "label-disdim.csv").write_text(f"name,discrete,valence\n{clip},angry,-1\n")
    return MER(str(root), labels_of="mer2024")


def write_clips(root: Path, clip: str) -> Clips:
    return Clips(str(root))


CORPORA: dict[str, tuple[Callable[[Path, str], ClipSource], str, str]] = {
    "DFEW": (write_dfew, "clip", "1.mp4"),
    "MAFW": (write_mafw, "clips", "00001.mp4"),
    "EMER": (write_emer, "videos", "sample_1.mp4"),
    "EMER, conversations": (write_conversations, "videos", "sample_1.mp4"),
    "MERR": (write_merr, "test3", "sample_1.mp4"),
    "RAVDESS": (write_ravdess, "Actor_01", "01-01-05-01-02-01-01.mp4"),
    "CREMAD": (write_cremad, "VideoFlash", "1001_DFA_ANG_XX.flv"),
    "MER": (write_mer, "video", "sample_1.mp4"),
    "Clips": (write_clips, "sub", "a.mp4"),
}
"""How a corpus with one training clip is written, where its clips are, and what that clip is called."""
LABELLED = [name for name in CORPORA if name not in ("RAVDESS", "CREMAD", "Clips")]


def records(corpus: ClipSource) -> list:
    return corpus.records(corpus.splits[0])


@pytest.fixture
def secret(tmp_path: Path, write_clip: Write) -> Path:
    """Somebody's clip outside of every corpus."""
    return write_clip(tmp_path / "home" / "secret.mp4")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "corpus"
    root.mkdir()
    return root


@pytest.mark.parametrize("name", LABELLED)
@pytest.mark.parametrize("way", ["relative", "absolute", "through a folder"])
def test_a_label_that_names_a_file_elsewhere_is_refused_or_has_no_file(
    name: str, way: str, root: Path, secret: Path, write_clip: Write
) -> None:
    write, directory, clip = CORPORA[name]
    write_clip(root / directory / clip)
    escape = {
        "relative": "../home/secret.mp4",
        "absolute": str(secret),
        "through a folder": f"{directory}/../../home/secret.mp4",
    }[way]
    try:
        rows = records(write(root, escape))
    except ValueError as error:
        assert name in ("DFEW", "MAFW") and escape in str(error), "names the row"  # noqa: PT017
    else:
        assert [row.media for row in rows] == [None], "reported as missing"


@pytest.mark.parametrize("name", CORPORA)
def test_a_linked_clip_is_read_only_by_choice(name: str, root: Path, secret: Path, write_clip: Write) -> None:
    write, directory, clip = CORPORA[name]
    (root / directory).mkdir()
    (root / directory / clip).symlink_to(secret)
    corpus = write(root, clip)
    with pytest.raises(ValueError, match=f"{clip} leads to {secret}, out of {root}, and is not read.*follow_links"):
        records(corpus)
    inspected = write(root, clip)
    inspected.problems = []
    try:
        assert all(row.media is None for row in records(inspected))
    except ValueError as error:
        assert name in ("RAVDESS", "CREMAD", "Clips") and "No " in str(error)  # noqa: PT017
    assert any("follow_links" in problem for problem in inspected.problems)
    corpus = write(root, clip)
    corpus.follow_links = True
    assert [row.media for row in records(corpus)] == [str(root / directory / clip)]


@pytest.mark.parametrize("name", [name for name in CORPORA if name not in ("RAVDESS", "CREMAD", "Clips")])
def test_a_linked_folder_of_clips_is_read_only_by_choice(name: str, root: Path, secret: Path) -> None:
    write, directory, clip = CORPORA[name]
    secret.rename(secret.with_name(clip))
    (root / directory).symlink_to(secret.parent)
    with pytest.raises(ValueError, match=f"leads to {secret.parent}.*out of {root}, and is not read.*follow_links"):
        records(write(root, clip))
    corpus = write(root, clip)
    corpus.follow_links = True
    assert [row.media for row in records(corpus)] == [str(root / directory / clip)]


@pytest.mark.parametrize("name", CORPORA)
def test_links_within_a_corpus_and_a_linked_root_are_read(
    name: str, root: Path, tmp_path: Path, write_clip: Write
) -> None:
    """A store of contents beside the clips, and a link to the disk that the corpus is on."""
    write, directory, clip = CORPORA[name]
    write_clip(root / "store" / "blob")
    (root / directory).mkdir()
    (root / directory / clip).symlink_to(os.path.relpath(root / "store" / "blob", root / directory))
    write(root, clip)
    (tmp_path / "link").symlink_to(root)
    for place in (root, tmp_path / "link"):
        assert [row.media for row in records(write(place, clip))] == [str(place / directory / clip)]


def test_a_linked_label_file_is_read_only_by_choice(root: Path, tmp_path: Path, write_clip: Write) -> None:
    write_clip(root / "clip" / "1.mp4")
    write_dfew(root, "1")
    labels = root / "label" / "single_trainset_5.csv"
    labels.rename(tmp_path / "elsewhere.csv")
    labels.symlink_to(tmp_path / "elsewhere.csv")
    with pytest.raises(ValueError, match=r"single_trainset_5.csv leads to .*elsewhere.csv, out of .*follow_links"):
        DFEW(str(root)).records("train")
    assert len(DFEW(str(root), follow_links=True).records("train")) == 1


def test_a_workbook_that_unpacks_to_gigabytes_is_refused_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "_LARGEST_WORKBOOK", 2**20)
    path = tmp_path / "bomb.xlsx"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("xl/sharedStrings.xml", bytes(2**20 + 1))
    assert path.stat().st_size < 2**12
    with pytest.raises(ValueError, match=r"bomb.xlsx is no XLSX workbook: it unpacks to more than the 1,048,576 bytes"):
        next(tables.read_workbook(path, ["clip"]))


def test_formulas_are_text_or_nothing(tmp_path: Path) -> None:
    book = Workbook()
    book.active.append(["clip", "label"])
    book.active.append(["00001.mp4", '=WEBSERVICE("http://localhost/")'])
    book.save(tmp_path / "a.xlsx")
    ((row, _),) = tables.read_workbook(tmp_path / "a.xlsx", ["clip", "label"])
    assert row == {"clip": "00001.mp4", "label": None}
    (tmp_path / "a.csv").write_text("clip,label\n00001.mp4,=cmd|'/c calc'!A1\n")
    ((row, _),) = tables.read_csv(tmp_path / "a.csv", ["clip", "label"])
    assert row["label"] == "=cmd|'/c calc'!A1"
