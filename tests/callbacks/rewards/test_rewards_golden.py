"""Rewards against the golden cases and against hand-computed numbers."""

import json
from pathlib import Path

import pytest
import torch

from callbacks.rewards import (
    AccuracyReward,
    ExplanationReward,
    FormatReward,
    accuracy_score,
)
from callbacks.rewards.base import RewardInput
from datamodules.emotions import DFEW_TAXONOMY, GO_EMOTIONS, MAFW_TAXONOMY, get_taxonomy
from datamodules.rationale import read_response
from lightning_modules.coherence import explanation_score
from lightning_modules.emotion_verifier import EmotionVerifier

pytestmark = pytest.mark.numerics

GOLDEN = Path(__file__).parents[2] / "golden"
CASES = [json.loads(line) for line in (GOLDEN / "rewards/cases.jsonl").read_bytes().splitlines()]
RESPONSES = [read_response(case["completion"], get_taxonomy(case["dataset"])) for case in CASES]
TARGETS = [case["canonical_target"] for case in CASES]


@pytest.fixture(scope="module")
def readings():
    verifier = EmotionVerifier(str(GOLDEN / "tiny_verifier"))
    return verifier.read_groups([response.sentences for response in RESPONSES])


@pytest.mark.parametrize("reward", [FormatReward(), AccuracyReward(), ExplanationReward()], ids=lambda r: r.name)
def test_golden_rewards(reward, readings):
    values = reward(RewardInput(RESPONSES, TARGETS, readings, taxonomy=MAFW_TAXONOMY, strict=False))
    assert values.dtype == torch.float32
    assert len(CASES) == 211
    wrong = {
        case["id"]: (value, case[reward.name])
        for case, value in zip(CASES, values.tolist(), strict=True)
        if abs(value - case[reward.name]) > 1e-6
    }
    assert wrong == {}


def test_golden_label_sets(readings):
    for case, rows in zip(CASES, readings, strict=True):
        ours = [{GO_EMOTIONS.index(emotion) for emotion in reading.emotions} for reading in rows]
        assert ours == [set(label_set) for label_set in case["label_sets"]], case["id"]


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        ("<think>a</think><answer>b</answer>", 1),
        ("<think></think>\n\n <answer></answer>", 1),  # empty parts pass
        ("<think>a\nb</think><answer>b</answer>", 1),
        ("<think>a</think><answer>b</answer><answer>c</answer>", 1),  # duplicate tags pass
        (" <think>a</think><answer>b</answer>", 0),  # one character before
        ("<think>a</think><answer>b</answer>\n", 0),  # one character after
        ("<think>a</think>,<answer>b</answer>", 0),
        ("<answer>b</answer><think>a</think>", 0),
        ("<Think>a</Think><answer>b</answer>", 0),
        ("", 0),
    ],
)
def test_format(completion, expected):
    given = RewardInput([read_response(completion, DFEW_TAXONOMY)], ["anger"], strict=False)
    assert FormatReward()(given).tolist() == [expected]


@pytest.mark.parametrize(
    ("label_sets", "target", "expected"),
    [
        ([], "anger", 0),  # no sentence
        ([], "neutral", 0),
        ([["neutral"], ["neutral"]], "anger", 0),  # no emotional sentence
        ([["anger"], ["neutral"]], "anger", 1),  # m = 1, e = 1: the neutral sentence does not count
        ([["anger"], ["joy"], ["neutral"]], "anger", 1 / 2),
        ([["anger", "neutral"], ["joy", "anger"], ["fear"], ["neutral"]], "anger", 2 / 3),
        ([["neutral"], ["neutral", "joy"], ["joy"]], "neutral", 2 / 3),  # m / n
        ([["joy"]], "happiness", 1),  # the target's verifier label, not its name
        ([["disapproval"], ["grief"]], "contempt", 1 / 2),
    ],
)
def test_explanation(label_sets, target, expected):
    assert explanation_score(label_sets, target, MAFW_TAXONOMY) == pytest.approx(expected, abs=1e-12)


def test_a_batch_without_a_sentence_gets_zeros():
    responses = [read_response(text, DFEW_TAXONOMY) for text in ("", "<think></think><answer>anger</answer>")]
    assert ExplanationReward()(
        RewardInput(responses, ["anger", "neutral"], [[], []], taxonomy=DFEW_TAXONOMY)
    ).tolist() == [0, 0]


def test_the_explanation_reward_needs_readings():
    assert ExplanationReward.needs_verifier
    assert not FormatReward.needs_verifier
    with pytest.raises(ValueError, match="needs a verifier"):
        ExplanationReward()(RewardInput([read_response("", DFEW_TAXONOMY)], ["anger"]))


@pytest.mark.parametrize("weight", [float("nan"), float("inf")])
def test_weights_are_finite(weight):
    with pytest.raises(ValueError, match="'accuracy' must be a finite number"):
        AccuracyReward(weight)


def test_any_emotion_of_a_compound_clip_is_rewarded() -> None:
    # A clip of anger and disgust: two of three emotional sentences express one of them; the neutral one does not count.
    sentences = [["anger"], ["disgust", "fear"], ["joy"], ["neutral"]]
    assert explanation_score(sentences, "anger_disgust", MAFW_TAXONOMY) == pytest.approx(2 / 3)
    assert explanation_score(sentences, "anger", MAFW_TAXONOMY) == pytest.approx(1 / 3)
    assert accuracy_score("disgust", "anger_disgust") == 1.0
    assert accuracy_score("fear", "anger_disgust") == 0.0
    assert accuracy_score(None, "anger_disgust") == 0.0
