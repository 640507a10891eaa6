"""Accuracy reward: the answer names the target."""

import torch
from torch import Tensor

from callbacks.rewards.base import Reward, RewardInput
from datamodules.emotions import members


def accuracy_score(prediction: str | None, target: str) -> float:
    """1 if the canonical answer equals the canonical target; else 0, as for an unknown answer (None).

    For a compound clip any of its emotions is right (decision 18).
    """
    return float(prediction in members(target))


class AccuracyReward(Reward):
    """1 if the canonical answer equals the canonical target; else 0, as for an unknown answer."""

    name = "accuracy"

    def __call__(self, given: RewardInput) -> Tensor:
        pairs = zip(given.responses, given.targets, strict=True)
        scores = [accuracy_score(response.prediction, target) for response, target in pairs]
        return torch.tensor(scores, dtype=torch.float32)
