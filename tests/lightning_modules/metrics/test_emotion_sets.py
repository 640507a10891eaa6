"""Several emotions: metrics over sets by hand, on a wheel, and as a reward."""

import pytest

from callbacks.rewards import SetF1Reward
from callbacks.rewards.base import RewardInput
from datamodules.emotions import MAFW_TAXONOMY
from datamodules.rationale import read_response
from lightning_modules.metrics.emotion_sets import SetCounts, on_wheel, wheel_sectors

pytestmark = pytest.mark.numerics

# target, answer
CLIPS = [
    ("anger_disgust", "Anger and disgust"),  # exact
    ("anger_disgust", "angry"),  # half of it
    ("sadness", "sadness, fear"),  # one too many
    ("happiness", None),
    ("anxiety", "worried"),  # no class: itself
]


def test_what_an_answer_names() -> None:
    named = MAFW_TAXONOMY.named
    assert named("anger, sad") == named("sadness & Angry") == named("anger_sadness") == {"anger", "sadness"}
    assert named("愤怒、sadness") == {"愤怒", "sadness"}
    assert named("not sure") == {"not sure"} and named("") == named(None) == named(" , ") == frozenset()


def test_figures_by_hand() -> None:
    counts = SetCounts()
    counts.update([answer for _, answer in CLIPS], [target for target, _ in CLIPS], MAFW_TAXONOMY)
    counts.update(["anger"], [None], MAFW_TAXONOMY)  # without a label there is nothing to count
    figures = counts.compute()
    assert counts.has_sets and figures["num_sets"] == 2
    assert figures["exact_match"] == pytest.approx(1 / 5)
    assert figures["precision"] == pytest.approx((1 + 1 + 1 / 2 + 0 + 0) / 5)
    assert figures["recall"] == pytest.approx((1 + 1 / 2 + 1 + 0 + 0) / 5)
    assert figures["f1"] == pytest.approx((1 + 2 / 3 + 2 / 3 + 0 + 0) / 5)
    # anger 2·2/(2+2), disgust 2·1/(2+1), sadness 2·1/(1+1), fear 0/(0+1), happiness, anxiety and worried 0.
    assert figures["macro_f1"] == pytest.approx((1 + 2 / 3 + 1) / 7)
    assert figures["weighted_f1"] == pytest.approx((2 * 1 + 2 * 2 / 3 + 1) / 7)
    assert figures["wheel"]["exact_match"] == pytest.approx(2 / 5), "worried and anxiety are of one sector"


def test_the_wheel() -> None:
    sectors = wheel_sectors()
    assert len(set(sectors.values())) == 8 and set(sectors.values()) <= set(sectors)
    assert on_wheel(["happiness", "delight", "neutral"]) == {"joy", "neutral"}
    assert {emotion for emotion in MAFW_TAXONOMY.classes if emotion not in sectors} == {"neutral"}


def test_a_wheel_with_a_word_in_two_sectors_is_refused(tmp_path) -> None:
    (tmp_path / "wheel.yaml").write_text("joy: [calm]\ntrust: [calm]\n")
    with pytest.raises(ValueError, match="'calm' is in joy and in trust"):
        wheel_sectors(tmp_path / "wheel.yaml")


def test_the_reward_is_the_f1_of_the_sets() -> None:
    responses = [read_response(f"<think>a</think><answer>{own or ''}</answer>", MAFW_TAXONOMY) for _, own in CLIPS]
    given = RewardInput(responses, [target for target, _ in CLIPS], taxonomy=MAFW_TAXONOMY)
    assert SetF1Reward()(given).tolist() == pytest.approx([1, 2 / 3, 2 / 3, 0, 0])
    every = read_response(f"<think>a</think><answer>{', '.join(MAFW_TAXONOMY.classes)}</answer>", MAFW_TAXONOMY)
    named = RewardInput([every], ["anger"], taxonomy=MAFW_TAXONOMY)
    assert SetF1Reward()(named).item() == pytest.approx(2 / 12), "naming everything does not pay"
