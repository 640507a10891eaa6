"""Judges: the verifier as judge, and verdicts from a file."""

from pathlib import Path

import pytest
import torch

from datamodules.emotions import DFEW, GO_EMOTIONS, MAFW
from lightning_modules.emotion_verifier import EmotionVerifier, SentenceReading
from lightning_modules.metrics.judges import FileJudge, Judge, VerifierJudge, verifier_verdict

pytestmark = pytest.mark.unit

TINY = str(Path(__file__).parents[2] / "golden/tiny_verifier")


def reading(**probabilities: float) -> SentenceReading:
    row = torch.zeros(28)
    for label, value in probabilities.items():
        row[GO_EMOTIONS.index(label)] = value
    return SentenceReading("text", row, ("neutral",), GO_EMOTIONS)


def test_verdict_is_the_class_with_the_highest_mean():
    rows = [reading(joy=0.9, sadness=0.6), reading(joy=0.1, sadness=0.5)]
    assert verifier_verdict(rows, DFEW) == "sadness"  # means 0.50 and 0.55
    assert verifier_verdict(rows[:1], DFEW) == "happiness"


def test_verdict_is_restricted_to_the_taxonomy():
    row = reading(grief=0.9, admiration=1.0, anger=0.2)
    assert verifier_verdict([row], MAFW) == "helplessness"
    assert verifier_verdict([row], DFEW) == "anger"


def test_no_sentence_is_invalid():
    assert verifier_verdict([], DFEW) is None


def test_verifier_judge():
    judge = VerifierJudge(EmotionVerifier(TINY))
    assert isinstance(judge, Judge)
    assert judge.name == f"verifier:{TINY}"
    verdicts = judge.judge(["He smiles. She frowns.", "", " "], DFEW)
    assert verdicts[0] in DFEW.classes
    assert verdicts[1:] == [None, None]
    probabilities = judge.verifier.probabilities(["He smiles.", "She frowns."]).mean(dim=0)
    columns = [GO_EMOTIONS.index(label) for label in DFEW.verifier_labels]
    assert verdicts[0] == DFEW.classes[int(probabilities[columns].argmax())]


@pytest.fixture
def file(tmp_path):
    return tmp_path / "judge.jsonl"


def test_file_judge_reads_replies_by_id(file):
    file.write_text(
        '{"id": "b", "emotion": " Happy\\n"}\n\n{"id": 7, "emotion": "sad."}\n{"id": "c", "emotion": null}\n'
    )
    judge = FileJudge(file)
    assert judge.name == f"file:{file}"
    # canonical; not a class; null; no such line
    assert judge.verdicts(["b", "7", "c", "d"], DFEW) == ["happiness", None, None, None]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"id": "a", "emotion": "sad"}\n{"id": "a", "emotion": "sad"}\n', r"judge.jsonl:2: id 'a' is already at .*:1"),
        ('{"id": "a", "emotion": "sad"}\nsad\n', "judge.jsonl:2: not JSON"),
        ('{"id": "a"}\n', "judge.jsonl:1: emotion missing; got id"),
        ('{"id": null, "emotion": "sad"}\n', "judge.jsonl:1: id must be text or a whole number; got None"),
        ('{"id": "a", "emotion": 3}\n', "judge.jsonl:1: emotion must be text or null; got 3"),
        ('["a", "sad"]\n', "judge.jsonl:1: got list; expected an object"),
        ("\n", "judge.jsonl is empty"),
    ],
)
def test_malformed_judge_files(file, content, message):
    file.write_text(content)
    with pytest.raises(ValueError, match=message):
        FileJudge(file)


def test_a_file_for_other_clips_is_an_error(file):
    file.write_text('{"id": "x", "emotion": "sad"}\n')
    with pytest.raises(ValueError, match="no verdict for any of the 2 clips"):
        FileJudge(file).verdicts(["a", "b"], DFEW)


def test_missing_judge_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="none.jsonl. Expected JSONL with id, emotion"):
        FileJudge(tmp_path / "none.jsonl")
