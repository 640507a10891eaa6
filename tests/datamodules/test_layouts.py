"""MELD, IEMOCAP, CREMA-D and the MER challenges, in small files of exactly their layouts."""

import csv
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from shutil import rmtree
from typing import Any

import pytest

from datamodules.clip_datamodule import ClipDataModule
from datamodules.clip_source import ClipRecord
from datamodules.cremad import CREMAD
from datamodules.iemocap import IEMOCAP
from datamodules.inspection.inspect_data import inspect_data
from datamodules.joint import Joint
from datamodules.listed import ListedCorpus
from datamodules.media_settings import MediaSettings
from datamodules.meld import MELD
from datamodules.mer import MER

pytestmark = pytest.mark.unit

Write = Callable[[Path, int], Path]

MELD_HEADER = "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,Season,Episode,StartTime,EndTime"
MELD_ROWS = {
    "train": [
        '1,"also I was the person, on my company’s",Chandler,neutral,neutral,0,0,8,21,"00:16:16,059","00:16:21,731"',
        '2,You must’ve had your hands full.,The Interviewer,joy,positive,0,1,8,21,"00:16:21,940","00:16:23,442"',
    ],
    "dev": ['1,"Oh my God, he’s lost it.",Phoebe,sadness,negative,0,0,4,7,"00:20:57,256","00:21:00,049"'],
    "test": ['1,Why do all you’re coffee mugs,Mark,surprise,positive,0,0,3,19,"00:14:38,127","00:14:40,378"'],
}
MELD_FOLDERS = {"train": "train_splits", "dev": "dev_splits_complete", "test": "output_repeated_splits_test"}

IEMOCAP_TURNS = """% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]

[0.0000 - 0.2000]\t{dialogue}_F000\tneu\t[2.5000, 2.5000, 2.5000]
C-E2:\tNeutral;\t()
A-E3:\tval 3; act 2; dom  2;\t()

[0.2000 - 0.4000]\t{dialogue}_M000\texc\t[4.0000, 3.5000, 3.5000]
C-E2:\tExcited;\t()

[0.1000 - 0.3000]\t{dialogue}_F001\txxx\t[2.5000, 3.0000, 3.0000]
C-E2:\tFrustration;\tAnger;\t()
"""


def write_meld(root: Path, write_clip: Write, nested: bool = False) -> None:
    """A copy of MELD; nested as its archives unpack, each in a folder of its own."""
    for part, rows in MELD_ROWS.items():
        folder = root / part / MELD_FOLDERS[part] if nested else root / MELD_FOLDERS[part]
        table = root / part / "train_sent_emo.csv" if nested and part == "train" else root / f"{part}_sent_emo.csv"
        for number, _ in enumerate(rows):
            write_clip(folder / f"dia0_utt{number}.mp4", number)
        table.parent.mkdir(parents=True, exist_ok=True)
        table.write_bytes("\n".join([MELD_HEADER, *rows, ""]).encode())


def write_iemocap(root: Path, write_clip: Write) -> None:
    for session in range(1, 6):
        dialogue = f"Ses0{session}F_impro01"
        folder = root / f"Session{session}" / "dialog"
        write_clip(folder / "avi" / "DivX" / f"{dialogue}.avi", session)
        for place in ("EmoEvaluation", "transcriptions"):
            (folder / place).mkdir(parents=True)
        (folder / "EmoEvaluation" / f"{dialogue}.txt").write_text(IEMOCAP_TURNS.format(dialogue=dialogue))
        (folder / "EmoEvaluation" / f"._{dialogue}.txt").write_bytes(b"\x00\x05\x16\x07")  # as the archive has them
        spoken = f"{dialogue}_F000 [000.0000-000.2000]: Excuse me.\nF: [LAUGHTER]\n"
        (folder / "transcriptions" / f"{dialogue}.txt").write_text(spoken)


def write_cremad(root: Path, write_clip: Write) -> None:
    for number, (actor, emotion) in enumerate((actor, word) for actor in (1001, 1002, 1003) for word in ("ANG", "NEU")):
        write_clip(root / "VideoFlash" / f"{actor}_IEO_{emotion}_{'XX' if emotion == 'NEU' else 'LO'}.flv", number)


def write_table(path: Path, header: str, rows: Sequence[Sequence[str]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header.split(","), *rows])
    return path


OPENSETS = {
    "sample_00000000": "['worried', 'serious', 'nervous']",
    "samplenew_00000001": "happy, joyful",
    "samplenew_00000002": "['angry', 'sad', 'dissatisfied']",
    "samplenew_00000003": "['thoughtful']",
}


def write_ovmerd(root: Path, write_clip: Write) -> None:
    for number, name in enumerate(OPENSETS):
        write_clip(root / "video" / f"{name}.mp4", number)
    write_table(root / "track2_train_ovmerd.csv", "name,openset", list(OPENSETS.items()))
    reasons = [[name, f"He said, “{name}”, and frowned."] for name in OPENSETS]
    write_table(root / "track3_train_ovmerd.csv", "name,reason", reasons)
    spoken = [[name, "你好。", "Hello." if name.startswith("samplenew") else ""] for name in OPENSETS]
    write_table(root / "subtitle_chieng.csv", "name,chinese,english", spoken)


def write_mer(root: Path, write_clip: Write) -> None:
    words = ("neutral", "angry", "happy", "sad", "worried", "surprise")
    for number in range(len(words)):
        write_clip(root / "train" / f"sample_{number:08d}.mp4", number)
    rows = [[f"sample_{number:08d}", word, "-1.5"] for number, word in enumerate(words)]
    write_table(root / "train-label.csv", "name,discrete,valence", rows)


CORPORA: dict[str, tuple[Callable[[Path, Write], None], Callable[..., ListedCorpus], dict[str, Any]]] = {
    "MELD": (write_meld, MELD, {}),
    "IEMOCAP": (write_iemocap, IEMOCAP, {}),
    "CREMAD": (write_cremad, CREMAD, {}),
    "OV-MERD": (write_ovmerd, MER, {"labels_of": "ovmerd"}),
    "MER": (write_mer, MER, {"labels_of": "mer2023"}),
}


def facts(records: Sequence[ClipRecord]) -> list[tuple[str, str | None]]:
    return [(record.id, record.target) for record in records]


@pytest.mark.filterwarnings("ignore:.* clips are left out")
@pytest.mark.parametrize("name", CORPORA)
def test_every_clip_of_every_corpus_decodes_and_nothing_is_wrong_but_the_counts(
    name: str, tmp_path: Path, write_clip: Write, settings: MediaSettings
) -> None:
    write, corpus, options = CORPORA[name]
    write(tmp_path / "data", write_clip)
    report = inspect_data(
        corpus(str(tmp_path / "data"), media=settings, **options), output=str(tmp_path / "out"), timeout_seconds=60.0
    )
    found = {finding["kind"] for finding in report["findings"] if finding["severity"] != "note"}
    assert found <= {"counts"}, report["findings"]
    assert sum(split["num_clips"] for split in report["splits"].values()) >= 3


@pytest.mark.parametrize("nested", [False, True])
def test_meld(tmp_path: Path, write_clip: Write, settings: MediaSettings, nested: bool) -> None:
    write_meld(tmp_path, write_clip, nested)
    data = MELD(str(tmp_path), media=settings, transcript_template="{transcript}")
    splits = data.read_splits()
    assert facts(splits["train"]) == [
        ("train/dia0_utt0", "neutral"), ("train/dia0_utt1", "joy"), ("dev/dia0_utt0", "sadness"),
    ]  # fmt: skip
    assert [record.is_validation for record in splits["train"]] == [False, False, True]
    assert facts(splits["test"]) == [("test/dia0_utt0", "surprise")]
    module = ClipDataModule(data)
    module.setup("test")
    (batch,) = module.test_dataloader()
    assert batch.failures == [None] and batch.questions[0].startswith("Why do all you’re coffee mugs\n")
    assert MELD(str(tmp_path), taxonomy="dfew").read_splits()["train"][1].target == "happiness"


def test_meld_counts_are_those_of_the_published_files() -> None:
    train, test = (MELD("nowhere").published(split) for split in ("train", "test"))
    assert (train.num_clips, test.num_clips) == (9989 + 1109, 2610)
    assert sum(train.classes.values()) == train.num_clips and sum(test.classes.values()) == test.num_clips
    assert test.classes["neutral"] == 1256


def test_meld_says_what_is_missing(tmp_path: Path, write_clip: Write) -> None:
    write_meld(tmp_path, write_clip)
    (tmp_path / "dev_splits_complete" / "dia0_utt0.mp4").unlink()
    assert [record.media is None for record in MELD(str(tmp_path)).read_splits()["train"]] == [False, False, True]
    (tmp_path / "dev_sent_emo.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"No MELD dev labels .*dev_sent_emo.csv, .*dev/dev_sent_emo.csv"):
        MELD(str(tmp_path)).read_splits()


@pytest.mark.filterwarnings("ignore:IEMOCAP .* clips are left out")
def test_iemocap(tmp_path: Path, write_clip: Write, settings: MediaSettings) -> None:
    write_iemocap(tmp_path / "IEMOCAP_full_release", write_clip)
    data = IEMOCAP(str(tmp_path), fold=3, media=settings)
    splits = data.read_splits()
    assert facts(splits["test"]) == [("Ses03F_impro01_F000", "neutral"), ("Ses03F_impro01_M000", "happiness")]
    assert len(splits["train"]) == 8 and not any(record.id.startswith("Ses03") for record in splits["train"])
    film = tmp_path / "IEMOCAP_full_release" / "Session3" / "dialog" / "avi" / "DivX" / "Ses03F_impro01.avi"
    assert [record.media for record in splits["test"]] == [f"{film}#t=0,0.2", f"{film}#t=0.2,0.4"]
    assert [record.transcript for record in splits["test"]] == ["Excuse me.", None]
    assert [row.label for row in data.left_out["test"]] == ["xxx"]
    module = ClipDataModule(data)
    module.setup("test")
    (batch,) = module.test_dataloader()
    assert batch.failures == [None, None]
    wide = IEMOCAP(str(tmp_path), taxonomy="iemocap6").read_splits()
    assert wide["test"][1].target == "excitement"
    sound = film.parents[3] / "sentences" / "wav" / "Ses03F_impro01" / "Ses03F_impro01_F000.wav"
    write_clip(sound, 0)
    turns = IEMOCAP(str(tmp_path), fold=3, modality="sound").read_splits()["test"]
    assert [record.media for record in turns] == [str(sound), None]


def test_a_session_that_is_not_there_is_not_tested_on(tmp_path: Path, write_clip: Write) -> None:
    write_iemocap(tmp_path, write_clip)
    rmtree(tmp_path / "Session5")
    with pytest.raises(ValueError, match="has no fold 5: its column fold has 1, 2, 3, 4"):
        IEMOCAP(str(tmp_path)).read_splits()


def test_iemocap_counts_are_the_published_ones() -> None:
    train, test = (IEMOCAP("nowhere").published(split) for split in ("train", "test"))
    assert train is not None and test is not None
    counts = Counter(train.classes) + Counter(test.classes)
    assert counts == {"anger": 1103, "happiness": 1636, "neutral": 1708, "sadness": 1084}
    assert counts.total() == 5531 and sum(test.classes.values()) == 1241
    assert train.num_clips + test.num_clips == 10039
    assert IEMOCAP("nowhere", fold=1).published("test") is None


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("[0.1 - 0.2]\tSes01F_impro01_F000\n", "Ses01F_impro01.txt:3: got .* Expected a turn of Ses01F_impro01"),
        ("[0.1 - 0.2]\tSes02F_impro01_F000\tneu\t[1, 1, 1]\n", "txt:3: got .* Expected a turn of Ses01F_impro01"),
        ("[0.2 - 0.1]\tSes01F_impro01_F000\tneu\t[1, 1, 1]\n", "txt:3: the segment ends at 0.1 s and starts at 0.2 s"),
        ("[0.1 - 0.2]\tSes01F_impro01_F000\tbla\t[1, 1, 1]\n", "txt:3: label 'bla' is not an iemocap4 emotion"),
    ],
)
def test_a_malformed_turn_is_named(tmp_path: Path, write_clip: Write, line: str, message: str) -> None:
    write_iemocap(tmp_path, write_clip)
    path = tmp_path / "Session1" / "dialog" / "EmoEvaluation" / "Ses01F_impro01.txt"
    path.write_text(f"% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n\n{line}")
    with pytest.raises(ValueError, match=message):
        IEMOCAP(str(tmp_path)).read_splits()


def test_iemocap_elsewhere(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"No IEMOCAP labels under .*Session\[1-5\]/dialog/EmoEvaluation"):
        IEMOCAP(str(tmp_path)).read_splits()
    for options, message in (({"fold": 6}, "sessions 1 to 5, got fold 6"), ({"modality": "smell"}, "film or sound")):
        with pytest.raises(ValueError, match=message):
            IEMOCAP(str(tmp_path), **options)


def test_cremad_is_tested_on_or_divided_by_actors(tmp_path: Path, write_clip: Write) -> None:
    write_cremad(tmp_path, write_clip)
    write_clip(tmp_path / "AudioWAV" / "1001_IEO_ANG_LO.wav", 0)  # the sound of a film that is there
    write_clip(tmp_path / "VideoFlash" / "notes.flv", 0)
    data = CREMAD(str(tmp_path))
    assert data.splits == ("test", "predict")
    records = data.read_splits()["test"]
    assert Counter(record.target for record in records) == {"anger": 3, "neutral": 3}
    assert {str(record.media).rpartition(".")[2] for record in records} == {"flv"}
    divided = CREMAD(str(tmp_path), test_fraction=0.3, validation_fraction=0.3).read_splits()
    actors = [{record.id[:4] for record in divided[split]} for split in ("train", "test")]
    assert actors[0] | actors[1] == {"1001", "1002", "1003"} and not actors[0] & actors[1]
    held_out = {record.id[:4] for record in divided["train"] if record.is_validation}
    assert len(held_out) == 1, "of two actors to train on, one is whole in validation"


def test_cremad_whole_corpus_has_the_published_counts(tmp_path: Path) -> None:
    published = CREMAD(str(tmp_path)).published("test")
    assert published is not None and published.num_clips == 7442
    assert published.classes == {
        "anger": 1271, "disgust": 1271, "fear": 1271, "happiness": 1271, "neutral": 1087, "sadness": 1271,
    }  # fmt: skip
    with pytest.raises(ValueError, match=r"No CREMAD clip under .* Expected names such as 1001_DFA_ANG_XX.flv"):
        CREMAD(str(tmp_path)).read_splits()


@pytest.mark.filterwarnings("ignore:MER-.* clips are left out")
def test_ovmerd_learns_all_of_the_words(tmp_path: Path, write_clip: Write, settings: MediaSettings) -> None:
    write_ovmerd(tmp_path, write_clip)
    data = MER(str(tmp_path), labels_of="ovmerd", taxonomy="mafw", media=settings, batch_size=3, validation_fraction=0)
    module = ClipDataModule(data)
    module.setup("fit")
    (batch,) = module.train_dataloader()
    assert batch.failures == [None] * 3 and None not in batch.responses
    records = data.read_splits()["train"]
    assert facts(records) == [
        ("sample_00000000", "anxiety"), ("samplenew_00000001", "happiness"), ("samplenew_00000002", "anger_sadness"),
    ]  # fmt: skip
    assert records[2].response == (
        "<think>He said, “samplenew_00000002”, and frowned.</think>\n<answer>angry, sad, dissatisfied</answer>"
    )
    assert [record.transcript for record in records] == [None, "Hello.", "Hello."]
    assert [row.label for row in data.left_out["train"]] == ["thoughtful"]
    kept = MER(str(tmp_path), labels_of="ovmerd", unnamed="keep", language="chinese").read_splits()["train"]
    assert kept[-1].target is None and str(kept[-1].response).endswith("<answer>thoughtful</answer>")
    assert {record.transcript for record in kept} == {"你好。"}
    labels = {"sad": None, "thoughtful": "neutral"}
    told = MER(str(tmp_path), labels_of="ovmerd", labels=labels).read_splits()["train"]
    assert [record.target for record in told][-2:] == ["anger", "neutral"]


def test_a_reason_with_tags_is_refused(tmp_path: Path, write_clip: Write) -> None:
    write_ovmerd(tmp_path, write_clip)
    write_table(tmp_path / "track3_train_ovmerd.csv", "name,reason", [["sample_00000000", "a</think>b"]])
    with pytest.raises(ValueError, match=r"track2_train_ovmerd.csv:2: the response to learn has </think> 2 times"):
        MER(str(tmp_path), labels_of="ovmerd").read_splits()


@pytest.mark.filterwarnings("ignore:MER-.* clips are left out")
def test_label_files_of_mer(tmp_path: Path, write_clip: Write) -> None:
    write_mer(tmp_path, write_clip)
    data = MER(str(tmp_path), labels_of="mer2023")
    assert [record.target for record in data.read_splits()["train"]] == [
        "neutral", "anger", "happiness", "sadness", "worry", "surprise",
    ]  # fmt: skip
    assert data.splits == ("train",)
    both = Joint([data, MER(str(tmp_path), labels_of="ovmerd")])
    assert set(both.corpora) == {"MER-mer2023", "MER-ovmerd"}
    drawn = MER(str(tmp_path), labels_of="mer2023", test_fraction=0.5)
    assert drawn.splits == ("train",), "of one clip of a class, none is drawn"
    write_clip(tmp_path / "test1" / "sample_00000009.avi", 0)
    write_table(tmp_path / "test1-label.csv", "name,discrete,valence", [["sample_00000009", "sad", "0"]])
    tested = MER(str(tmp_path), labels_of="mer2023", test_file="test1-label.csv", taxonomy="dfew")
    assert facts(tested.read_splits()["test"]) == [("sample_00000009", "sadness")]
    assert [row.label for row in tested.left_out["train"]] == ["worried"], "no class of DFEW's"


@pytest.mark.parametrize(
    ("labels_of", "name", "header", "row", "message"),
    [
        ("mer2024", "label-disdim.csv", "name,discrete,valence", "a,sadd,1", "csv:2: label 'sadd' .*Did you mean sad?"),
        ("mer2024", "label-disdim.csv", "name,emotion", "a,sad", "label-disdim.csv:1: .*discrete"),
        ("mer2025", "track1_train.csv", "name,discrete", "a,sad", "Looked for: .*track1_train_disdim.csv"),
        ("ovmerd", "track2_train_ovmerd.csv", "name,openset", "a,[]", "csv:2: there is no label"),
    ],
)
def test_bad_tables_of_mer_are_named(
    tmp_path: Path, write_clip: Write, labels_of: Any, name: str, header: str, row: str, message: str
) -> None:
    write_clip(tmp_path / "video" / "a.mp4", 0)
    write_table(tmp_path / name, header, [row.split(",")])
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        MER(str(tmp_path), labels_of=labels_of).read_splits()


def test_published_sizes_of_mer() -> None:
    sizes: Mapping[str, int] = {"mer2025": 7369, "mer2026": 9395, "ovmerd": 332, "mercaptionplus": 31327, "human": 1532}
    for labels_of, size in sizes.items():
        published = MER("nowhere", labels_of=labels_of).published("train")  # type: ignore[arg-type]
        assert published is not None and published.num_clips == size
    for options in ({"test_fraction": 0.2}, {"labels_of": "mer2023"}):
        assert MER("nowhere", **options).published("train") is None  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="labels_of must be one of mer2023, .*; got 'mer2019'"):
        MER("nowhere", labels_of="mer2019")  # type: ignore[arg-type]
