"""How often the way labels are read decides a reward: other thresholds, the top label only, small errors.

A sentence's label set L_s follows from its probabilities by a threshold and a largest number of labels, both of the
released code. Where another reading gives another set, the reward hangs on that choice.

Shape legend: n sentences, L labels, K target labels (of the classes), R readings.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from datamodules.emotions import MAFW_TAXONOMY
from lightning_modules.emotion_verifier import MAX_LABELS, THRESHOLD, label_mask


@dataclass(frozen=True)
class LabelReading:
    """A way to read a label set from probabilities; see `label_sets`.

    Args:
        name: what reports call it.
        threshold: a label is read above it.
        max_labels: largest number of labels of a sentence.
    """

    name: str
    threshold: float = THRESHOLD
    max_labels: int = MAX_LABELS


READINGS = (
    LabelReading("threshold_0.05", threshold=0.05),
    LabelReading("threshold_0.2", threshold=0.2),
    LabelReading("top_label_only", max_labels=1),
)
"""What the reward's reading is compared with."""

MARGINS = (0.01, 0.02, 0.05)
"""Errors of a probability for which it is reported how many label sets they can change. The threshold itself bounds
what can be asked: a second label that is not read is never further than 0.1 from it."""

TARGET_LABELS = MAFW_TAXONOMY.verifier_labels
"""The labels that an emotion of the paper's corpora can ask a sentence for."""


def set_margins(probabilities: Tensor) -> Tensor:
    """Smallest error of the probabilities that can change a sentence's label set.

    With the sorted p1 >= p2 >= p3 and threshold t: for p2 > t the set is {1, 2}, and min(p2 − t, (p2 − p3) / 2) lets
    the second fall to t or the third overtake it; else it is {1}, and min(t − p2, (p1 − p2) / 2) lets the second rise
    above t or overtake the first. Every probability may err by as much, upwards or downwards.

    Args:
        probabilities: float32 `[n, L]`, L >= 3.

    Returns:
        float32 `[n]`, at least 0.
    """
    first, second, third = probabilities.topk(3, dim=1).values.unbind(dim=1)
    return torch.where(
        second > THRESHOLD,
        torch.minimum(second - THRESHOLD, (second - third) / 2),
        torch.minimum(THRESHOLD - second, (first - second) / 2),
    )


def relation_codes(mask: Tensor, labels: Sequence[str]) -> Tensor:
    """Relation of each sentence to each target label, as `coherence.relation` defines it.

    Args:
        mask: bool `[n, L]`, label sets.
        labels: names of the L labels.

    Returns:
        int64 `[n, K]` over the `TARGET_LABELS` among `labels`, in that order: 2 matching, 1 neutral, 0 contradicting.
    """
    goals = [labels.index(label) for label in TARGET_LABELS if label in labels]
    neutral = torch.tensor([label == "neutral" for label in labels], device=mask.device)
    only_neutral = (mask == neutral).all(dim=1, keepdim=True)
    return torch.where(mask[:, goals], 2, only_neutral.long())


def reading_counts(probabilities: Tensor, gold: Tensor, labels: Sequence[str]) -> Tensor:
    """What other readings would change in sentences with known labels.

    Args:
        probabilities: float32 `[n, L]`.
        gold: bool `[n, L]`, True where the sentence has the label.
        labels: names of the L labels.

    Returns:
        int64 `[R, 3]` for `READINGS`: sentences whose label set changes; sentences whose relation to some target label
        changes; pairs of a sentence and one of its own labels, among the target labels, whose relation changes.
    """
    own = gold[:, [labels.index(label) for label in TARGET_LABELS if label in labels]]
    mask = label_mask(probabilities)
    codes = relation_codes(mask, labels)
    rows = []
    for reading in READINGS:
        other = label_mask(probabilities, reading.threshold, reading.max_labels)
        changed = relation_codes(other, labels) != codes
        rows.append(torch.stack([(other != mask).any(dim=1).sum(), changed.any(dim=1).sum(), (changed & own).sum()]))
    return torch.stack(rows)
