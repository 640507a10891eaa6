"""Grounding reward: what the rationale says is true of the clip, as far as that can be known."""

from collections.abc import Sequence
from statistics import fmean

import torch
from torch import Tensor

from callbacks.rewards.base import Reward, RewardInput, Weight
from datamodules.synthetic.truth import read_truth
from lightning_modules.metrics.claims import match_truth, true_share
from lightning_modules.metrics.reliance import Reliance


class GroundingReward(Reward):
    """How much of what a rationale says is true of its clip: an estimate on real clips, exact on generated ones.

    The estimate asks the reference policy, which training does not change, what pictures and sound tell it about each
    sentence (`reliance`), and takes the mean over sentences of the probability that what the sentence says is so: of N
    emotions, exp(nats) / N, at most 1, by the modality that the sentence rests on most. A sentence that suits every
    clip earns 1/N, one that contradicts what the reference sees and hears less.

    The exact version counts claims about face and voice that are true, among all claims. It shows what could be had;
    no real corpus has such a truth.

    A rationale that says nothing, or makes no claim, earns 0: silence is no way out (decision 50).

    Args:
        oracle: the synthetic.json of the generated corpus that is trained on; null for the estimate.
        num_others: clips of the batch that lend their pictures and sound, for the estimate; more are more exact and
            take more time. All others where the batch has fewer.
        weight: see `Reward`.

    Raises:
        FileNotFoundError, ValueError: no such truth; fewer than one other clip.
    """

    name = "grounding"

    def __init__(self, oracle: str | None = None, num_others: int = 3, weight: Weight = 1.0) -> None:
        super().__init__(weight)
        if num_others < 1:
            raise ValueError(f"The grounding reward needs num_others of 1 or more; got {num_others}.")
        self.truth = None if oracle is None else read_truth(oracle)
        self.num_others = 0 if oracle is not None else num_others

    def __call__(self, given: RewardInput) -> Tensor:
        if self.truth is not None:
            clips = zip(given.ids, given.media, given.targets, strict=True)
            truths = match_truth(clips, "The grounding reward", self.truth)
            pairs = zip(given.responses, truths, strict=True)
            return torch.tensor([true_share(response.sentences, truth) for response, truth in pairs])
        if given.reliances is None or given.taxonomy is None:
            raise ValueError("The grounding reward needs what sentences rest on; got none. Train with GRPOModule.")
        num_emotions = len(given.taxonomy)
        return torch.tensor([mean_belief(own, num_emotions) for own in given.reliances])


def mean_belief(reliances: Sequence[Reliance], num_emotions: int) -> float:
    """Mean over a rationale's sentences of `Reliance.belief`; 0 without sentences."""
    return fmean([own.belief(num_emotions) for own in reliances] or [0.0])
