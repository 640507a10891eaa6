"""How far to trust a rate: 95 % intervals over clips, by score intervals, which hold near 0 and 1.

Shape legend: N clips, K classes with a clip.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean

import numpy as np
from numpy.typing import NDArray

from datamodules.emotions import Taxonomy, members
from lightning_modules.metrics.predictions import Prediction

RATES = ("war", "uar", "eea", "epc", "fcr")
"""The rates of an evaluation, in the order of tables."""

LEVEL = 0.95
"""How often an interval holds the true rate."""

Z = NormalDist().inv_cdf((1 + LEVEL) / 2)
"""Standard deviations of a normal distribution that hold as much."""


@dataclass(frozen=True)
class Interval:
    """A number and its interval.

    Args:
        value: the number, of the clips as they are.
        low: lower end.
        high: upper end.
    """

    value: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether 0 is outside."""
        # UAR is a mean of quotients: two equal ones can be an ulp apart.
        return self.low > 1e-12 or self.high < -1e-12


@dataclass(frozen=True)
class Outcomes:
    """What each of N clips counts in each rate.

    Args:
        hits: rate → bool `[N]`, whether the clip counts for it; any of `war`, `eea`, `epc`, `fcr`.
        classes: index of each clip's target, int64 `[N]`, for `uar`; None where a clip has none, or several.
    """

    hits: dict[str, NDArray[np.bool_]]
    classes: NDArray[np.int64] | None

    def take(self, indices: NDArray[np.int64]) -> "Outcomes":
        """The outcomes of some clips, int64 `[n]` → n clips."""
        classes = None if self.classes is None else self.classes[indices]
        return Outcomes({rate: hit[indices] for rate, hit in self.hits.items()}, classes)

    def per_class(self, hit: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Clips that count and all clips, of each class that has any, int64 `[K]` each; `classes` must be known."""
        assert self.classes is not None, "whoever asks has looked"
        _, index = np.unique(self.classes, return_inverse=True)
        return np.bincount(index, weights=hit).astype(np.int64), np.bincount(index)

    def values(self) -> dict[str, float]:
        """Each rate over the clips, as `emotion_report` has it."""
        rates = {rate: int(hit.sum()) / len(hit) for rate, hit in self.hits.items()}
        if self.classes is not None:
            right, clips = self.per_class(self.hits["war"])
            rates["uar"] = fmean((right / clips).tolist())
        return {rate: rates[rate] for rate in RATES if rate in rates}


def clip_outcomes(predictions: Sequence[Prediction], taxonomy: Taxonomy, judged: bool) -> Outcomes:
    """What each clip counts in each rate that these predictions have.

    A clip without a target leaves EPC as the only rate, a compound target WAR.

    Args:
        predictions: at least one.
        taxonomy: the classes.
        judged: whether there was a judge; without one there is no EEA, EPC and FCR.

    Raises:
        ValueError: no prediction.
    """
    if not predictions:
        raise ValueError("No clip was evaluated, so there is no rate to compute.")
    targets = [() if own.target is None else members(own.target) for own in predictions]
    labelled, single = all(targets), all(len(emotions) <= 1 for emotions in targets)
    right = np.array([own.prediction in emotions for own, emotions in zip(predictions, targets, strict=True)])
    shown = np.array([own.judged in emotions for own, emotions in zip(predictions, targets, strict=True)])
    consistent = np.array([own.judged is not None and own.judged == own.prediction for own in predictions])
    hits = {"war": right} if labelled else {}
    if judged and single:
        hits |= {"epc": consistent}
        if labelled:
            hits |= {"eea": shown, "fcr": right & consistent}
    classes = np.array([taxonomy.index(emotions[0]) for emotions in targets]) if labelled and single else None
    return Outcomes(hits, classes)


def wilson(hits: float, count: float) -> tuple[float, float]:
    """Score interval of a share (Wilson 1927), which holds near 0 and 1, too.

    Args:
        hits: how many count.
        count: of how many; need not be whole, as an effective number is not.
    """
    share, spread = hits / count, Z * Z / count
    middle = (share + spread / 2) / (1 + spread)
    half = Z * math.sqrt(share * (1 - share) / count + spread / count / 4) / (1 + spread)
    return max(middle - half, 0.0), min(middle + half, 1.0)


def uar_interval(right: NDArray[np.int64], clips: NDArray[np.int64]) -> Interval:
    """UAR, the mean of K recalls, as the share of as many clips as would make it as certain.

    A class with few clips decides how certain UAR is, and its own spread says little of it: with two clips right of
    two it has none. So each recall is first drawn, by one clip each, to ½ and to the accuracy over all clips. Then
    V = Σ r̃(1 − r̃)/n / K² and m = mean of r̃ give the effective number m(1 − m)/V, and Wilson's interval the ends.
    `test_coverage.py` simulates it; percentile bootstrap covers 89 to 90 %.

    Args:
        right: clips of each class that are right, `[K]`.
        clips: clips of each class, at least one each, `[K]`.
    """
    recalls = shrunk(right, clips, 1.0, 1.0)
    variance = float((recalls * (1 - recalls) / clips).sum()) / len(clips) ** 2
    middle = float(recalls.mean())
    effective = middle * (1 - middle) / variance
    value = fmean((right / clips).tolist())
    return Interval(value, *wilson(value * effective, effective))


def shrunk(
    hits: NDArray[np.int64], clips: NDArray[np.int64], to_pooled: float, to_prior: float, prior: float = 0.5
) -> NDArray[np.float64]:
    """Shares of each class, float64 `[K]`, drawn to the share over all clips and to a prior by so many clips each."""
    pooled = (hits.sum() + prior) / (clips.sum() + 1)
    return np.asarray((hits + to_pooled * pooled + to_prior * prior) / (clips + to_pooled + to_prior), np.float64)


def rate_intervals(
    predictions: Sequence[Prediction], taxonomy: Taxonomy, judged: bool | None = None
) -> dict[str, Interval]:
    """WAR, UAR, EEA, EPC and FCR with 95 % intervals over clips: Wilson's, and `uar_interval`.

    Values are those of `emotion_report`.

    Args:
        predictions: of one run, at least one.
        taxonomy: the classes.
        judged: whether there was a judge; if not given, whether there is any verdict.

    Returns:
        Rate → fraction in [0, 1] with its interval, in the order of `RATES`. Left out: EEA, EPC and FCR without a
        judge; all but EPC when a clip has no target; all but WAR when a clip has a compound target.

    Raises:
        ValueError: no prediction.
    """
    if judged is None:
        judged = any(prediction.judged is not None for prediction in predictions)
    outcomes = clip_outcomes(predictions, taxonomy, judged)
    intervals = {}
    for rate, value in outcomes.values().items():
        if rate == "uar":
            intervals[rate] = uar_interval(*outcomes.per_class(outcomes.hits["war"]))
        else:
            hits = outcomes.hits[rate]
            intervals[rate] = Interval(value, *wilson(int(hits.sum()), len(hits)))
    return intervals
