"""Explanation reward: the rationale's sentences express the target emotion (arXiv 2510.23506).

The released code crashes on a batch in which no completion has a sentence; here it gets zeros (decision 17).
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from callbacks.rewards.base import Reward, RewardInput, Weight
from datamodules.rationale import Response, split_sentences
from lightning_modules.coherence import explanation_score
from lightning_modules.emotion_verifier import MAX_LABELS, THRESHOLD, SentenceReading, label_sets
from lightning_modules.grpo import GRPOModule


class ExplanationReward(Reward):
    """Share of the rationale's emotional sentences in which the verifier reads the target; 0 without such sentences.

    Args:
        threshold: a label is read in a sentence when its probability is greater.
        max_labels: largest number of labels read in a sentence; the most probable is always read.
        unit: "sentence", or "rationale": all of it is read as one sentence.
        sections: of the model's, those whose sentences count, too (HumanOmniV2's context, for one).
        weight: see `Reward`.

    Raises:
        ValueError: a threshold that is no probability, fewer than one label, or a section that the model has not.
    """

    name = "explanation"
    needs_verifier = True

    def __init__(
        self,
        threshold: float = THRESHOLD,
        max_labels: int = MAX_LABELS,
        unit: Literal["sentence", "rationale"] = "sentence",
        weight: Weight = 1.0,
        sections: Sequence[str] = (),
    ) -> None:
        super().__init__(weight)
        if not 0 <= threshold <= 1 or max_labels < 1 or unit not in ("sentence", "rationale"):
            raise ValueError(
                "The explanation reward expects 0 <= threshold <= 1, max_labels >= 1 and unit sentence or rationale; "
                f"got {threshold}, {max_labels}, {unit!r}."
            )
        self.threshold = threshold
        self.max_labels = max_labels
        self.unit = unit
        self.sections = tuple(sections)

    def check(self, module: GRPOModule) -> None:
        super().check(module)
        unknown = [name for name in self.sections if name not in module.sections]
        if unknown:
            raise ValueError(
                f"The explanation reward reads {', '.join(unknown)}, and model.sections is {list(module.sections)}: "
                "name the sections there, too."
            )

    def __call__(self, given: RewardInput) -> Tensor:
        if given.readings is None:
            raise ValueError("The explanation reward needs a verifier's readings; got none. Give the run a verifier.")
        readings = given.readings
        if self.unit == "rationale" or self.sections:
            assert given.verifier is not None, "who else has read the sentences"
            readings = given.verifier.read_groups([self._units(own) for own in given.responses])
        taxonomy = given.taxonomy
        assert taxonomy is not None, "a module's"
        pairs = zip(readings, given.targets, strict=True)
        scores = [
            explanation_score([self._emotions(reading) for reading in rows], target, taxonomy) for rows, target in pairs
        ]
        return torch.tensor(scores, dtype=torch.float32)

    def _units(self, response: Response) -> list[str]:
        """What is read of a response, each by itself."""
        texts = [*(response.sections[name] for name in self.sections), response.rationale]
        if self.unit == "rationale":
            return [text for text in texts if text]
        return [sentence for text in texts for sentence in split_sentences(text)]

    def _emotions(self, reading: SentenceReading) -> Sequence[str]:
        (found,) = label_sets(reading.probabilities[None], self.threshold, self.max_labels)
        return [reading.labels[i] for i in found]
