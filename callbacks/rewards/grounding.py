"""Grounding reward: what the rationale says is true of the clip, as far as that can be known."""

from collections.abc import Sequence

import torch
from torch import Tensor

from callbacks.rewards.base import Reward, RewardInput, Weight
from datamodules.synthetic.truth import read_truth
from lightning_modules.metrics.claims import match_truth, sentence_support
from lightning_modules.metrics.rationale_statistics import words


class GroundingReward(Reward):
    """How much of what a rationale says is true of its clip: an estimate on real clips, exact on generated ones.

    The estimate asks the reference policy, which training does not change, what pictures and sound tell it about each
    sentence (`reliance`), and takes the mean over sentences of the probability that what the sentence says is so: of N
    emotions, exp(nats) / N, at most 1, by the modality that the sentence rests on most. A sentence that suits every
    clip earns 1/N, one that contradicts what the reference sees and hears less.

    The exact version takes the mean over the sentences that claim something: 1 where every claim is true, else 0. It
    shows what could be had; no real corpus has such a truth.

    Silence and repetition are no ways out (decision 50): a sentence that is repeated, word by word, earns nothing the
    second time, and what is missing to `min_sentences` counts as 0. A clip that is left alone in its batch, as the
    others could not be decoded, has no estimate, and so no reward.

    Args:
        oracle: the synthetic.json of the generated corpus that is trained on; null for the estimate.
        num_others: clips of the batch that lend their pictures and sound, for the estimate; more are more exact and
            take more time. All others where the batch has fewer.
        min_sentences: the mean is taken over so many sentences at least.
        weight: see `Reward`.

    Raises:
        FileNotFoundError, ValueError: no such truth; fewer than one other clip, or than one sentence.
    """

    name = "grounding"
    may_abstain = True

    def __init__(
        self, oracle: str | None = None, num_others: int = 3, min_sentences: int = 2, weight: Weight = 1.0
    ) -> None:
        super().__init__(weight)
        if min(num_others, min_sentences) < 1:
            raise ValueError(
                "The grounding reward needs num_others and min_sentences of 1 or more; got "
                f"{num_others} and {min_sentences}."
            )
        self.truth = None if oracle is None else read_truth(oracle)
        self.min_sentences = min_sentences
        self.num_others = 0 if oracle is not None else num_others

    def __call__(self, given: RewardInput) -> Tensor:
        scores = [
            mean_score(list(zip(response.sentences, own, strict=True)), self.min_sentences)
            for response, own in zip(given.responses, self._sentence_scores(given), strict=True)
        ]
        return torch.tensor(scores, dtype=torch.float32)

    def _sentence_scores(self, given: RewardInput) -> list[list[float | None]]:
        """Of each sentence of each completion, in [0, 1]; None of one that claims nothing."""
        if self.truth is not None:
            clips = zip(given.ids, given.media, given.targets, strict=True)
            truths = match_truth(clips, "The grounding reward", self.truth)
            pairs = zip(given.responses, truths, strict=True)
            supports = [[sentence_support(own, truth) for own in response.sentences] for response, truth in pairs]
            return [[None if own is None else float(own == "true") for own in row] for row in supports]
        if given.reliances is None or given.taxonomy is None:
            raise ValueError("The grounding reward needs what sentences rest on; got none. Train with GRPOModule.")
        num_emotions = len(given.taxonomy)
        return [[reliance.belief(num_emotions) for reliance in row] for row in given.reliances]


def mean_score(sentences: Sequence[tuple[str, float | None]], at_least: int) -> float:
    """Mean over a rationale's sentences, or over so many at least.

    Args:
        sentences: each with its score. One without a score is left out; one with the same words as an earlier one
            counts as 0.
        at_least: what is missing to so many counts as 0.
    """
    scored = [(" ".join(words(sentence)), score) for sentence, score in sentences if score is not None]
    first = dict(reversed(scored))
    return sum(first.values()) / max(len(scored), at_least)
