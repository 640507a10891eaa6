"""EMER's conversation JSON: what is read, and every way an entry can be wrong."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from datamodules.clip_datamodule import INSTRUCTION
from datamodules.emer import EMER
from datamodules.media import MediaSettings

pytestmark = pytest.mark.unit

RESPONSE = "<think>She frowns.\nHer voice is low.</think>\n<answer>sad</answer>"


def entry(number: int, response: str = RESPONSE, question: str = INSTRUCTION) -> dict[str, Any]:
    turns = [{"from": "human", "value": f"<video>\n<audio>\n{question}"}, {"from": "gpt", "value": response}]
    return {"video": f"sample_{number:08d}.mp4", "conversations": turns}


def test_entries_become_clips_with_the_response_kept_verbatim(
    write_emer: Callable[[list], Path], settings: MediaSettings
) -> None:
    root = write_emer([entry(number) for number in range(4)])
    data = EMER(str(root), media=settings, batch_size=3)
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
    data = EMER(str(root), media=settings, batch_size=1)
    with caplog.at_level(logging.INFO):
        data.setup("fit")
    assert "1 of 3 rows ask another question" in caplog.text
    assert {text for batch in data.train_dataloader() for text in batch.instructions} == {INSTRUCTION}


@pytest.mark.parametrize("place", ["root", "videos", "beside the JSON", "absolute"])
def test_videos_are_found(tmp_path: Path, write_clip: Callable[[Path, int], Path], place: str) -> None:
    root, labels = tmp_path / "data", tmp_path / "labels"
    name = "sub/a.mp4"
    directory = {"root": root, "videos": root / "videos", "beside the JSON": labels, "absolute": tmp_path / "far"}[
        place
    ]
    path = write_clip(directory / name, 0)
    row = entry(0) | {"video": str(path) if place == "absolute" else name}
    labels.mkdir(exist_ok=True)
    (labels / "emer.json").write_text(json.dumps([row]))
    (record,) = EMER(str(root), annotations=str(labels / "emer.json")).records("train")
    assert record.media == str(path)
    assert record.id == (str(path.with_suffix("")) if place == "absolute" else "sub/a")


def test_annotations_are_discovered_among_other_json_files(write_emer: Callable[[list], Path]) -> None:
    root = write_emer([entry(0)])
    (root / "synthetic.json").write_text('{"seed": 1}')
    assert len(EMER(str(root)).records("train")) == 1


def test_annotations_may_be_relative_to_the_root(write_emer: Callable[[list], Path]) -> None:
    root = write_emer([entry(0)])
    assert len(EMER(str(root), annotations="EMER_cold_start.json").records("train")) == 1
    with pytest.raises(FileNotFoundError, match=f"Looked for: other.json, {root}/other.json"):
        EMER(str(root), annotations="other.json").records("train")


def test_several_candidates_are_named(write_emer: Callable[[list], Path]) -> None:
    root = write_emer([entry(0)])
    (root / "more.json").write_text(json.dumps([entry(1)]))
    with pytest.raises(ValueError, match=r"Several JSON files .*EMER_cold_start.json, .*more.json.*`annotations`"):
        EMER(str(root)).setup("fit")


def test_no_candidate_names_what_was_looked_at(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no \*.json there"):
        EMER(str(tmp_path)).setup("fit")
    (tmp_path / "synthetic.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match=r"looked at: .*synthetic.json"):
        EMER(str(tmp_path)).setup("fit")


def test_test_file_gives_a_test_split(
    write_emer: Callable[[list], Path], write_clip: Callable[[Path, int], Path], settings: MediaSettings
) -> None:
    root = write_emer([entry(0), entry(1)])
    write_clip(root / "sample_00000007.mp4", 7)
    (root / "held_out.json").write_text(json.dumps([entry(7)]))
    data = EMER(str(root), test_file="held_out.json", media=settings)
    data.setup("test")
    (batch,) = data.test_dataloader()
    assert batch.ids == ["sample_00000007"]
    assert batch.targets == ["sadness"]


@pytest.mark.parametrize("stage", ["test", "predict"])
def test_without_test_file_there_is_no_test_split(write_emer: Callable[[list], Path], stage: str) -> None:
    with pytest.raises(ValueError, match=f"has no {stage} split"):
        EMER(str(write_emer([entry(0)]))).setup(stage)


def test_taxonomy_decides_which_answers_are_known(write_emer: Callable[[list], Path]) -> None:
    root = write_emer([entry(0), entry(1, "<think>x</think>\n<answer> Anxious\n</answer>")])
    assert EMER(str(root), taxonomy="mafw").records("train")[1].target == "anxiety"
    with pytest.raises(ValueError, match=r"EMER_cold_start.json:2: label ' Anxious\\n' is not a dfew emotion"):
        EMER(str(root)).setup("fit")


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
        (entry(9, "sad"), "has no <answer>...</answer>: 'sad'"),
        (entry(9, "<think>x</think>\n<answer>sad.</answer>"), "label 'sad.' is not a dfew emotion"),
    ],
)
def test_bad_entry_is_named(write_emer: Callable[[list], Path], bad: Any, message: str) -> None:
    root = write_emer([entry(0), bad])
    with pytest.raises(ValueError) as caught:
        EMER(str(root), annotations="EMER_cold_start.json").setup("fit")
    assert message in str(caught.value)
    assert f"{root}/EMER_cold_start.json:2: " in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"video": "a.mp4"},]', "is not valid JSON: .*line 1 column.*comma"),
        ("", "is not valid JSON"),
        ("{}", "got a JSON dict. Expected a list"),
        ("[]", "lists no clips"),
    ],
)
def test_bad_json_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match=f"a.json {message}|a.json: {message}"):
        EMER(str(tmp_path), annotations="a.json").setup("fit")


def test_same_video_twice_is_refused(write_emer: Callable[[list], Path]) -> None:
    with pytest.raises(ValueError, match=r"'sample_00000000' is listed twice: .*json:1 and .*json:2"):
        EMER(str(write_emer([entry(0), entry(0)]))).setup("fit")
