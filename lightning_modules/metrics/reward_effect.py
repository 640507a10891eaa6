"""How often the verifier's labels decide the explanation reward of finished runs (see `label_readings`)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from datamodules.emotions import GO_EMOTIONS, Taxonomy
from lightning_modules.coherence import explanation_score, relation
from lightning_modules.emotion_verifier import label_sets
from lightning_modules.metrics.label_readings import MARGINS, READINGS, LabelReading, set_margins
from lightning_modules.metrics.predictions import Prediction

REWARD = LabelReading("reward")
"""The reading that the reward uses."""


_FEWEST_LABELS = 3
"""The margin of a label set compares the second and the third."""


@dataclass(frozen=True)
class _ReadClip:
    """A clip with n sentences over L labels: its target, the labels' names, probabilities float32 `[n, L]`."""

    target: str
    labels: tuple[str, ...]
    probabilities: Tensor

    def emotions(self, reading: LabelReading) -> list[list[str]]:
        """The label set of each sentence."""
        sets = label_sets(self.probabilities, reading.threshold, reading.max_labels)
        return [[self.labels[i] for i in label_set] for label_set in sets]


def _read_clip(prediction: Prediction) -> _ReadClip | None:
    if prediction.target is None or prediction.explanation is None:
        return None
    sentences = [sentence.probabilities for sentence in prediction.sentences]
    labels = GO_EMOTIONS if not sentences or sentences[0] is None else tuple(sentences[0])
    if len(labels) < _FEWEST_LABELS:
        raise ValueError(
            f"Clip {prediction.id!r}: a sentence has the probabilities of {len(labels)} labels. Expected "
            f"{_FEWEST_LABELS} or more, as `score` and `test` write them."
        )
    rows = [[own[label] for label in labels] for own in sentences if own is not None and own.keys() == set(labels)]
    if len(rows) < len(sentences):
        return None
    return _ReadClip(prediction.target, labels, torch.tensor(rows, dtype=torch.float32).view(len(rows), len(labels)))


def reward_effect(predictions: Sequence[Prediction], taxonomy: Taxonomy) -> dict[str, Any]:
    """What another reading of the labels, or a small error of the probabilities, would do to the explanation reward.

    Args:
        predictions: clips; those without a target, or whose sentences no verifier read, are left out and counted.
        taxonomy: the classes of the targets.

    Returns:
        `num_clips`, `num_left_out`, `num_sentences`; `within_margin`: margin → share of the sentences whose label set
        an error of that size can change; `readings`: name → `clips_changed`, share of the clips whose reward changes,
        `mean_change` and `mean_absolute_change` of their rewards over all clips, and `sentences_changed`, share of the
        sentences whose relation to their clip's target changes. None where there is no clip or no sentence.
    """
    clips = [clip for clip in map(_read_clip, predictions) if clip is not None]
    margins = torch.cat([torch.empty(0)] + [set_margins(clip.probabilities) for clip in clips])
    return {
        "num_clips": len(clips),
        "num_left_out": len(predictions) - len(clips),
        "num_sentences": len(margins),
        "within_margin": {str(m): _mean((margins <= m).float().tolist()) for m in MARGINS},
        "readings": {reading.name: _changes(clips, reading, taxonomy) for reading in READINGS},
    }


def _changes(clips: Sequence[_ReadClip], reading: LabelReading, taxonomy: Taxonomy) -> dict[str, float | None]:
    rewards, sentences = [], []
    for clip in clips:
        before, after = clip.emotions(REWARD), clip.emotions(reading)
        rewards.append(
            explanation_score(after, clip.target, taxonomy) - explanation_score(before, clip.target, taxonomy)
        )
        sentences += [
            relation(one, clip.target, taxonomy) != relation(other, clip.target, taxonomy)
            for one, other in zip(before, after, strict=True)
        ]
    return {
        "clips_changed": _mean([change != 0 for change in rewards]),
        "mean_change": _mean(rewards),
        "mean_absolute_change": _mean([abs(change) for change in rewards]),
        "sentences_changed": _mean(sentences),
    }


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
