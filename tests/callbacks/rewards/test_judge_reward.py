"""A judge as reward: what it earns, and what becomes of one that fails."""

import pytest

from callbacks.rewards import JudgeReward
from callbacks.rewards.base import RewardInput
from datamodules.emotions import DFEW_TAXONOMY
from datamodules.rationale import read_response
from lightning_modules.judges.base import Judge
from lightning_modules.judges.prompt import PromptedJudge

pytestmark = pytest.mark.unit

TEXTS = ("It is anger.", "It is joy.", "Nobody knows.", "")


def given(*rationales: str) -> RewardInput:
    texts = [f"<think>{rationale}</think><answer>angry</answer>" for rationale in rationales]
    responses = [read_response(text, DFEW_TAXONOMY) for text in texts]
    return RewardInput(responses, ["anger"] * len(texts), taxonomy=DFEW_TAXONOMY)


class Prompted(PromptedJudge):
    """A language model that says what it finds in the rationale; asked about `Nobody` it does not answer."""

    def __init__(self, dies_after: int = 99) -> None:
        super().__init__("prompted")
        self.dies_after = dies_after
        self.num_asked = 0

    def ask(self, prompts):
        for i, prompt in enumerate(prompts):
            if self.num_asked == self.dies_after:
                raise ConnectionError("connection refused")
            self.num_asked += 1
            said = prompt.split("Reason: ")[1]
            yield i, "anger" if "anger" in said else None if "Nobody" in said else "some joy, I think"


class Classifier(Judge):
    """A judge of another kind: None is its verdict that there is no emotion."""

    name = "classifier"

    def judge(self, rationales, taxonomy):
        return ["anger" if "anger" in text else None for text in rationales]


def test_a_verdict_is_1_or_0_and_no_reply_is_no_reward() -> None:
    values = JudgeReward(Prompted())(given(*TEXTS))
    # The target; a reply that names no class; no reply; nothing to ask about, which must not earn the group's mean.
    assert values[:2].tolist() == [1.0, 0.0] and values[2].isnan() and values[3] == 0.0
    assert JudgeReward(Classifier())(given(*TEXTS)).tolist() == [1.0, 0.0, 0.0, 0.0]


def test_a_judge_that_dies_in_mid_step_keeps_its_verdicts(caplog: pytest.LogCaptureFixture) -> None:
    values = JudgeReward(Prompted(dies_after=1))(given(*TEXTS))
    assert values.isnan().tolist() == [False, True, True, False]
    assert "gave no verdict on 2 of 3 rationales: connection refused" in caplog.text


def test_a_judge_that_stays_dead_stops_the_run() -> None:
    reward = JudgeReward(Prompted(dies_after=0), patience=3)
    for _ in range(2):
        assert reward(given("It is anger.")).isnan().all()
    with pytest.raises(RuntimeError, match="said nothing in 3 rollouts in a row"):
        reward(given("It is anger."))
    with pytest.raises(ValueError, match="patience of at least 1"):
        JudgeReward(Classifier(), patience=0)


def test_rollouts_without_a_question_do_not_count_as_silence() -> None:
    reward = JudgeReward(Prompted(dies_after=0), patience=2)
    reward(given("It is anger."))
    assert reward(given("")).tolist() == [0.0]
    assert reward(given("It is anger.")).isnan().all()  # the first in a row again
