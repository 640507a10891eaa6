"""How well a verifier reads sentences whose labels are known (stage 2).

Shape legend: n sentences, L labels, T thresholds, B bins of probability, R readings, M margins.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_modules.emotion_verifier import THRESHOLD, label_mask
from lightning_modules.metrics.calibration import NUM_BINS, calibration_error, reliability_counts, reliability_curve
from lightning_modules.metrics.label_readings import MARGINS, READINGS, TARGET_LABELS, reading_counts, set_margins

THRESHOLDS = tuple(round(0.05 * i, 2) for i in range(1, 19))
"""0.05 to 0.9 in steps of 0.05: what the threshold sweep tries. The reward's is among them."""

_REWARD = THRESHOLDS.index(THRESHOLD)


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None


class SentenceLabelReport(Metric):
    """Counts sentences and computes one dictionary of plain JSON values: how well, how sure, how decisive.

    All states are counts, which add up over batches and processes whatever their order. Rates per label are at the
    reward's threshold. Labels of no held-out sentence are listed and left out of the macro mean: a corpus may use only
    some of them.

    Args:
        labels: names of the L labels, at least three.
    """

    is_differentiable = False
    full_state_update = False
    counts: Tensor
    num_exact: Tensor
    num_sentences: Tensor
    num_top: Tensor
    reliability: Tensor
    confusion: Tensor
    num_changed: Tensor
    num_own: Tensor
    num_within: Tensor

    def __init__(self, labels: Sequence[str]) -> None:
        super().__init__()
        self.labels = tuple(labels)
        size = len(self.labels)
        shapes: dict[str, tuple[int, ...]] = {
            "counts": (len(THRESHOLDS), size, 3),  # true positives, false positives, false negatives
            "num_exact": (len(THRESHOLDS),),
            "num_sentences": (),
            "num_top": (),
            "reliability": (size, NUM_BINS, 3),
            "confusion": (size, size),
            "num_changed": (len(READINGS), 3),
            "num_own": (),
            "num_within": (len(MARGINS),),
        }
        for name, shape in shapes.items():
            self.add_state(name, torch.zeros(shape, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, probabilities: Tensor, labels: Tensor) -> None:
        """Count sentences.

        Args:
            probabilities: float32 `[n, L]`.
            labels: `[n, L]`, 1 where the sentence has the label.
        """
        gold = labels.bool()
        for i, threshold in enumerate(THRESHOLDS):
            read = probabilities > threshold
            self.counts[i] += torch.stack([read & gold, read & ~gold, ~read & gold], dim=-1).sum(dim=0)
            self.num_exact[i] += (label_mask(probabilities, threshold) == gold).all(dim=1).sum()
        top = probabilities.argmax(dim=1)
        self.num_sentences += len(gold)
        self.num_top += gold.gather(1, top[:, None]).sum()
        self.reliability += reliability_counts(probabilities, gold)
        self.confusion.index_add_(1, top, gold.long().T)
        self.num_changed += reading_counts(probabilities, gold, self.labels)
        self.num_own += gold[:, [self.labels.index(label) for label in TARGET_LABELS if label in self.labels]].sum()
        margins = set_margins(probabilities)
        self.num_within += torch.stack([(margins <= margin).sum() for margin in MARGINS])

    def compute(self) -> dict[str, Any]:
        """The report.

        Returns:
            `num_sentences`; `threshold`, the reward's; `macro_f1`, mean over the labels that a sentence has, and
            `micro_f1`, over all decisions (None without any); `exact_match`, share of sentences whose label set, as the
            reward reads it, is the given one; `top_label_accuracy`, share of sentences that have their most probable
            label; `absent_labels`, of no sentence; `per_label`, label → `support` (sentences that have it),
            `precision`, `recall`, `f1` = 2 TP / (2 TP + FP + FN), None for an absent label, and `calibration_error`;
            `threshold_sweep`, the rates at each of `THRESHOLDS`; `calibration` (`error` over all decisions,
            `error_above_threshold` over those with p > threshold, and the `bins`); `confusion`, with its `rows` (given
            labels) and `columns` (most probable labels) over the labels that occur, and `counts` of sentences, which
            count once for each of their labels; and `label_sets`: `within_margin` and `readings` as far as known
            without a clip's target, see `label_readings`.

        Raises:
            ValueError: no sentence was counted.
        """
        if int(self.num_sentences) == 0:
            raise ValueError("No sentence was evaluated, so there is no metric to compute.")
        reliability = self.reliability.cpu()
        pooled = reliability.sum(dim=0)
        per_label = {label: self._label_rates(i) for i, label in enumerate(self.labels)}
        return {
            "num_sentences": int(self.num_sentences),
            **self._rates(_REWARD),
            "top_label_accuracy": int(self.num_top) / int(self.num_sentences),
            "absent_labels": [label for label, rates in per_label.items() if not rates["support"]],
            "per_label": {
                label: rates | {"calibration_error": calibration_error(reliability[i])}
                for i, (label, rates) in enumerate(per_label.items())
            },
            "threshold_sweep": [self._rates(i) for i in range(len(THRESHOLDS))],
            "calibration": {
                "error": calibration_error(pooled),
                "error_above_threshold": calibration_error(pooled[round(THRESHOLD * NUM_BINS) :]),
                "bins": reliability_curve(pooled),
            },
            "confusion": self._confusion(),
            "label_sets": self._label_sets(),
        }

    def _label_rates(self, label: int, threshold: int = _REWARD) -> dict[str, Any]:
        hits, false, missed = self.counts[threshold, label].tolist()
        support = hits + missed
        return {
            "support": support,
            "precision": _ratio(hits, hits + false),
            "recall": _ratio(hits, support),
            "f1": 2 * hits / (2 * hits + false + missed) if support else None,
        }

    def _rates(self, threshold: int) -> dict[str, Any]:
        per_label = [self._label_rates(label, threshold)["f1"] for label in range(len(self.labels))]
        present = [f1 for f1 in per_label if f1 is not None]
        hits, false, missed = self.counts[threshold].sum(dim=0).tolist()
        return {
            "threshold": THRESHOLDS[threshold],
            "macro_f1": _ratio(sum(present), len(present)),
            "micro_f1": _ratio(2 * hits, 2 * hits + false + missed) if present else None,
            "exact_match": int(self.num_exact[threshold]) / int(self.num_sentences),
        }

    def _confusion(self) -> dict[str, Any]:
        counts = self.confusion.cpu()
        rows, columns = (counts.sum(dim=dim).nonzero().flatten().tolist() for dim in (1, 0))
        return {
            "rows": [self.labels[i] for i in rows],
            "columns": [self.labels[i] for i in columns],
            "counts": counts[rows][:, columns].tolist(),
        }

    def _label_sets(self) -> dict[str, Any]:
        total, own = int(self.num_sentences), int(self.num_own)
        return {
            "within_margin": {
                str(margin): number / total for margin, number in zip(MARGINS, self.num_within.tolist(), strict=True)
            },
            "readings": {
                reading.name: {
                    "label_set_changed": sets / total,
                    "any_relation_changed": relations / total,
                    "own_relation_changed": _ratio(pairs, own),
                }
                for reading, (sets, relations, pairs) in zip(READINGS, self.num_changed.tolist(), strict=True)
            },
        }
