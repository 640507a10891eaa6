"""Whether probabilities mean what they say: reliability curve and expected calibration error, from counts that add up.
torchmetrics keeps every probability instead, and has no curve.

Shape legend: n sentences, L labels, B bins of probability.
"""

from typing import Any

import torch
from torch import Tensor

from lightning_modules.metrics.intervals import wilson

NUM_BINS = 20
"""Bins of equal width over [0, 1]; the reward's threshold of 0.1 is an edge."""

_SCALE = 1 << 24
"""Probabilities are summed as whole multiples of 2^-24: the sum does not depend on order, batches or processes."""


def reliability_counts(probabilities: Tensor, gold: Tensor) -> Tensor:
    """Count decisions (a sentence and a label each) per label and bin.

    Bin b holds b / B < p <= (b + 1) / B; the first holds 0 as well.

    Args:
        probabilities: float32 `[n, L]` in [0, 1].
        gold: bool `[n, L]`, True where the sentence has the label.

    Returns:
        int64 `[L, B, 3]`: decisions, those that are true, and the sum of their probabilities in multiples of 2^-24.
        Counts of several batches add up.
    """
    edges = torch.arange(1, NUM_BINS, device=probabilities.device) / NUM_BINS
    bins = torch.bucketize(probabilities, edges)
    num_labels = probabilities.shape[1]
    cells = (bins + NUM_BINS * torch.arange(num_labels, device=bins.device)).flatten()
    values = torch.stack(
        [torch.ones_like(cells), gold.flatten().long(), (probabilities * _SCALE).round().long().flatten()], dim=1
    )
    empty = torch.zeros(num_labels * NUM_BINS, 3, dtype=torch.long, device=bins.device)
    return empty.index_add(0, cells, values).view(num_labels, NUM_BINS, 3)


def calibration_error(counts: Tensor) -> float | None:
    """Expected calibration error (Guo et al., arXiv 1706.04599): Σ_b n_b / N · |mean probability − share of true|.

    Args:
        counts: int64 `[B, 3]` as of `reliability_counts`, of any bins.

    Returns:
        A number in [0, 1]; None without a decision.
    """
    total = int(counts[:, 0].sum())
    gaps = sum(abs(mass / _SCALE - true) for _, true, mass in counts.tolist())
    return gaps / total if total else None


def reliability_curve(counts: Tensor) -> list[dict[str, Any]]:
    """The reliability curve, one dictionary per bin.

    Args:
        counts: int64 `[B, 3]` as of `reliability_counts`.

    Returns:
        `low`, `high` (the bin), `num_decisions`, and `mean_probability`, `share_true` and `interval` (95 %, of
        `share_true`), which are None in an empty bin.
    """
    return [
        {
            "low": i / NUM_BINS,
            "high": (i + 1) / NUM_BINS,
            "num_decisions": number,
            "mean_probability": mass / _SCALE / number if number else None,
            "share_true": true / number if number else None,
            "interval": list(wilson(true, number)) if number else None,
        }
        for i, (number, true, mass) in enumerate(counts.tolist())
    ]
