"""EMER's three forms: what is read, where clips are found, and every way a row can be wrong."""

import csv
import json
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torchcodec.encoders import VideoEncoder

from datamodules.clip_datamodule import ClipDataModule
from datamodules.clip_source import INSTRUCTION
from datamodules.emer import EMER
from datamodules.media_settings import MediaSettings

pytestmark = pytest.mark.unit

RESPONSE = "<think>She frowns.\nHer voice is low.</think>\n<answer>sad</answer>"


def entry(number: int, response: str = RESPONSE, question: str = INSTRUCTION) -> dict[str, Any]:
    turns = [{"from": "human", "value": f"<video>\n<audio>\n{question}"}, {"from": "gpt", "value": response}]
    return {"video": f"sample_{number:08d}.mp4", "conversations": turns}


def test_entries_become_clips_with_the_response_kept_verbatim(
    write_emer: Callable[[list], Path], settings: MediaSettings
) -> None:
    root = write_emer([entry(number) for number in range(4)])
    data = ClipDataModule(EMER(str(root), media=settings, batch_size=3))
    data.setup("fit")
    (batch,) = data.train_dataloader()
    (held_out,) = data.val_dataloader()
    assert sorted(batch.ids + held_out.ids) == [f"sample_{number:08d}" for number in range(4)]
    assert batch.targets == ["sadness"] * 3
    assert batch.responses == [RESPONSE] * 3
    assert batch.instructions == [INSTRUCTION] * 3
    assert batch.failures == [None] * 3


def test_instruction_is_the_data_modules_and_other_questions_are_counted(
    write_emer: Callable[[list], Path], settings: MediaSettings, caplog: pytest.LogCaptureFixture
) -> None:
    one_space = INSTRUCTION.replace("  ", " ")
    root = write_emer([entry(0), entry(1, question=one_space), entry(2, question="What do you see?")])
    data = ClipDataModule(EMER(str(root), media=settings, batch_size=1))
    with caplog.at_level(logging.INFO):
        data.setup("fit")
    assert "1 of 3 rows ask another question" in caplog.text
    assert {text for batch in data.train_dataloader() for text in batch.instructions} == {INSTRUCTION}


@pytest.mark.parametrize("place", ["root", "videos", "beside the JSON", "absolute"])
def test_videos_are_found_at_their_paths(tmp_path: Path, write_clip: Callable[[Path, int], Path], place: str) -> None:
    root, labels = tmp_path / "data", tmp_path / "labels"
    directory = {"root": root, "videos": root / "videos", "beside the JSON": labels, "absolute": root / "far"}[place]
    path = write_clip(directory / "sub" / "a.mp4", 0)
    row = entry(0) | {"video": str(path) if place == "absolute" else "sub/a.mp4"}
    labels.mkdir(exist_ok=True)
    (labels / "emer.json").write_text(json.dumps([row]))
    (record,) = EMER(str(root), annotations=str(labels / "emer.json")).records("train")
    assert record.media == str(path)
    assert record.id == "a"


@pytest.mark.parametrize("video", ["{outside}/a.mp4", "../outside/a.mp4", "videos/../../outside/a.mp4"])
def test_paths_that_leave_the_root_count_by_their_names_only(
    tmp_path: Path, write_clip: Callable[[Path, int], Path], video: str
) -> None:
    root = tmp_path / "data"
    outside = write_clip(tmp_path / "outside" / "a.mp4", 0)
    own = write_clip(root / "videos" / "deeper" / "a.mp4", 1)
    row = entry(0) | {"video": video.format(outside=outside.parent)}
    (root / "emer.json").write_text(json.dumps([row]))
    (record,) = EMER(str(root)).records("train")
    assert record.media == str(own)
    own.unlink()
    (record,) = EMER(str(root)).records("train")
    assert record.media is None


def test_json_answers_are_learned_verbatim_and_so_must_be_readable(write_emer: Callable[[list], Path]) -> None:
    response = "<think>x</think>\n<answer>worried</answer>"
    with pytest.raises(ValueError, match=r"json:1: label 'worried' is not a mafw emotion. Expected .*anxiety"):
        EMER(str(write_emer([entry(0, response)])), taxonomy="mafw").records("train")


def test_annotations_are_discovered_among_other_json_files(write_emer: Callable[[list], Path]) -> None:
    root = write_emer([entry(0)])
    (root / "synthetic.json").write_text('{"seed": 1}')
    assert len(EMER(str(root)).records("train")) == 1


def test_annotations_may_be_relative_to_the_root(write_emer: Callable[[list], Path]) -> None:
    root = write_emer([entry(0)])
    assert len(EMER(str(root), annotations="EMER_cold_start.json").records("train")) == 1
    with pytest.raises(FileNotFoundError, match=f"No such EMER file. Looked for: other.json, {root}/other.json"):
        EMER(str(root), annotations="other.json").records("train")


def test_several_candidates_are_named(write_emer: Callable[[list], Path]) -> None:
    root = write_emer([entry(0)])
    (root / "more.json").write_text(json.dumps([entry(1)]))
    with pytest.raises(ValueError, match=r"Several files .*EMER_cold_start.json, .*more.json.*`annotations`"):
        ClipDataModule(EMER(str(root))).setup("fit")


def test_no_candidate_names_what_was_looked_at(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no \*.json, \*.csv, dataset-v\*/\*.csv there"):
        ClipDataModule(EMER(str(tmp_path))).setup("fit")
    (tmp_path / "synthetic.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match=r"looked at: .*synthetic.json"):
        ClipDataModule(EMER(str(tmp_path))).setup("fit")


def test_test_file_gives_a_test_split(
    write_emer: Callable[[list], Path], write_clip: Callable[[Path, int], Path], settings: MediaSettings
) -> None:
    root = write_emer([entry(0), entry(1)])
    write_clip(root / "sample_00000007.mp4", 7)
    (root / "held_out.json").write_text(json.dumps([entry(7)]))
    data = ClipDataModule(EMER(str(root), test_file="held_out.json", media=settings))
    data.setup("test")
    (batch,) = data.test_dataloader()
    assert batch.ids == ["sample_00000007"]
    assert batch.targets == ["sadness"]


@pytest.mark.parametrize("stage", ["test", "predict"])
def test_without_test_file_there_is_no_test_split(write_emer: Callable[[list], Path], stage: str) -> None:
    with pytest.raises(ValueError, match=f"has no {stage} split"):
        ClipDataModule(EMER(str(write_emer([entry(0)])))).setup(stage)


def test_taxonomy_decides_which_answers_are_known(write_emer: Callable[[list], Path]) -> None:
    root = write_emer([entry(0), entry(1, "<think>x</think>\n<answer> Anxious\n</answer>")])
    assert EMER(str(root), taxonomy="mafw").records("train")[1].target == "anxiety"
    with pytest.raises(
        ValueError, match=r"EMER_cold_start.json:2: label 'Anxious' is not a dfew emotion.*taxonomy: mafw"
    ):
        ClipDataModule(EMER(str(root))).setup("fit")


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("not an object", "expected an object with `video`"),
        ({"conversations": []}, "expected an object with `video`"),
        ({"video": "", "conversations": []}, "expected an object with `video`"),
        ({"video": "a.mp4"}, "expected an object with `video` (a path) and `conversations`"),
        ({"video": "a.mp4", "conversations": []}, "one human and one gpt turn"),
        ({"video": "a.mp4", "conversations": ["hello", "there"]}, "one human and one gpt turn"),
        ({"video": "a.mp4", "conversations": list(reversed(entry(9)["conversations"]))}, "got turns from"),
        ({"video": "a.mp4", "conversations": [{"from": "human", "value": 1}, {"from": "gpt"}]}, "a text `value`"),
        (entry(9, "<answer>sad"), "has no <answer>...</answer>: '<answer>sad'"),
        (entry(9, "rather sad"), "label 'rather sad' is not a dfew emotion"),
        (entry(9, "<think>x</think>\n<answer>sad.</answer>"), "label 'sad.' is not a dfew emotion"),
    ],
)
def test_bad_entry_is_named(write_emer: Callable[[list], Path], bad: Any, message: str) -> None:
    root = write_emer([entry(0), bad])
    with pytest.raises(ValueError) as caught:
        ClipDataModule(EMER(str(root), annotations="EMER_cold_start.json")).setup("fit")
    assert message in str(caught.value)
    assert f"{root}/EMER_cold_start.json:2: " in str(caught.value)


def test_every_bad_entry_is_collected_under_inspection(write_emer: Callable[[list], Path]) -> None:
    data = EMER(str(write_emer([entry(0, "very sad"), entry(1), {"video": "a.mp4"}])))
    data.problems = []
    assert [record.id for record in data.records("train")] == ["sample_00000001"]
    assert sorted(problem.split(": ")[0].rpartition(":")[2] for problem in data.problems) == ["1", "3"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"video": "a.mp4"},]', "not valid JSON: .*line 1 column.*comma"),
        ("", "not valid JSON"),
        ("{}", "got {}. Expected a JSON list"),
        ("[]", "lists no clips"),
    ],
)
def test_bad_json_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match=f"a.json {message}|a.json: {message}"):
        ClipDataModule(EMER(str(tmp_path), annotations="a.json")).setup("fit")


def test_a_path_of_windows_is_the_clip_that_it_names(tmp_path: Path, write_clip: Callable[[Path, int], Path]) -> None:
    for number, place in enumerate(("videos/deep/a.mp4", "videos/b.mp4", "videos/sub/c.mp4")):
        write_clip(tmp_path / place, number)
    videos = ("D:\\emer\\a.mp4", "..\\videos\\b.mp4", "videos\\sub\\c.mp4")
    (tmp_path / "emer.json").write_text(json.dumps([entry(0) | {"video": video} for video in videos]))
    records = EMER(str(tmp_path)).records("train")
    assert [record.id for record in records] == ["a", "b", "c"]
    expected = [str(tmp_path / place) for place in ("videos/deep/a.mp4", "videos/b.mp4", "videos/sub/c.mp4")]
    assert [record.media for record in records] == expected


def test_a_response_with_two_answers_is_refused(write_emer: Callable[[list], Path]) -> None:
    twice = "<think>He said <answer>happy</answer> well</think>\n<answer>angry</answer>"
    with pytest.raises(ValueError, match=r"json:2: the response to learn has <answer> 2 times"):
        ClipDataModule(EMER(str(write_emer([entry(0), entry(1, twice)])))).setup("fit")


def test_line_ends_of_old_macs_do_not_end_the_search(write_emer: Callable[[list], Path]) -> None:
    root = write_emer([entry(0)])
    (root / "other.csv").write_bytes(b"a,b\r1,2\r")
    assert len(EMER(str(root)).records("train")) == 1


def test_a_json_of_another_purpose_does_not_end_the_search(write_emer: Callable[[list], Path]) -> None:
    root = write_emer([entry(0)])
    (root / "a_settings.json").write_text("{broken,")
    assert len(EMER(str(root)).records("train")) == 1
    (root / "EMER_cold_start.json").write_text('[{"video": "a.mp4"},]')
    with pytest.raises(FileNotFoundError, match=r"EMER_cold_start.json: not valid JSON: .*comma after the last item"):
        ClipDataModule(EMER(str(root))).setup("fit")


def test_a_row_behind_an_open_quotation_mark_is_not_learnt_with_it(tmp_path: Path) -> None:
    rows = [
        "sample1,happy,s,She smiles.",
        'sample2,sad,s,"He weeps.',
        "sample3,angry,s,He shouts.",
        "sample4,sad,s,No.",
    ]
    (tmp_path / "gt-eng.csv").write_text("names,emotions,subtitles,reasons\n" + "\n".join(rows) + "\n")
    (tmp_path / "videos").mkdir()
    with pytest.raises(ValueError, match=r"gt-eng.csv:3: the row that begins here has no end"):
        ClipDataModule(EMER(str(tmp_path))).setup("fit")
    data = EMER(str(tmp_path))
    data.problems = []
    assert [record.id for record in data.records("train")] == ["sample1"]
    assert len(data.problems) == 1


def test_same_video_twice_is_refused(write_emer: Callable[[list], Path]) -> None:
    with pytest.raises(ValueError, match=r"'sample_00000000' is listed twice: .*json:1 and .*json:2"):
        ClipDataModule(EMER(str(write_emer([entry(0), entry(0)])))).setup("fit")


V1_HEADER = ["names", "emotions", "subtitles", "reasons"]
V1_ROWS = [
    ["sample_00000003", "angry", "Get out!", 'He shouts "get out".\nHis fists are clenched.'],
    ["sample_00000011", "worried", "", "She bites her lip, and her voice trembles."],
    ["sample_00000012", "happy", "Hello, you.", "She smiles broadly."],
    ["sample_00000020", "sad", "Oh.", "He looks down."],
    ["sample_00000021", "surprise", "What?", "Her eyebrows are raised."],
]
V2_HEADER = ["name", "chinese", "english"]
V2_ROWS = [
    ["sample_00000003", "他在大喊。", "He shouts."],
    ["sample_00000011", "她咬着嘴唇。", "She bites her lip, and looks away."],
]
MER2023_HEADER = ["name", "discrete", "valence"]
MER2023_ROWS = [
    ["sample_00000003", "angry", "-1.2"],
    ["sample_00000011", "worried", "-0.5"],
    ["other", "neutral", "0.1"],
]


def write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[str]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])
    return path


def write_grey_clip(path: Path, number: int) -> Path:
    """A clip in the container of its suffix, AVI among them; each number is 40 grey levels lighter."""
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = torch.full((10, 3, 64, 64), 40 * (number + 1), dtype=torch.uint8)
    VideoEncoder(frames=frames, frame_rate=25).to_file(str(path))
    return path


@pytest.mark.parametrize("media", ["train/{}.avi", "videos/{}.mp4", "{}.mp4", "clips/deeper/{}.avi"])
def test_v1_becomes_rationale_and_answer(tmp_path: Path, settings: MediaSettings, media: str) -> None:
    write_csv(tmp_path / "gt-eng.csv", V1_HEADER, V1_ROWS)
    for number, row in enumerate(V1_ROWS):
        write_grey_clip(tmp_path / media.format(row[0]), number)
    data = ClipDataModule(EMER(str(tmp_path), taxonomy="mafw", media=settings, batch_size=5))
    data.setup("fit")
    (batch,) = data.train_dataloader()
    assert batch.failures == [None] * 5
    assert dict(zip(batch.ids, batch.targets, strict=True)) == {
        "sample_00000003": "anger",
        "sample_00000011": "anxiety",
        "sample_00000012": "happiness",
        "sample_00000020": "sadness",
        "sample_00000021": "surprise",
    }
    shouting = batch.ids.index("sample_00000003")
    assert batch.responses[shouting] == (
        '<think>He shouts "get out".\nHis fists are clenched.</think>\n<answer>anger</answer>'
    )
    brightness = batch.frames.float().mean(dim=(1, 2, 3, 4))
    assert brightness[shouting].item() == pytest.approx(40, abs=4)
    assert brightness[batch.ids.index("sample_00000021")].item() == pytest.approx(200, abs=4)


def test_chinese_v1_has_chinese_labels(tmp_path: Path) -> None:
    write_csv(tmp_path / "gt-eng.csv", V1_HEADER, V1_ROWS)
    words = ["生气", "高兴", "担忧", "悲伤", "惊讶"]
    write_csv(tmp_path / "gt-chi.csv", V1_HEADER, [[f"s{n}", word, "", "他皱眉。"] for n, word in enumerate(words)])
    records = EMER(str(tmp_path), language="chinese", taxonomy="mafw").records("train")
    assert [record.target for record in records] == ["anger", "happiness", "anxiety", "sadness", "surprise"]
    assert records[0].response == "<think>他皱眉。</think>\n<answer>anger</answer>"
    assert EMER(str(tmp_path), taxonomy="mafw").label_file("train").name == "gt-eng.csv"


@pytest.mark.parametrize(("language", "reason"), [("english", "He shouts."), ("chinese", "他在大喊。")])
def test_v2_takes_its_labels_from_mer2023(tmp_path: Path, language: Any, reason: str) -> None:
    write_csv(tmp_path / "dataset-v2" / "final-EMER-reason.csv", V2_HEADER, V2_ROWS)
    write_csv(tmp_path / "train-label.csv", MER2023_HEADER, MER2023_ROWS)
    data = EMER(str(tmp_path), language=language, taxonomy="mafw")
    first, second = data.records("train")
    assert (first.id, first.target, second.target) == ("sample_00000003", "anger", "anxiety")
    assert first.response == f"<think>{reason}</think>\n<answer>anger</answer>"
    assert first.source.endswith("final-EMER-reason.csv:2")


def test_v2_labels_may_be_named(tmp_path: Path) -> None:
    write_csv(tmp_path / "emer" / "final-EMER-reason.csv", V2_HEADER, V2_ROWS[:1])
    labels = write_csv(tmp_path / "mer2023" / "labels.csv", MER2023_HEADER, MER2023_ROWS)
    (record,) = EMER(str(tmp_path / "emer"), labels=str(labels)).records("train")
    assert record.target == "anger"


def test_v2_without_labels_says_what_to_get(tmp_path: Path) -> None:
    write_csv(tmp_path / "final-EMER-reason.csv", V2_HEADER, V2_ROWS)
    tested = dict.fromkeys(("annotations", "test_file"), "final-EMER-reason.csv")
    for stage, options in (("fit", {}), ("test", {}), ("fit", tested)):
        with pytest.raises((FileNotFoundError, ValueError)) as caught:
            ClipDataModule(EMER(str(tmp_path), **options)).setup(stage)  # type: ignore[arg-type]
        assert f"{tmp_path}/train-label.csv" in str(caught.value)
        assert "name,discrete,valence" in str(caught.value)
        assert "`labels`" in str(caught.value)


def test_v2_without_labels_is_there_to_predict(
    tmp_path: Path, write_clip: Callable[[Path, int], Path], settings: MediaSettings
) -> None:
    write_csv(tmp_path / "final-EMER-reason.csv", V2_HEADER, V2_ROWS)
    for number, (name, *_) in enumerate(V2_ROWS):
        write_clip(tmp_path / "train" / f"{name}.mp4", number)
    data = ClipDataModule(EMER(str(tmp_path), media=settings))
    data.setup("predict")
    (batch,) = data.predict_dataloader()
    assert batch.ids == [name for name, *_ in V2_ROWS] and batch.failures == [None] * len(V2_ROWS)
    assert set(batch.targets) == set(batch.responses) == {None}


@pytest.mark.parametrize("prefix", ["<video>\n<audio>\n", "<video>", "<audio>\n", "<video><audio>", ""])
def test_bare_labels_of_the_authors_stage_3_file_are_read_in_every_stage(
    tmp_path: Path,
    write_clip: Callable[[Path, int], Path],
    settings: MediaSettings,
    caplog: pytest.LogCaptureFixture,
    prefix: str,
) -> None:
    answers = ("sad", "angry\n", "happy")
    entries = []
    for number, answer in enumerate(answers):
        write_clip(tmp_path / "MAFW" / "clips" / f"0000{number}.mp4", number)
        turns = [{"from": "human", "value": prefix + INSTRUCTION}, {"from": "gpt", "value": answer}]
        entries.append({"video": f"D:\\data\\MAFW\\clips\\0000{number}.mp4", "conversations": turns})
    (tmp_path / "rlvr.json").write_text(json.dumps(entries))
    with caplog.at_level(logging.INFO):
        options = {"annotations": "rlvr.json", "test_file": "rlvr.json", "media": settings, "validation_fraction": 0.0}
        source = EMER(str(tmp_path), **options, batch_size=3)  # type: ignore[arg-type]
        source.problems = []  # the two splits are one file here
        data = ClipDataModule(source)
        for stage in ("fit", "test", "predict"):
            data.setup(stage)
    for loader in (data.train_dataloader(), data.test_dataloader(), data.predict_dataloader()):
        (batch,) = loader
        told = dict(zip(batch.targets, batch.responses, strict=True))
        assert told == {"sadness": "sad", "anger": "angry\n", "happiness": "happy"}
    assert "3 of 3 answers are bare labels" in caplog.text and "another question" not in caplog.text


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (["sample_00000099", "他", "He"], r"reason.csv:4: clip 'sample_00000099' has no label in .*train-label.csv"),
        (["sample_00000003", "他", " "], r"reason.csv:4: got name 'sample_00000003' and english ''"),
        (["", "他", "He"], r"reason.csv:4: got name ''"),
        (["sample_00000003", "他"], r"reason.csv:4: got .* Expected 3 fields: name,chinese,english"),
        (V2_ROWS[0], r"'sample_00000003' is listed twice: .*reason.csv:2 and .*reason.csv:4"),
    ],
)
def test_bad_v2_row_is_named(tmp_path: Path, row: list[str], message: str) -> None:
    write_csv(tmp_path / "final-EMER-reason.csv", V2_HEADER, [*V2_ROWS, row])
    write_csv(tmp_path / "train-label.csv", MER2023_HEADER, MER2023_ROWS)
    with pytest.raises(ValueError, match=message):
        ClipDataModule(EMER(str(tmp_path), taxonomy="mafw")).setup("fit")


def test_contradicting_mer2023_labels_are_named(tmp_path: Path) -> None:
    write_csv(tmp_path / "final-EMER-reason.csv", V2_HEADER, V2_ROWS)
    write_csv(tmp_path / "train-label.csv", MER2023_HEADER, [*MER2023_ROWS, ["sample_00000003", "sad", "0"]])
    with pytest.raises(ValueError, match=r"train-label.csv:5: clip 'sample_00000003' has another label"):
        ClipDataModule(EMER(str(tmp_path), taxonomy="mafw")).setup("fit")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (["s", "joyful", "", "She smiles."], r"gt-eng.csv:4: label 'joyful' is not a mafw emotion"),
        (["s", "", "", "She smiles."], r"gt-eng.csv:4: label '' is not a mafw emotion"),
        (["s", "sad", "", ""], r"gt-eng.csv:4: got names 's' and reasons ''"),
        (["", "sad", "", "She cries."], r"gt-eng.csv:4: got names ''"),
    ],
)
def test_bad_v1_row_is_named(tmp_path: Path, row: list[str], message: str) -> None:
    write_csv(tmp_path / "gt-eng.csv", V1_HEADER, [*V1_ROWS[1:3], row])
    with pytest.raises(ValueError, match=message):
        ClipDataModule(EMER(str(tmp_path), taxonomy="mafw")).setup("fit")


def test_anxiety_needs_mafws_taxonomy(tmp_path: Path) -> None:
    write_csv(tmp_path / "gt-eng.csv", V1_HEADER, V1_ROWS[1:3])
    with pytest.raises(ValueError, match=r"gt-eng.csv:2: label 'worried' .*mafw's anxiety. Set `taxonomy: mafw`"):
        ClipDataModule(EMER(str(tmp_path))).setup("fit")


def test_other_csv_is_refused_and_not_discovered(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "scores.csv", ["name", "score"], [["a", "1"]])
    with pytest.raises(FileNotFoundError, match=r"looked at: .*scores.csv.*names,emotions,subtitles,reasons or name,"):
        ClipDataModule(EMER(str(tmp_path))).setup("fit")
    with pytest.raises(ValueError, match=r"scores.csv:1: got the header 'name,score'. Expected names,.*\(EMER v1\)"):
        ClipDataModule(EMER(str(tmp_path), annotations=path.name)).setup("fit")


def test_clip_in_a_json_and_in_a_csv_is_one_clip(
    write_emer: Callable[[list], Path], write_clip: Callable[[Path, int], Path]
) -> None:
    root = write_emer([entry(3), entry(4)])
    write_csv(root / "held_out" / "gt-eng.csv", V1_HEADER, V1_ROWS[:1])
    with pytest.raises(ValueError, match=r"1 clips are in both train and test, e.g. 'sample_00000003'"):
        ClipDataModule(EMER(str(root), test_file="held_out/gt-eng.csv")).setup("test")


def test_published_counts_are_those_of_the_form_found(tmp_path: Path, write_emer: Callable[[list], Path]) -> None:
    write_csv(tmp_path / "v1" / "gt-eng.csv", V1_HEADER, V1_ROWS)
    write_csv(tmp_path / "v2" / "final-EMER-reason.csv", V2_HEADER, V2_ROWS)
    published = [EMER(str(tmp_path / form)).published("train") for form in ("v1", "v2")]
    assert [counts.num_clips for counts in published if counts] == [100, 332]
    assert [Counter(counts.classes).total() for counts in published if counts] == [100, 331]
    assert EMER(str(write_emer([entry(0)]))).published("train") is None
