"""What other readings do to explanation rewards, by hand."""

import pytest

from datamodules.emotions import DFEW_TAXONOMY
from lightning_modules.metrics.predictions import PredictedSentence, Prediction
from lightning_modules.metrics.reward_effect import reward_effect

pytestmark = pytest.mark.numerics


def clip(identifier: str, target: str | None, *sentences: dict[str, float] | None, explanation=0.0) -> Prediction:
    own = tuple(PredictedSentence("Text.", None if p is None else (), p) for p in sentences)
    return Prediction(identifier, target, None, 1.0, None, explanation, own, *[None] * 5)


SMILES = {"joy": 0.9, "sadness": 0.06, "neutral": 0.01}  # {joy}; at 0.05 {joy, sadness}
MIXED = {"joy": 0.4, "sadness": 0.17, "neutral": 0.01}  # {joy, sadness}; at 0.2 and by the top label {joy}
CALM = {"joy": 0.02, "sadness": 0.095, "neutral": 0.7}  # {neutral}; at 0.05 {neutral, sadness}
# Margins of the label sets: 0.04, 0.07, 0.005.
CLIPS = [
    clip("a", "sadness", SMILES, MIXED),  # 1/2; at 0.05: 1; at 0.2 and by the top label: 0
    clip("b", "happiness", MIXED, CALM),  # 1/1; at 0.05: 1/2; else 1
    clip("c", "happiness"),  # 0 whatever the reading
    clip("d", None, SMILES),
    clip("e", "sadness", None, explanation=None),
]


def test_by_hand():
    effect = reward_effect(CLIPS, DFEW_TAXONOMY)
    assert (effect["num_clips"], effect["num_left_out"], effect["num_sentences"]) == (3, 2, 4)
    assert effect["readings"]["threshold_0.05"] == pytest.approx(
        {
            "clips_changed": 2 / 3,
            "mean_change": (1 / 2 - 1 / 2) / 3,
            "mean_absolute_change": (1 / 2 + 1 / 2) / 3,
            "sentences_changed": 2 / 4,  # a: contradicting → matching; b: neutral → contradicting
        }
    )
    top = {"clips_changed": 1 / 3, "mean_change": -0.5 / 3, "mean_absolute_change": 0.5 / 3, "sentences_changed": 1 / 4}
    assert effect["readings"]["threshold_0.2"] == pytest.approx(top)
    assert effect["readings"]["top_label_only"] == pytest.approx(top)
    assert effect["within_margin"] == {"0.01": 1 / 4, "0.02": 1 / 4, "0.05": 2 / 4}


def test_nothing_to_read():
    effect = reward_effect(CLIPS[3:], DFEW_TAXONOMY)
    assert (effect["num_clips"], effect["num_left_out"], effect["num_sentences"]) == (0, 2, 0)
    assert set(effect["readings"]["top_label_only"].values()) | set(effect["within_margin"].values()) == {None}
