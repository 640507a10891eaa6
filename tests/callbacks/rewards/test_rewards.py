"""What every reward may do: weights by step, variants of the explanation reward, and what the callback refuses."""

import pytest
import torch
from torch import Tensor

from callbacks.rewards import AccuracyReward, ExplanationReward, FormatReward
from callbacks.rewards.base import Reward, RewardInput
from callbacks.rl import RLCallback
from datamodules.emotions import DFEW_TAXONOMY
from datamodules.rationale import read_response
from lightning_modules.emotion_verifier import SentenceReading

pytestmark = pytest.mark.unit

LABELS = ("anger", "joy", "neutral")


def given(*completions: str, strict: bool = True, probabilities: list[list[list[float]]] | None = None) -> RewardInput:
    responses = [read_response(text, DFEW_TAXONOMY, strict=strict) for text in completions]
    readings = None
    if probabilities is not None:
        # Label sets are the reward's to take from probabilities.
        readings = [[SentenceReading("", torch.tensor(row), (), LABELS) for row in rows] for rows in probabilities]
    ids = [f"clip{i}" for i in range(len(responses))]
    return RewardInput(responses, ["anger"] * len(responses), readings, taxonomy=DFEW_TAXONOMY, strict=strict, ids=ids)


class Given(Reward):
    """What it was made with."""

    name = "given"

    def __init__(self, values: list[float], may_abstain: bool = False) -> None:
        super().__init__()
        self.values = torch.tensor(values)
        self.may_abstain = may_abstain  # type: ignore[misc]

    def __call__(self, given: RewardInput) -> Tensor:
        return self.values


@pytest.mark.parametrize(
    ("weight", "expected"),
    [
        (0.5, [0.5, 0.5, 0.5, 0.5, 0.5]),
        ({0: 0.0, 100: 1.0}, [0.0, 0.5, 1.0, 1.0, 1.0]),
        ({100: 1.0, 50: 2.0, 200: 0.0}, [2.0, 2.0, 1.0, 0.5, 0.0]),  # in any order; constant before the first
    ],
)
def test_a_weight_may_follow_a_schedule(weight, expected) -> None:
    reward = AccuracyReward(weight)
    assert [reward.weight_at(step) for step in (0, 50, 100, 150, 300)] == pytest.approx(expected)


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), {}, {-1: 1.0}, {0: 1.0, 5: float("nan")}])
def test_weights_are_finite(weight) -> None:
    with pytest.raises(ValueError, match="'accuracy' must be a finite number, or finite numbers by step"):
        AccuracyReward(weight)


def test_the_callback_takes_the_weight_of_the_step() -> None:
    callback = RLCallback([FormatReward(), AccuracyReward({0: 0.0, 10: 1.0})])
    assert callback.reward(RewardInput([], [], step=5)).weights == {"format": 1.0, "accuracy": 0.5}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1.0], r"gave \(1,\) for 2 completions"),
        ([1.0, float("nan")], "gave nan for completion 1 of clip clip1: '<think>b</think>"),
        ([float("inf"), 1.0], "gave inf for completion 0 of clip clip0"),
    ],
)
def test_values_that_cannot_be_learned_from_are_named(values, message) -> None:
    both = given("<think>a</think><answer>angry</answer>", "<think>b</think><answer>sad</answer>")
    with pytest.raises(ValueError, match=message):
        RLCallback([Given(values)]).reward(both)


def test_only_a_reward_that_may_abstain_gives_nan() -> None:
    callback = RLCallback([Given([1.0, float("nan")], may_abstain=True)])
    values = callback.reward(given("", "")).values["given"]
    assert values.isnan().tolist() == [False, True]
    assert callback.missing["given"] == 1


def test_read_strictly_a_repeated_tag_earns_nothing() -> None:
    honest, two = "<think>a</think><answer>angry</answer>", "<think>a</think><think>b</think><answer>angry</answer>"
    for strict, expected in ((True, [1.0, 0.0]), (False, [1.0, 1.0])):
        assert FormatReward()(given(honest, two, strict=strict)).tolist() == expected
        assert AccuracyReward()(given(honest, two, strict=strict)).tolist() == expected


def test_threshold_and_number_of_labels_are_the_explanation_rewards() -> None:
    # Two sentences: anger second after joy, and anger alone.
    read = [[[0.4, 0.6, 0.0], [0.2, 0.0, 0.05]]]
    completion = "<think>a. b.</think><answer>angry</answer>"
    for reward, expected in (
        (ExplanationReward(), 1.0),  # {joy, anger}, {anger}
        (ExplanationReward(max_labels=1), 0.5),  # {joy}, {anger}
        (ExplanationReward(threshold=0.5), 0.5),  # {joy}; nothing above it: the most probable
    ):
        assert reward(given(completion, probabilities=read)).tolist() == [expected]
    with pytest.raises(ValueError, match=r"expects 0 <= threshold <= 1.*got 1\.5"):
        ExplanationReward(threshold=1.5)


def test_the_whole_rationale_may_be_the_unit() -> None:
    class Reader:
        def read_groups(self, groups):
            assert groups == [["He frowns. He smiles."], []]  # an empty rationale has nothing to read
            return [[SentenceReading(text, torch.tensor([0.9, 0.0, 0.0]), (), LABELS) for text in g] for g in groups]

    read = given("<think>He frowns. He smiles.</think><answer>angry</answer>", "", probabilities=[[], []])
    values = ExplanationReward(unit="rationale")(
        RewardInput(read.responses, read.targets, [[], []], Reader(), DFEW_TAXONOMY)
    )
    assert values.tolist() == [1.0, 0.0]


def test_sections_count_only_where_the_explanation_reward_reads_them() -> None:
    asked: list[list[list[str]]] = []

    class Reader:
        def read_groups(self, groups):
            asked.append([list(group) for group in groups])
            angry = torch.tensor([0.9, 0.0, 0.0])
            return [[SentenceReading(text, angry, (), LABELS) for text in group] for group in groups]

    text = "<context>A row. Late.</context><visual>He frowns.</visual><think>He is angry.</think><answer>angry</answer>"
    response = read_response(text, DFEW_TAXONOMY, strict=True, sections=["context", "visual"])
    assert response.sentences == ("He is angry.",), "<think> alone"
    joyful = [[SentenceReading("He is angry.", torch.tensor([0.0, 0.9, 0.0]), (), LABELS)]]
    read = RewardInput([response], ["anger"], joyful, Reader(), DFEW_TAXONOMY)
    assert ExplanationReward()(read).tolist() == [0.0] and not asked
    assert ExplanationReward(sections=["context"])(read).tolist() == [1.0]
    assert ExplanationReward(sections=["visual", "context"], unit="rationale")(read).tolist() == [1.0]
    assert asked == [[["A row.", "Late.", "He is angry."]], [["He frowns.", "A row. Late.", "He is angry."]]]
    assert FormatReward()(read).tolist() == [1.0]
