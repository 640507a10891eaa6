"""Judge reward: any judge that reads a rationale names the target emotion."""

import logging
from collections.abc import Sequence

import torch
from torch import Tensor

from callbacks.rewards.accuracy import accuracy_score
from callbacks.rewards.base import Reward, RewardInput, Weight
from datamodules.emotions import Taxonomy
from lightning_modules.judges.base import Judge
from lightning_modules.judges.prompt import PromptedJudge, each_verdict

logger = logging.getLogger(__name__)

_NO_REWARD = float("nan")


class JudgeReward(Reward):
    """1 if a judge that reads only the rationale names the target, else 0, as for a reply that names no class.

    A judge that fails gives no reward, never a wrong one: the completion counts as its group's mean, and is counted in
    `reward/judge_missing`. How many questions run at a time, how long each may take and where replies are kept is the
    judge's: see `EndpointJudge`, whose `max_failures` here should be large.

    Args:
        judge: any judge; do not evaluate with the same.
        patience: rollouts in a row without one verdict, after which the run stops.
        weight: see `Reward`.

    Raises:
        ValueError: a patience below 1.
    """

    name = "judge"
    may_abstain = True

    def __init__(self, judge: Judge, patience: int = 10, weight: Weight = 1.0) -> None:
        super().__init__(weight)
        if patience < 1:
            raise ValueError(f"The judge reward expects a patience of at least 1 rollout; got {patience}.")
        self.judge = judge
        self.patience = patience
        self.silent_rollouts = 0

    def __call__(self, given: RewardInput) -> Tensor:
        assert given.taxonomy is not None, "a module's"
        texts = [response.rationale for response in given.responses]
        scores = [_NO_REWARD if text else 0.0 for text in texts]
        failure = self._ask(texts, given.targets, given.taxonomy, scores)
        values = torch.tensor(scores, dtype=torch.float32)
        asked = sum(map(bool, texts))
        missing = int(values.isnan().sum())
        self.silent_rollouts = self.silent_rollouts + 1 if asked and missing == asked else 0
        if missing:
            cause = "" if failure is None else f": {failure}"
            message = f"The judge {self.judge.name} gave no verdict on {missing} of {asked} rationales{cause}"
            logger.warning("%s", message)
            if self.silent_rollouts >= self.patience:
                raise RuntimeError(
                    f"{message} It has said nothing in {self.silent_rollouts} rollouts in a row: start it again and go "
                    "on with `--ckpt_path last`, or raise the reward's patience."
                ) from failure
        return values

    def _ask(
        self, texts: Sequence[str], targets: Sequence[str], taxonomy: Taxonomy, scores: list[float]
    ) -> Exception | None:
        """Fill in the scores that the judge has something to say on; returns what it failed with."""
        rows = [i for i, text in enumerate(texts) if text]
        try:
            for asked, verdict in each_verdict(self.judge, [texts[row] for row in rows], taxonomy):
                answered = verdict.reply is not None or not isinstance(self.judge, PromptedJudge)
                if answered:
                    scores[rows[asked]] = accuracy_score(verdict.emotion, targets[rows[asked]])
        except Exception as error:  # noqa: BLE001 - a judge is anyone's code or server, and must not end a run at once
            return error
        return None
