"""Explanation reward: the rationale's sentences express the target emotion (arXiv 2510.23506).

The released code crashes on a batch in which no completion has a sentence; here it gets zeros (decision 17).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from callbacks.rewards.base import Reward
from datamodules.rationale import Response
from lightning_modules.coherence import explanation_score
from lightning_modules.emotion_verifier import SentenceReading


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
