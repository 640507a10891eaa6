"""Prediction files read back, and set side by side."""

import json
from pathlib import Path
from typing import Any

import pytest

from lightning_modules.metrics.predictions import joint_ids, read_predictions
from lightning_modules.metrics.reliance import Reliance

pytestmark = pytest.mark.unit

ROW: dict[str, Any] = {
    "id": "1",
    "target": "happiness",
    "prediction": None,
    "format": 1,
    "accuracy": 0,
    "explanation": 0.5,
    "sentences": [{"text": "He smiles.", "emotions": ["joy"], "probabilities": {"joy": 0.9}}],
    "judged": "happiness",
    "judge": "oracle",
    "taxonomy": "dfew",
}


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_folder_in_place_of_the_file_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "test").mkdir()
    file = write(tmp_path / "test" / "predictions.jsonl", ROW)
    with pytest.raises(FileNotFoundError, match=f"^{tmp_path} is a folder: give {file}. Expected JSONL with id"):
        read_predictions(tmp_path)


def test_rows_come_back(tmp_path: Path) -> None:
    more = {"dataset": "dfew", "media": "a.mp4", "completion": "<think>He smiles.</think>", "failure": "no frames"}
    file = read_predictions(write(tmp_path / "p.jsonl", ROW | more, ROW | {"id": 2, "target": None, "judged": None}))
    assert (file.taxonomy.name, file.judge, [p.id for p in file.predictions]) == ("dfew", "oracle", ["1", "2"])
    first, second = file.predictions
    assert (first.prediction, first.explanation, first.failure) == (None, 0.5, "no frames")
    assert first.sentences[0].emotions == ("joy",) and first.sentences[0].probabilities == {"joy": 0.9}
    assert (second.media, second.completion, second.judged) == (None, None, None)


def test_what_sentences_rest_on_comes_back_and_is_absent_where_nobody_asked(tmp_path: Path) -> None:
    rests = {"pictures": -0.5, "sound": None, "both": 2.0}
    said = [{**ROW["sentences"][0], "reliance": rests}, ROW["sentences"][0]]
    file = read_predictions(write(tmp_path / "p.jsonl", ROW | {"sentences": said}))
    (prediction,) = file.predictions
    assert [own.reliance for own in prediction.sentences] == [Reliance(-0.5, None, 2.0), None]
    again = prediction.row(file.taxonomy, file.judge)["sentences"]
    assert again[0]["reliance"] == rests and "reliance" not in again[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": "happy"}, "p.jsonl:2: target is 'happy'; expected null or a dfew emotion: happiness"),
        ({"target": "happiness_joy"}, "target is 'joy'"),
        ({"judged": 3}, "p.jsonl:2: judged must be text or null; got 3"),
        ({"taxonomy": "mafw"}, "p.jsonl:2: taxonomy is 'mafw', and 'dfew' at .*p.jsonl:1"),
        ({"judge": None}, "p.jsonl:2: judge is None, and 'oracle' at"),
        ({"format": None}, "format must be a number; got null"),
        ({"sentences": [{"text": "He.", "reliance": {"pictures": "much"}}]}, "and perhaps reliance .pictures, sound"),
        ({"sentences": [{"text": "He.", "reliance": {"touch": 1.0}}]}, "and perhaps reliance"),
        ({"sentences": [{"text": "He.", "reliance": {"sound": None}}]}, "and perhaps reliance"),
        ({"explanation": 1.5}, "explanation must be a number in \\[0, 1\\] or null; got 1.5"),
        ({"sentences": "He smiles."}, "sentences must be a list"),
        ({"sentences": ["He smiles."]}, "a sentence is .*; expected an object with text"),
        ({"sentences": [{"text": "x", "emotions": "joy"}]}, "a sentence is .*; expected an object with text"),
        ({"sentences": [{"text": "x", "probabilities": {"joy": "1"}}]}, "a sentence is .*; expected an object"),
        ({"id": "1"}, r"p.jsonl:2: id '1' is already at .*:1"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_predictions(write(tmp_path / "p.jsonl", ROW, ROW | {"id": "2"} | change))


def test_a_cut_line_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "p.jsonl", ROW, ROW | {"id": "2"})
    path.write_text(path.read_text()[:-40])
    with pytest.raises(ValueError, match="p.jsonl:2: not valid JSON"):
        read_predictions(path)


def test_an_unknown_taxonomy_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="p.jsonl:1: .*Unknown taxonomy 'x'"):
        read_predictions(write(tmp_path / "p.jsonl", ROW | {"taxonomy": "x"}))


def test_clips_in_common(tmp_path: Path) -> None:
    one = read_predictions(write(tmp_path / "1.jsonl", ROW, ROW | {"id": "2"}))
    two = read_predictions(write(tmp_path / "2.jsonl", ROW | {"id": "2"}, ROW | {"id": "3"}, ROW | {"id": "4"}))
    assert joint_ids([one, one], intersect=False) == (["1", "2"], {one.path: 0})
    assert joint_ids([one, two], intersect=True) == (["2"], {one.path: 1, two.path: 2})
    with pytest.raises(ValueError, match="different clips .*1 are in all of them.*--intersect"):
        joint_ids([one, two], intersect=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": "9"}, "No clip is in all of"),
        ({"target": "anger"}, "Clip '1' has the target 'happiness' in .* and 'anger' in"),
        ({"taxonomy": "mafw"}, "has the taxonomy dfew and .* mafw"),
    ],
)
def test_files_that_do_not_belong_together(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    one = read_predictions(write(tmp_path / "1.jsonl", ROW))
    two = read_predictions(write(tmp_path / "2.jsonl", ROW | change))
    with pytest.raises(ValueError, match=message):
        joint_ids([one, two], intersect=True)
