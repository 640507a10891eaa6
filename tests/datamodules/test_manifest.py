"""Clips listed in a table: formats, columns, splits, segments, and what is wrong with a row."""

import json
import pickle
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from datamodules.clip_datamodule import ClipDataModule
from datamodules.clip_source import INSTRUCTION, ClipRecord
from datamodules.inspection.checks import ClipCheck
from datamodules.inspection.contact_sheet import choose_clips
from datamodules.inspection.inspect_data import inspect_data
from datamodules.manifest import Manifest
from datamodules.media_settings import MediaSettings

pytestmark = pytest.mark.unit

ROWS = [
    ["a/1.mp4", "happy", "train", "anna"],
    ["a/2.mp4", "anger", "train", "anna"],
    ["b/1.mp4", "angry", "val", "ben"],
    ["b/2.mp4", "sadness", "test", "eve"],
]


@pytest.fixture
def table(tmp_path: Path) -> Callable[..., Path]:
    """Write rows below a header as CSV, TSV, JSONL or Parquet."""

    def write(rows: list[list[Any]], header: str = "path,emotion,split,speaker", name: str = "clips.csv") -> Path:
        path, columns = tmp_path / name, header.split(",")
        if path.suffix == ".parquet":
            from pyarrow import Table
            from pyarrow.parquet import write_table

            write_table(Table.from_pylist([dict(zip(columns, row, strict=True)) for row in rows]), path)
        elif path.suffix == ".jsonl":
            path.write_text("\n".join(json.dumps(dict(zip(columns, row, strict=True))) for row in rows))
        else:
            delimiter = "\t" if path.suffix == ".tsv" else ","
            path.write_text("\n".join(delimiter.join(map(str, row)) for row in [columns, *rows]))
        return path

    return write


@pytest.fixture
def folder(tmp_path: Path, write_clip: Callable[[Path, int], Path]) -> Path:
    for number, row in enumerate(ROWS):
        write_clip(tmp_path / row[0], number)
    return tmp_path


def facts(records: list[ClipRecord]) -> list[tuple]:
    return [(record.id, record.target, record.is_validation) for record in records]


@pytest.mark.parametrize("name", ["clips.csv", "clips.tsv", "clips.jsonl", "clips.parquet"])
def test_every_format_gives_the_same(name: str, table: Callable[..., Path], folder: Path) -> None:
    splits = Manifest(str(table(ROWS, name=name)), taxonomy="dfew").read_splits()
    assert facts(splits["train"]) == [("a/1", "happiness", False), ("a/2", "anger", False), ("b/1", "anger", True)]
    assert facts(splits["test"]) == facts(splits["predict"]) == [("b/2", "sadness", False)]
    assert [record.media for record in splits["test"]] == [str(folder / "b/2.mp4")]
    assert splits["test"][0].source == f"{folder / name}:{5 if name.endswith('sv') else 4}"


def test_a_manifest_can_be_sent_to_another_process(table: Callable[..., Path], folder: Path) -> None:
    data = Manifest(str(table(ROWS)), taxonomy="dfew")
    splits = data.read_splits()
    assert pickle.loads(pickle.dumps(data)).read_splits() == splits


def test_batches_of_a_manifest(table: Callable[..., Path], folder: Path, settings: MediaSettings) -> None:
    rows = [[*row[:3], prompt] for row, prompt in zip(ROWS, ["Why?", "", "", "What?"], strict=True)]
    path = table(rows, "path,emotion,split,prompt")
    data = ClipDataModule(Manifest(str(path), taxonomy="dfew", media=settings, batch_size=2))
    for stage in ("fit", "test"):
        data.setup(stage)
    (batch,) = data.train_dataloader()
    asked = dict(zip(batch.ids, batch.instructions, strict=True))
    assert asked == {"a/1": "Why?", "a/2": INSTRUCTION}, "a clip's own prompt, or that of all"
    assert [len(data.datasets[name]) for name in ("train", "validation", "test")] == [2, 1, 1]
    (batch,) = data.test_dataloader()
    assert (batch.ids, batch.targets, batch.datasets) == (["b/2"], ["sadness"], ["Manifest"])
    assert batch.frames.float().mean().item() == pytest.approx(160, abs=4)


def test_columns_by_map_and_labels_by_table(table: Callable[..., Path], folder: Path) -> None:
    rows = [["1", "joyful"], ["2", "bored"]]
    path = table(rows, "video_id,gold")
    (folder / "a/1.mp4").rename(folder / "1.mp4")
    (folder / "b/1.mp4").unlink()
    (folder / "b/2.mp4").unlink()
    data = Manifest(
        str(path),
        columns={"media": "video_id", "label": "gold"},
        labels={"Joyful": "happy", "bored": None},
        test_fraction=0,
    )
    with pytest.warns(UserWarning, match=r"1 clips are left out, .*\(bored 1\)"):
        (record,) = data.read_splits()["train"]
    assert (record.id, record.media, record.target) == ("1", str(folder / "1.mp4"), "happiness")
    assert [row.label for row in data.left_out["train"]] == ["bored"]


def test_transcripts_stand_before_the_question(
    table: Callable[..., Path], folder: Path, settings: MediaSettings
) -> None:
    said = 'Well, {x} is 5 % "off" <answer>'
    rows = [["a/1.mp4", "happy", said, ""], ["a/2.mp4", "anger", "", ""], ["b/1.mp4", "anger", "No", "Why?"]]
    path = table([[*row, "test"] for row in rows], "path,emotion,transcript,prompt,split", "c.jsonl")
    template = 'They say: "{transcript}"'
    questions = []
    for given in (template, None):
        data = ClipDataModule(Manifest(str(path), taxonomy="dfew", media=settings, transcript_template=given))
        data.setup("test")
        (batch,) = data.test_dataloader()
        questions.append(batch.questions)
        assert batch.transcripts == [said, None, "No"]
    assert questions[0] == [f'They say: "{said}"\n{INSTRUCTION}', INSTRUCTION, 'They say: "No"\nWhy?']
    assert questions[1] == [INSTRUCTION, INSTRUCTION, "Why?"]
    with pytest.raises(ValueError, match=r"transcript_template must have {transcript} in it; got 'They say:'"):
        Manifest(str(path), transcript_template="They say:")


def test_rationales_transcripts_and_several_labels(table: Callable[..., Path], folder: Path) -> None:
    rows = [["a/1.mp4", "happy", "She smiles.", "Hello"], ["a/2.mp4", "disgust;anger", "", ""]]
    data = Manifest(str(table(rows, "path,labels,reason,subtitle")), test_fraction=0)
    first, second = data.read_splits()["train"]
    assert first.response == "<think>She smiles.</think>\n<answer>happiness</answer>"
    assert (first.transcript, second.transcript, second.response) == ("Hello", None, None)
    assert second.target == "anger_disgust", "in the taxonomy's order"
    sections = "<context>A party.</context><think>She smiles.</think>"
    rows[0][2] = sections
    data = Manifest(str(table(rows, "path,labels,reason,subtitle")), test_fraction=0)
    assert data.read_splits()["train"][0].response == f"{sections}\n<answer>happiness</answer>", "as it is written"
    path = folder / "lists.jsonl"
    path.write_text('{"path": "a/2.mp4", "labels": ["disgust", "anger"]}\n')
    assert Manifest(str(path), test_fraction=0).read_splits()["train"][0].target == "anger_disgust"


def test_without_labels_there_is_only_to_predict(table: Callable[..., Path], folder: Path) -> None:
    splits = Manifest(str(table([[row[0]] for row in ROWS], "file"))).read_splits()
    assert list(splits) == ["predict"] and len(splits["predict"]) == 4
    splits = Manifest(str(table([[row[0], "test"] for row in ROWS], "file,split")), split_values={"predict": "test"})
    assert list(splits.read_splits()) == ["predict"]


NO_LABEL = r"clips.csv:1: there is no label column.*Got file, gold.*Name it: data.columns: \{label: NAME\}"


def test_a_label_column_that_is_not_known_is_told_of(
    table: Callable[..., Path], folder: Path, settings: MediaSettings
) -> None:
    path = table([row[:3] for row in ROWS], "file,gold,split")
    with pytest.raises(ValueError, match=NO_LABEL):
        Manifest(str(path)).read_splits()
    report = inspect_data(Manifest(str(path)), output=str(folder / "out"), decode=False)
    (finding,) = (finding for finding in report["findings"] if finding["kind"] != "surplus")
    assert finding["severity"] == "error"
    assert finding["count"] == 1 and re.search(NO_LABEL, finding["examples"][0])
    path = table([row[:2] for row in ROWS], "file,gold")
    with pytest.raises(ValueError, match=f"has no train split; it has predict. .*{NO_LABEL}"):
        ClipDataModule(Manifest(str(path), media=settings)).setup("fit")
    report = inspect_data(Manifest(str(path)), output=str(folder / "out"), decode=False)
    assert [(finding["kind"], finding["count"]) for finding in report["findings"]] == [("absent", 1)]
    assert re.search(NO_LABEL, report["absent"][0])


def many(table: Callable[..., Path]) -> Path:
    """300 clips of three classes by 20 speakers, in 5 folds."""
    emotions = ("anger", "fear", "neutral")
    rows = [[f"{i}.mp4", emotions[i % 3], f"speaker {i % 20}", i % 5 + 1] for i in range(300)]
    return table(rows, "path,label,speaker,fold")


def test_folds(table: Callable[..., Path]) -> None:
    splits = Manifest(str(many(table)), fold=2).read_splits()
    assert [record.id for record in splits["test"]] == [str(i) for i in range(300) if i % 5 == 1]
    assert len(splits["train"]) == 240
    with pytest.raises(ValueError, match="has a column of folds, fold. Set data.fold"):
        Manifest(str(many(table))).read_splits()
    with pytest.raises(ValueError, match="clips.csv has no fold 7: its column fold has 1, 2, 3, 4, 5"):
        Manifest(str(many(table)), fold=7).read_splits()


def test_a_draw_is_stratified_and_depends_on_the_seed(table: Callable[..., Path]) -> None:
    path = table([[f"{i}.mp4", ("anger", "fear", "neutral")[i % 3]] for i in range(300)], "path,label")
    splits = Manifest(str(path), test_fraction=0.1).read_splits()
    assert Counter(record.target for record in splits["test"]) == {"anger": 10, "fear": 10, "neutral": 10}
    assert Manifest(str(path), test_fraction=0.1).read_splits() == splits
    assert Manifest(str(path), test_fraction=0.1, seed=1).read_splits()["test"] != splits["test"]


def test_a_row_twice_is_not_drawn_into_two_splits(table: Callable[..., Path]) -> None:
    rows = [[f"{i}.mp4", "anger"] for i in range(20)]
    for seed in range(5):
        with pytest.raises(ValueError, match="Clip '3' is listed twice: .*:5 and .*:22"):
            Manifest(str(table([*rows, rows[3]], "path,label")), seed=seed).read_splits()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_no_speaker_is_on_two_sides(table: Callable[..., Path], seed: int) -> None:
    rows = [[f"{i}.mp4", ("anger", "fear", "neutral")[i % 3], f"s{i % 20}"] for i in range(300)]
    path = table(rows, "path,label,speaker")
    splits = Manifest(str(path), by_speaker=True, validation_fraction=0.1, seed=seed).read_splits()
    sides: dict[str, set[int]] = {"train": set(), "validation": set(), "test": set()}
    for split, records in splits.items():
        for record in records:
            if split != "predict":
                sides["validation" if record.is_validation else split].add(int(record.id) % 20)
    assert sum(map(len, sides.values())) == 20 == len(set.union(*sides.values()))
    assert len(sides["test"]) == 4 and len(sides["validation"]) in (1, 2)
    shares = Counter(record.target for record in splits["test"])
    assert set(shares.values()) == {20}


def test_segments_of_one_file_are_clips_of_their_own(
    table: Callable[..., Path], folder: Path, settings: MediaSettings
) -> None:
    rows = [["a/1.mp4", "fear", 0, "0.2"], ["a/1.mp4", "anger", "0:00:00,2", ""], ["a/1.mp4", "neutral", "", ""]]
    path = table([row[:2] + [f'"{row[2]}"', row[3]] for row in rows], "path,label,start,end")
    data = ClipDataModule(Manifest(str(path), test_fraction=0, media=settings, validation_fraction=0))
    data.setup("fit")
    records = data.datasets["train"].records
    assert [record.id for record in records] == ["a/1#t=0,0.2", "a/1#t=0.2", "a/1"]
    assert [record.media.removeprefix(str(folder)) for record in records] == [
        f"/{record.id[:3]}.mp4{record.id[3:]}" for record in records
    ]
    clips = [data.datasets["train"][i] for i in range(3)]
    assert [clip.failure for clip in clips] == [None] * 3
    assert [clip.duration_seconds for clip in clips] == pytest.approx([0.2, 0.2, 0.4])


def test_a_label_of_a_taxonomy_that_begins_with_a_vowel(table: Callable[..., Path]) -> None:
    with pytest.raises(ValueError, match="'joy' is not an ekman emotion"):
        Manifest(str(table([["1.mp4", "joy"]], "path,label")), taxonomy="ekman").read_splits()


BAD_ROWS = [
    ([["", "happy", "train", "x"]], ":2: the column path is empty. Expected a media file"),
    ([["a/1.mp4", "hapy", "train", "x"]], ":2: label 'hapy' is not a dfew emotion.*Did you mean happy.*data.labels"),
    ([["a/1.mp4", "", "train", "x"]], ":2: there is no label. .*predict"),
    ([["a/1.mp4", "happy", "holdout", "x"]], ":2: the split is 'holdout'. .*split_values"),
    ([["/etc/passwd", "happy", "train", "x"]], ":2: '/etc/passwd' is not below .*data.root"),
    ([["../x.mp4", "happy", "train", "x"]], ":2: '../x.mp4' is not below"),
    ([["a/1.mp4", "happy", "train"]], ":2: got .*Expected 4 fields"),
    ([ROWS[0], ROWS[0]], "Clip 'a/1' is listed twice: .*:2 and .*:3"),
    ([ROWS[0], [ROWS[0][0], "happy", "test", "x"]], "1 clips are in both train and test"),
]  # fmt: skip


@pytest.mark.parametrize(("rows", "problem"), BAD_ROWS)
def test_a_bad_row_is_named_with_the_way_out(rows: list, problem: str, tmp_path: Path, folder: Path) -> None:
    path = tmp_path / "clips.csv"
    path.write_text("\n".join(",".join(row) for row in [["path", "emotion", "split", "speaker"], *rows]))
    with pytest.raises(ValueError, match=problem):
        Manifest(str(path), taxonomy="dfew").read_splits()


@pytest.mark.parametrize(
    ("start", "end", "problem"),
    [
        ("5", "2", "ends at 2 s and starts at 5 s"),
        ("-1", "2", "start holds '-1'. Expected seconds, or h:mm:ss"),
        ("nan", "2", "start holds 'nan'"),
        ("soon", "", "start holds 'soon'"),
    ],
)
def test_a_bad_segment(start: str, end: str, problem: str, table: Callable[..., Path], folder: Path) -> None:
    with pytest.raises(ValueError, match=rf":2: .*{problem}"):
        Manifest(str(table([["a/1.mp4", "fear", start, end]], "path,label,start,end"))).read_splits()


@pytest.mark.parametrize(
    ("header", "options", "problem"),
    [
        ("kind,emotion", {}, r":1: there is no media column.*Got kind, emotion.*data.columns: \{media: NAME\}"),
        ("path,file", {}, r":1: path and file may each be the media column. Say which: data.columns: \{media: path\}"),
        ("path,emotion", {"columns": {"label": "emotoin"}}, "no column 'emotoin' for label.*Did you mean emotion"),
        ("path;emotion", {}, r":1: got one column, 'path;emotion', .*separated by ';'.*commas"),
        ("path,path", {}, ":1: the column path is there 2 times"),
        ("path,emotion", {"by_speaker": True}, "no speaker column, which data.by_speaker asks for"),
        ("path,emotion", {"fold": 1}, "no fold column, which data.fold asks for"),
    ],
)
def test_bad_columns(header: str, options: dict, problem: str, table: Callable[..., Path], folder: Path) -> None:
    with pytest.raises(ValueError, match=problem):
        Manifest(str(table([["a/1.mp4", "fear"]], header)), **options).read_splits()


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"columns": {"lable": "x"}}, "columns has 'lable'. .*Did you mean label"),
        ({"split_values": {"valid": "x"}}, "Did you mean validation"),
        ({"test_fraction": 1.0}, "test_fraction must be in"),
        ({"label_separator": ""}, "label_separator must be text"),
        ({"taxonomy": "dfwe"}, "Unknown taxonomy"),
    ],
)
def test_bad_options(options: dict, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        Manifest("clips.csv", **options)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"path": "a/1.mp4", "label": true}', ":2: the column label holds True. Expected text or a number"),
        ('{"path": {"x": 1}, "label": "fear"}', ":2: the column path holds .*Expected text or a number"),
        ('["a/1.mp4", "fear"]', ":2: got .*Expected a JSON object"),
        ('{"path": "a/1.mp4", "label": "fear", "label": "joy"}', ":2: .*twice"),
        ('{"path": "a/1.mp4", "label": 3}', ":2: label '3' is not a mafw emotion"),
    ],
)
def test_mixed_types(line: str, problem: str, folder: Path) -> None:
    path = folder / "clips.jsonl"
    path.write_text('{"path": "a/2.mp4", "label": "fear"}\n' + line)
    with pytest.raises(ValueError, match=problem):
        Manifest(str(path)).read_splits()


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("clips.xlsx", b"x", "ends in .xlsx. Expected .csv, .tsv, .jsonl"),
        ("clips.csv", b"", "the file is empty"),
        ("clips.csv", b"path,label\n", "lists no clips"),
        ("clips.csv", b"\xff\xfep\x00a\x00", "not UTF-8.*UTF-16"),
        ("clips.parquet", b"no parquet", "is no Parquet file"),
    ],
)
def test_a_file_that_is_no_table(name: str, content: bytes, problem: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=problem):
        Manifest(str(tmp_path / name)).read_splits()


def test_a_folder_is_no_table(folder: Path) -> None:
    expected = "is a folder, not a file. Expected a table; --data Clips takes a folder of media"
    with pytest.raises(FileNotFoundError, match=f"{folder} {expected}"):
        Manifest(str(folder)).read_splits()


def test_a_link_that_leads_out_is_not_followed(table: Callable[..., Path], tmp_path: Path, folder: Path) -> None:
    root = tmp_path / "inside"
    root.mkdir()
    (root / "x.mp4").symlink_to(folder / "a/1.mp4")
    path = table([["x.mp4", "fear"]], "path,label", "inside/clips.csv")
    with pytest.raises(ValueError, match="leads to .*follow_links"):
        Manifest(str(path)).read_splits()
    (root / "folder").symlink_to(folder / "b", target_is_directory=True)
    with pytest.raises(ValueError, match=r":2: .*folder leads to .*follow_links"):
        Manifest(str(table([["folder/1.mp4", "fear"]], "path,label", "inside/more.csv"))).read_splits()
    data = Manifest(str(path), follow_links=True, test_fraction=0)
    assert data.read_splits()["train"][0].media == str(root / "x.mp4")


def test_a_name_of_two_files(table: Callable[..., Path], folder: Path) -> None:
    with pytest.raises(ValueError, match=r":2: '1' may be .*1.mp4 or .*1.mp4. Write the path with its suffix"):
        Manifest(str(table([["1", "fear"]], "path,label"))).read_splits()


def test_inspection(table: Callable[..., Path], folder: Path, settings: MediaSettings) -> None:
    rows = [
        ["a/1.mp4", "fear", 0, 0.2],
        ["a/1.mp4", "fear", 0.3, 9],
        ["b/1.mp4", "joy", "", ""],
        ["c.mp4", "fear", 1, 2],
    ]
    path = table([*rows, ["b/2.mp4", "bored", "", ""]], "path,label,start,end")
    data = Manifest(str(path), media=settings, labels={"bored": None}, test_fraction=0)
    with pytest.warns(UserWarning, match="left out"):
        report = inspect_data(data, output=str(folder / "out"), num_workers=1, clips_per_class=1)
    findings = {finding["kind"]: finding["examples"] for finding in report["findings"]}
    assert "label 'joy' is not a mafw emotion" in findings["label_problems"][0]
    (undecodable,) = report["decoding"]["undecodable"]
    assert "the segment 0.3–9 s is not within the file, which lasts 0.40 s" in undecodable["reason"]
    assert undecodable["source"] == f"{path}:3", "its row"
    assert findings["missing"] == [f"c#t=1,2 ({path}:5)"]
    assert findings["surplus"] == [str(folder / "a/2.mp4"), str(folder / "b/1.mp4")]
    assert findings["left_out"] == ["train: bored (1)"]
    assert report["splits"]["train"]["classes"]["fear"] == 3


def test_inspection_tells_validation_from_training(
    table: Callable[..., Path],
    folder: Path,
    settings: MediaSettings,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.chdir(folder)
    data = Manifest(str(table(ROWS)), taxonomy="dfew", media=settings)
    report = inspect_data(data, num_workers=1, clips_per_class=0)
    assert (folder / "runs/inspect/Manifest/clips/report.json").is_file(), "another table has another place"
    assert report["splits"]["train"]["validation"] == {"anger": 1} and report["splits"]["test"]["validation"] == {}
    table_rows = [[cell.strip() for cell in line.split("│")] for line in capsys.readouterr().out.splitlines()]
    assert ["", "anger", "2", "1", "0", ""] in table_rows and ["", "all", "3", "1", "1", ""] in table_rows
    checks = {record.media: ClipCheck(None) for records in data.read_splits().values() for record in records}
    chosen = choose_clips(data, data.read_splits(), checks, clips_per_class=9, seed=0)["anger"]
    assert {record.id: split for split, record in chosen} == {"a/2": "train", "b/1": "validation"}


def test_one_bad_row_among_many(table: Callable[..., Path], folder: Path) -> None:
    rows = [[f"{i}.mp4", "fear" if i != 7000 else "fears"] for i in range(10_000)]
    with pytest.raises(ValueError, match=r"clips.csv:7002: label 'fears' .*Did you mean fear"):
        Manifest(str(table(rows, "path,label"))).read_splits()
