"""Set reward: the emotions that the answer names are those of the clip, as far as possible."""

import torch
from torch import Tensor

from callbacks.rewards.base import Reward, RewardInput
from datamodules.emotions import members
from lightning_modules.metrics.emotion_sets import set_f1


class SetF1Reward(Reward):
    """F1 of the emotions that the answer names and those of the clip; 0 for an answer that names none.

    For clips with several emotions and answers such as `anger, sadness`; of a clip with one emotion and an answer with
    one it is the accuracy reward. Naming everything costs precision.
    """

    name = "set_f1"

    def __call__(self, given: RewardInput) -> Tensor:
        assert given.taxonomy is not None, "a module's"
        pairs = zip(given.responses, given.targets, strict=True)
        scores = [set_f1(given.taxonomy.named(own.answer), frozenset(members(target))) for own, target in pairs]
        return torch.tensor(scores, dtype=torch.float32)
