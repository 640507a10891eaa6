"""What a reward is."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from lightning_modules.grpo import GRPOModule
from lightning_modules.rl.rewarder import RewardInput

__all__ = ["Reward", "RewardInput", "Weight"]

Weight = float | dict[int, float]
"""Factor of a reward, or step → factor: linear between the steps named, constant before and after them."""


class Reward(ABC):
    """Scores completions. A new reward is one subclass in one file of this package.

    Args:
        weight: factor of this reward in what the advantages are computed from; a schedule names it at some steps, e.g.
            `{0: 0.0, 200: 1.0}`, and goes linearly from one to the next.

    Raises:
        ValueError: a weight that is not a finite number, or a schedule without a step or with one below 0.
    """

    name: ClassVar[str]
    """Short name for logs and files; unique among the rewards of a run."""

    needs_verifier: ClassVar[bool] = False
    """True when `__call__` needs the verifier's readings."""

    num_others: int = 0
    """Above 0 when `__call__` needs to know what sentences rest on: how many other clips they are held against."""

    may_abstain: ClassVar[bool] = False
    """True when `__call__` may give NaN, which is no reward: the completion gets the mean of its group's others."""

    def __init__(self, weight: Weight = 1.0) -> None:
        schedule = weight if isinstance(weight, dict) else {0: weight}
        if not schedule or min(schedule) < 0 or not all(math.isfinite(value) for value in schedule.values()):
            raise ValueError(
                f"The weight of reward {self.name!r} must be a finite number, or finite numbers by step (0, 1, ...); "
                f"got {weight}."
            )
        self.schedule: Mapping[int, float] = dict(sorted(schedule.items()))

    def __str__(self) -> str:
        weights = list(self.schedule.values())
        return self.name if weights == [1.0] else f"{' → '.join(f'{weight:g}' for weight in weights)} {self.name}"

    def weight_at(self, step: int) -> float:
        """The weight after so many rollouts."""
        steps = list(self.schedule)
        if step >= steps[-1]:
            return self.schedule[steps[-1]]
        after = next(i for i, own in enumerate(steps) if own > step)
        if after == 0:
            return self.schedule[steps[0]]
        start, end = steps[after - 1], steps[after]
        share = (step - start) / (end - start)
        return (1 - share) * self.schedule[start] + share * self.schedule[end]

    def check(self, module: GRPOModule) -> None:
        """Refuse a run that this reward cannot serve in.

        Raises:
            ValueError: says why.
        """
        if self.needs_verifier and module.verifier is None:
            raise ValueError(
                f"The {self.name} reward needs a verifier: set model.verifier to a directory or hub id of one."
            )

    @abstractmethod
    def __call__(self, given: RewardInput) -> Tensor:
        """Reward of each completion before weighting, float32 `[N]`.

        Malformed text has a defined score; it never raises.
        """
