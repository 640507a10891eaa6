"""Explanation reward: the rationale's sentences express the target emotion (arXiv 2510.23506; spec "Rewards").

Departs from the released code where that crashes: a batch in which no completion has a sentence gets zeros.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from callbacks.rewards.base import Reward
from datamodules.emotions import target_labels
from lightning_modules.emotion_verifier import SentenceReading
from lightning_modules.rationale import Response


def explanation_score(label_sets: Sequence[Sequence[str]], target: str) -> float:
    """Share of a rationale's emotional sentences that express the target.

    With g the target's verifier label, n sentences, m of them with g in their label set and e of them with a label set
    other than {neutral}: m / n for g = neutral, else m / e; 0 where the denominator is 0. A compound target has several
    labels g, and a sentence that expresses any of them counts (the paper has no compound clips).

    Args:
        label_sets: verifier labels read in each sentence.
        target: canonical emotion, or several of a compound clip.
    """
    goals = target_labels(target)
    matching = sum(not goals.isdisjoint(labels) for labels in label_sets)
    emotional = sum(set(labels) != {"neutral"} for labels in label_sets)
    denominator = len(label_sets) if goals == {"neutral"} else emotional
    return matching / denominator if denominator else 0.0


class ExplanationReward(Reward):
    """Share of the rationale's emotional sentences in which the verifier reads the target; 0 without such sentences."""

    name = "explanation"
    needs_verifier = True

    def __call__(
        self,
        responses: Sequence[Response],
        targets: Sequence[str],
        readings: Sequence[Sequence[SentenceReading]] | None = None,
    ) -> Tensor:
        if readings is None:
            raise ValueError("The explanation reward needs a verifier's readings; got none. Give the run a verifier.")
        pairs = zip(readings, targets, strict=True)
        scores = [explanation_score([reading.emotions for reading in rows], target) for rows, target in pairs]
        return torch.tensor(scores, dtype=torch.float32)
