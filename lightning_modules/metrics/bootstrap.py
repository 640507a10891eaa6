"""Percentile bootstrap intervals over clips (Efron and Tibshirani 1993, chapter 13), for what is no share of clips.

Shape legend: M kinds of clips, R resamples. Clips of one kind count the same, so that a resample of as many clips with
replacement is a multinomial draw of how many are of each kind: R·M numbers, however many clips. `scipy.stats` draws
each clip, and its import adds half to what `compare` takes (docs/performance.md).
"""

import numpy as np
from numpy.typing import NDArray

from lightning_modules.metrics.intervals import LEVEL, Interval


def resample(counts: NDArray[np.int64], num_resamples: int, seed: int) -> NDArray[np.float64]:
    """Draw as many clips as there are, with replacement, `num_resamples` times.

    Args:
        counts: clips of each kind, int64 `[M]`.
        num_resamples: R.
        seed: of the draws.

    Returns:
        Clips of each kind in each resample, float64 `[R, M]`.

    Raises:
        ValueError: R is not positive.
    """
    if num_resamples < 1:
        raise ValueError(f"Expected at least one resample; got {num_resamples}.")
    total = int(counts.sum())
    return np.random.default_rng(seed).multinomial(total, counts / total, size=num_resamples).astype(np.float64)


def percentile_interval(value: float, resampled: NDArray[np.float64]) -> Interval:
    """The middle `LEVEL` of resampled values, float64 `[R]`, around the value of the clips as they are."""
    low, high = np.quantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(value, float(low), float(high))
