"""How far to trust a rate: percentile bootstrap intervals over clips (Efron and Tibshirani 1993, chapter 13).

Shape legend: N clips, M kinds of clips, R resamples. Clips of one kind count the same in every rate, so that a resample
of N clips with replacement is a multinomial draw of how many are of each kind: R·M numbers, however many clips.
`scipy.stats` draws R·N, and its import adds half to what `compare` takes (docs/performance.md).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from datamodules.emotions import Taxonomy, members
from lightning_modules.metrics.predictions import Prediction

RATES = ("war", "uar", "eea", "epc", "fcr")
"""The rates of an evaluation, in the order of tables."""

LEVEL = 0.95
"""Share of resamples inside an interval."""


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

    def values(self) -> dict[str, float]:
        """Each rate over the clips, as `emotion_report` has it."""
        rates = {rate: int(hit.sum()) / len(hit) for rate, hit in self.hits.items()}
        if self.classes is not None:
            right = self.hits["war"]
            own = [right[self.classes == index] for index in np.unique(self.classes)]
            rates["uar"] = fmean(int(hit.sum()) / len(hit) for hit in own)
        return {rate: rates[rate] for rate in RATES if rate in rates}

    def resampled(self, draws: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """Each rate in each resample, float64 `[R]`; UAR over the classes that are in the resample.

        Args:
            draws: how often each clip is drawn, float64 `[R, N]`, as from `resample`.
        """
        totals = draws.sum(axis=1)
        rates = {rate: draws @ hit.astype(np.float64) / totals for rate, hit in self.hits.items()}
        if self.classes is not None:
            present = np.unique(self.classes)
            member = (self.classes[:, None] == present).astype(np.float64)
            clips = draws @ member
            right = draws @ (member * self.hits["war"][:, None])
            recalls = np.divide(right, clips, out=np.zeros_like(clips), where=clips > 0)
            rates["uar"] = recalls.sum(axis=1) / (clips > 0).sum(axis=1)
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


def kinds(runs: Sequence[Outcomes]) -> tuple[list[Outcomes], NDArray[np.int64]]:
    """Clips that count the same in every rate of every run, put together.

    Args:
        runs: of the same N clips.

    Returns:
        Each run's outcomes for one clip of each of M kinds, and how many clips are of each kind, int64 `[M]`.
    """
    columns = [hit.astype(np.int64) for run in runs for hit in run.hits.values()]
    columns += [run.classes for run in runs if run.classes is not None]
    _, first, counts = np.unique(np.stack(columns, axis=1), axis=0, return_index=True, return_counts=True)
    return [run.take(first) for run in runs], counts


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


def bootstrap_rates(
    predictions: Sequence[Prediction],
    taxonomy: Taxonomy,
    num_resamples: int = 2000,
    seed: int = 0,
    judged: bool | None = None,
) -> dict[str, Interval]:
    """WAR, UAR, EEA, EPC and FCR with 95 % intervals: percentile bootstrap over clips.

    Values are those of `emotion_report`. UAR in a resample is the mean over the classes that it has.

    Args:
        predictions: of one run, at least one.
        taxonomy: the classes.
        num_resamples: R.
        seed: of the resamples.
        judged: whether there was a judge; if not given, whether there is any verdict.

    Returns:
        Rate → fraction in [0, 1] with its interval, in the order of `RATES`. Left out: EEA, EPC and FCR without a
        judge; all but EPC when a clip has no target; all but WAR when a clip has a compound target.

    Raises:
        ValueError: no prediction, or R is not positive.
    """
    if judged is None:
        judged = any(prediction.judged is not None for prediction in predictions)
    outcomes = clip_outcomes(predictions, taxonomy, judged)
    if not outcomes.hits:
        return {}
    (each,), counts = kinds([outcomes])
    resampled = each.resampled(resample(counts, num_resamples, seed))
    return {rate: percentile_interval(value, resampled[rate]) for rate, value in outcomes.values().items()}
