"""The verifier as judge."""

from pathlib import Path

import pytest
import torch

from datamodules.emotions import DFEW_TAXONOMY, GO_EMOTIONS, MAFW_TAXONOMY
from lightning_modules.emotion_verifier import SentenceReading
from lightning_modules.judges import Judge, VerifierJudge
from lightning_modules.judges.verifier_judge import verifier_verdict

pytestmark = pytest.mark.unit

TINY = str(Path(__file__).parents[2] / "golden/tiny_verifier")


def reading(**probabilities: float) -> SentenceReading:
    row = torch.zeros(28)
    for label, value in probabilities.items():
        row[GO_EMOTIONS.index(label)] = value
    return SentenceReading("text", row, ("neutral",), GO_EMOTIONS)


def test_verdict_is_the_class_with_the_highest_mean():
    rows = [reading(joy=0.9, sadness=0.6), reading(joy=0.1, sadness=0.5)]
    assert verifier_verdict(rows, DFEW_TAXONOMY) == "sadness"  # means 0.50 and 0.55
    assert verifier_verdict(rows[:1], DFEW_TAXONOMY) == "happiness"


def test_verdict_is_restricted_to_the_taxonomy():
    row = reading(grief=0.9, admiration=1.0, anger=0.2)
    assert verifier_verdict([row], MAFW_TAXONOMY) == "helplessness"
    assert verifier_verdict([row], DFEW_TAXONOMY) == "anger"


def test_no_sentence_is_invalid():
    assert verifier_verdict([], DFEW_TAXONOMY) is None


def test_verifier_judge():
    judge = VerifierJudge(TINY, device="cpu")
    assert isinstance(judge, Judge)
    assert judge.name == f"verifier:{TINY}"
    verdicts = judge.judge(["He smiles. She frowns.", "", " "], DFEW_TAXONOMY)
    assert verdicts[0] in DFEW_TAXONOMY.classes
    assert verdicts[1:] == [None, None]
    probabilities = judge.verifier.probabilities(["He smiles.", "She frowns."]).mean(dim=0)
    columns = [GO_EMOTIONS.index(label) for label in DFEW_TAXONOMY.verifier_labels]
    assert verdicts[0] == DFEW_TAXONOMY.classes[int(probabilities[columns].argmax())]


def test_a_verifier_that_does_not_load(tmp_path):
    with pytest.raises(ValueError, match="Expected a Hugging Face directory"):
        VerifierJudge(str(tmp_path / "none"))
