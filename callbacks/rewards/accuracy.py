"""Accuracy reward: the answer names the target."""

from collections.abc import Sequence

import torch
from torch import Tensor

from callbacks.rewards.base import Reward
from datamodules.emotions import members
from datamodules.rationale import Response
from lightning_modules.emotion_verifier import SentenceReading


def accuracy_score(prediction: str | None, target: str) -> float:
    """1 if the canonical answer equals the canonical target; else 0, as for an unknown answer (None).

    For a compound clip any of its emotions is right (decision 18).
    """
    return float(prediction in members(target))


class AccuracyReward(Reward):
    """1 if the canonical answer equals the canonical target; else 0, as for an unknown answer."""

    name = "accuracy"

    def __call__(
        self,
        responses: Sequence[Response],
        targets: Sequence[str],
        readings: Sequence[Sequence[SentenceReading]] | None = None,
    ) -> Tensor:
        pairs = zip(responses, targets, strict=True)
        scores = [accuracy_score(response.prediction, target) for response, target in pairs]
        return torch.tensor(scores, dtype=torch.float32)
