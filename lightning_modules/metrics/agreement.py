"""How far two judges agree: Cohen's kappa (Cohen 1960), with percentile bootstrap intervals over clips.

Raw agreement, a share of clips, has Wilson's interval.

Shape legend: C classes of the taxonomy. `A[i, j]`, int64 `[C+1, C+1]`, is the number of clips of which the first judge
says class i and the second class j. The last row and column are invalid verdicts. Invalid equals nothing, not even
invalid.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from datamodules.emotions import Taxonomy
from lightning_modules.metrics.bootstrap import percentile_interval, resample
from lightning_modules.metrics.intervals import Interval, wilson


@dataclass(frozen=True)
class Agreement:
    """Agreement of two judges.

    Args:
        agreement: share of all clips that both give the same class.
        kappa: Cohen's kappa over the clips that both give a class; None where chance alone would agree on all of them
            (each judge names one and the same class only), or where there is no such clip.
    """

    agreement: Interval
    kappa: Interval | None


def verdict_counts(first: Sequence[str | None], second: Sequence[str | None], taxonomy: Taxonomy) -> NDArray[np.int64]:
    """The counts A of some clips, int64 `[C+1, C+1]`.

    Args:
        first: canonical emotion of each clip; None: invalid.
        second: likewise, of the same clips in the same order.
        taxonomy: the classes.

    Raises:
        ValueError: the lengths differ.
    """
    if len(first) != len(second):
        raise ValueError(f"Expected as many verdicts of both judges; got {len(first)} and {len(second)}.")
    size = len(taxonomy) + 1
    rows, columns = (
        np.array([taxonomy.index(own) for own in judge], dtype=np.int64) % size for judge in (first, second)
    )
    return np.bincount(rows * size + columns, minlength=size * size).reshape(size, size)


def cohens_kappa(counts: NDArray[np.generic]) -> NDArray[np.float64]:
    """κ = (p_o − p_e) / (1 − p_e) over the clips with two valid verdicts; NaN where p_e is 1 or there is no such clip.

    p_o is the share of them with the same class, p_e = Σ_c p_first(c) · p_second(c) what chance would give two judges
    who name the classes as often as these. In whole numbers up to the last division: κ is exactly 0 or 1 where it is.

    Args:
        counts: A, whole numbers `[..., C+1, C+1]`.

    Returns:
        float64 `[...]`.
    """
    valid = counts[..., :-1, :-1].astype(np.int64)
    total = valid.sum(axis=(-2, -1))
    observed = np.trace(valid, axis1=-2, axis2=-1) * total
    chance = (valid.sum(axis=-1) * valid.sum(axis=-2)).sum(axis=-1)
    possible = total * total - chance
    result = np.full(np.shape(total), np.nan)
    return np.divide(observed - chance, possible, out=result, where=possible > 0)


def judge_agreement(counts: NDArray[np.int64], num_resamples: int = 2000, seed: int = 0) -> Agreement:
    """Raw agreement and kappa with 95 % intervals.

    Resamples in which kappa is not defined are left out of its interval.

    Args:
        counts: A.
        num_resamples: R.
        seed: of the resamples.

    Raises:
        ValueError: no clip, or R is not positive.
    """
    if not counts.sum():
        raise ValueError("No clip was judged, so there is no agreement to compute.")
    draws = resample(counts.ravel(), num_resamples, seed).reshape(num_resamples, *counts.shape)
    same, total = int(np.trace(counts[:-1, :-1])), int(counts.sum())
    agreement = Interval(same / total, *wilson(same, total))
    kappa, resampled = float(cohens_kappa(counts)), cohens_kappa(draws)
    defined = resampled[~np.isnan(resampled)]
    return Agreement(agreement, None if np.isnan(kappa) else percentile_interval(kappa, defined))
