"""How well a verifier reads sentences whose labels are known (stage 2).

Shape legend: n sentences, L labels.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional.classification import multilabel_stat_scores

from lightning_modules.emotion_verifier import THRESHOLD, label_mask


class SentenceLabelReport(Metric):
    """Counts per label and computes one dictionary of plain JSON values, for held-out sentences.

    Rates per label are at the reward's threshold. Labels of no held-out sentence are listed and left out of the macro
    mean: a corpus may use a part of the 28 only.

    Args:
        labels: names of the L labels.
    """

    is_differentiable = False
    full_state_update = False
    counts: Tensor
    num_sentences: Tensor
    num_top: Tensor
    num_exact: Tensor

    def __init__(self, labels: Sequence[str]) -> None:
        super().__init__()
        self.labels = tuple(labels)
        self.add_state("counts", torch.zeros(len(self.labels), 3, dtype=torch.long), dist_reduce_fx="sum")
        for name in ("num_sentences", "num_top", "num_exact"):
            self.add_state(name, torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, probabilities: Tensor, labels: Tensor) -> None:
        """Count sentences.

        Args:
            probabilities: float32 `[n, L]`.
            labels: `[n, L]`, 1 where the sentence has the label.
        """
        gold = labels.bool()
        scores = multilabel_stat_scores(
            probabilities, gold.long(), num_labels=len(self.labels), threshold=THRESHOLD, average="none"
        )
        # Columns: true positives, false positives, true negatives, false negatives, support.
        self.counts += scores[:, [0, 1, 3]]
        self.num_sentences += len(gold)
        self.num_top += gold.gather(1, probabilities.argmax(dim=1, keepdim=True)).sum()
        self.num_exact += (label_mask(probabilities) == gold).all(dim=1).sum()

    def compute(self) -> dict[str, Any]:
        """The report.

        Returns:
            `num_sentences`; `threshold`; `macro_f1`, mean over the labels that a sentence has (None without any);
            `per_label_f1` (label → F1 = 2 TP / (2 TP + FP + FN); None for a label without a sentence); `absent_labels`;
            `top_label_accuracy`, share of sentences that have their most probable label; `exact_match`, share of
            sentences whose label set, as the reward reads it, is the given one.

        Raises:
            ValueError: no sentence was counted.
        """
        total = int(self.num_sentences)
        if total == 0:
            raise ValueError("No sentence was evaluated, so there is no metric to compute.")
        per_label = {
            label: 2 * hits / (2 * hits + false + missed) if hits + missed else None
            for label, (hits, false, missed) in zip(self.labels, self.counts.tolist(), strict=True)
        }
        present = [value for value in per_label.values() if value is not None]
        return {
            "num_sentences": total,
            "threshold": THRESHOLD,
            "macro_f1": sum(present) / len(present) if present else None,
            "per_label_f1": per_label,
            "absent_labels": [label for label, value in per_label.items() if value is None],
            "top_label_accuracy": int(self.num_top) / total,
            "exact_match": int(self.num_exact) / total,
        }
