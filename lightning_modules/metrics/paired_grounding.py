"""Two runs over the same generated clips: does one say more of what is true?

Shape legend as in `claims` and `bootstrap`. Claims of one clip go together: clips are resampled, not claims.
"""

import numpy as np
from numpy.typing import NDArray

from lightning_modules.metrics.bootstrap import percentile_interval, resample
from lightning_modules.metrics.claims import FIGURES, GROUNDED_FCR, Counts
from lightning_modules.metrics.paired import PairedRate, paired_share


def compare_grounding(
    baseline: Counts, other: Counts, num_resamples: int = 10_000, seed: int = 0
) -> dict[str, PairedRate]:
    """Differences of the figures between two runs; McNemar's test of the one that is a share of clips.

    Args:
        baseline: counts of each clip, int64 `[N, F, 2]`.
        other: of the same clips in the same order.
        num_resamples: R.
        seed: of the resamples.

    Returns:
        Figure → both values and their difference. Figures that one of the runs has nothing to count for are left out.
    """
    clips, kinds = np.unique(np.stack([baseline, other], axis=1), axis=0, return_counts=True)
    draws = resample(kinds, num_resamples, seed)
    resampled = _shares((draws @ clips.reshape(len(clips), -1)).reshape(num_resamples, 2, len(FIGURES), 2))
    values = _shares(np.stack([baseline.sum(axis=0), other.sum(axis=0)]))
    rates = {}
    for i, name in enumerate(FIGURES):
        before, after = map(float, values[:, i])
        differences = resampled[:, 1, i] - resampled[:, 0, i]
        differences = differences[np.isfinite(differences)]  # a resample may have nothing to count
        if not np.isfinite(after - before) or not len(differences):
            continue
        if name == GROUNDED_FCR:
            first, second = (counts[:, i, 0] > 0 for counts in (baseline, other))
            rates[name] = paired_share(before, after, second & ~first, first & ~second)
        else:
            rates[name] = PairedRate(before, after, percentile_interval(after - before, differences), None)
    return rates


def _shares(counts: NDArray[np.float64] | Counts) -> NDArray[np.float64]:
    """`[..., 2]` → numerator / denominator `[...]`; NaN where there is nothing to count."""
    parts, wholes = counts[..., 0], counts[..., 1]
    return np.divide(parts, wholes, out=np.full(parts.shape, np.nan), where=wholes > 0)
