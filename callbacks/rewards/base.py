"""What a reward is, and how rewards are added."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from datamodules.rationale import Response
from lightning_modules.emotion_verifier import SentenceReading


class Reward(ABC):
    """Scores completions. A new reward is one subclass in one file of this package.

    Args:
        weight: factor of this reward in the sum that the advantages are computed from.

    Raises:
        ValueError: the weight is not a finite number.
    """

    name: ClassVar[str]
    """Short name for logs and files; unique among the rewards of a run."""

    needs_verifier: ClassVar[bool] = False
    """True when `__call__` needs the verifier's readings."""

    def __init__(self, weight: float = 1.0) -> None:
        if not math.isfinite(weight):
            raise ValueError(f"The weight of reward {self.name!r} must be a finite number; got {weight}.")
        self.weight = weight

    @abstractmethod
    def __call__(
        self,
        responses: Sequence[Response],
        targets: Sequence[str],
        readings: Sequence[Sequence[SentenceReading]] | None = None,
    ) -> Tensor:
        """Reward of each completion before weighting, float32 `[N]` on the CPU.

        Malformed text has a defined score; it never raises.

        Args:
            responses: the N completions, read.
            targets: the canonical emotion of each completion's clip.
            readings: what the verifier read in each completion's sentences; None without a verifier.
        """


def sum_rewards(rewards: Sequence[Reward], values: Mapping[str, Tensor]) -> Tensor:
    """Weighted sum that the advantages are computed from, float32 `[N]`.

    Args:
        rewards: at least one reward.
        values: what each reward gave, `[N]`, by the reward's name.
    """
    return torch.stack([reward.weight * values[reward.name] for reward in rewards]).sum(dim=0)
