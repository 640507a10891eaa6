"""Two runs over the same clips: is the difference more than chance?

What makes a clip hard for both runs cancels out: only clips that count in one of them say anything. Shape legend as in
`intervals`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from datamodules.emotions import Taxonomy
from lightning_modules.metrics.intervals import Interval, Outcomes, Z, clip_outcomes, shrunk
from lightning_modules.metrics.predictions import Prediction


@dataclass(frozen=True)
class McNemar:
    """McNemar's test of a rate that is a share of clips.

    Args:
        gained: clips that count in the other run and not in the baseline.
        lost: clips that count in the baseline and not in the other run.
        p_value: two-sided.
        p_holm: the same, adjusted over the classes; None for a rate over all clips.
    """

    gained: int
    lost: int
    p_value: float
    p_holm: float | None = None


@dataclass(frozen=True)
class PairedRate:
    """A rate of two runs.

    Args:
        baseline: of the first run, a fraction in [0, 1].
        other: of the second.
        difference: other − baseline, with its 95 % interval.
        test: of the difference; None for UAR, which is no share of clips.
    """

    baseline: float
    other: float
    difference: Interval
    test: McNemar | None


@dataclass(frozen=True)
class ClassComparison:
    """Two runs over the clips of one class.

    Args:
        num_clips: N of the class.
        rates: any of `recall`, `eea`, `epc`, `fcr`.
    """

    num_clips: int
    rates: dict[str, PairedRate]


@dataclass(frozen=True)
class Comparison:
    """Two runs over the same clips.

    Args:
        num_clips: N.
        overall: any of `RATES`.
        per_class: emotion → its clips, for classes with a clip; empty where a clip has no target, or several.
        grounding: figure of `claims` → its difference; empty where the truth about the clips is not known.
    """

    num_clips: int
    overall: dict[str, PairedRate]
    per_class: dict[str, ClassComparison]
    grounding: dict[str, PairedRate] = field(default_factory=dict)


def mcnemar(gained: float, lost: float) -> float:
    """Two-sided p of McNemar's score test: gains and losses are equally likely when the runs are equally good.

    z² = (gained − lost)² / (gained + lost). Source: McNemar 1947. It is below 0.05 exactly where `score_interval`
    leaves 0 out, and keeps its level with few clips, where the exact test is far below it (Fagerland, Lydersen and
    Laake 2013).
    """
    discordant = gained + lost
    return math.erfc(abs(gained - lost) / math.sqrt(2 * discordant)) if discordant else 1.0


def score_interval(gained: float, lost: float, count: float) -> tuple[float, float]:
    """Score interval of the difference of two shares of the same clips (Tango 1998).

    The Δ for which |gained − lost − nΔ| ≤ z · √(n(2q + Δ(1 − Δ))), where q is the likeliest share of clips lost if the
    difference were Δ.

    Args:
        gained: clips that count in the second run only.
        lost: clips that count in the first run only.
        count: n, of all clips; like the others it need not be whole.
    """

    def distance(difference: float) -> float:
        b = (2 * count - gained + lost) * difference - gained - lost
        c = -lost * difference * (1 - difference)
        q = (math.sqrt(max(b * b - 8 * count * c, 0.0)) - b) / (4 * count)
        deviation = math.sqrt(max(count * (2 * q + difference * (1 - difference)), 0.0))
        excess = gained - lost - count * difference
        return excess / deviation if deviation else excess * math.inf if excess else 0.0

    def end(target: float) -> float:
        """Where the distance, which falls with the difference, is `target`."""
        low, high = -1.0, 1.0
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if distance(middle) > target else (low, middle)
        return (low + high) / 2

    return end(Z), end(-Z)


def uar_difference(gained: NDArray[np.int64], lost: NDArray[np.int64], clips: NDArray[np.int64]) -> tuple[float, float]:
    """Interval of a difference of UAR: `score_interval` of as many clips as would make it as certain.

    As in `uar_interval`: shares of clips gained and lost are first drawn, by two clips each, to those over all clips.

    Args:
        gained: right in the second run only, of each class, `[K]`.
        lost: right in the first run only.
        clips: of each class, at least one each.
    """
    gains, losses = (shrunk(own, clips, 2.0, 0.0, prior=0.25) for own in (gained, lost))
    variance = float(((gains + losses - (gains - losses) ** 2) / clips).sum()) / len(clips) ** 2
    spread = float((gains + losses).mean() - (gains - losses).mean() ** 2)
    effective = spread / variance
    return score_interval(
        effective * float((gained / clips).mean()), effective * float((lost / clips).mean()), effective
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment of p-values for how many there are; in the order given. Source: Holm 1979.

    The i-th smallest of m becomes the largest, over the j ≤ i, of (m − j + 1) · p_j, and at most 1.
    """
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def compare_runs(
    baseline: Sequence[Prediction],
    other: Sequence[Prediction],
    taxonomy: Taxonomy,
    judged: bool,
) -> Comparison:
    """Differences between two runs, over all clips and per class, with intervals and tests.

    Per class only its clips count, and p-values are adjusted (Holm) over the classes of each rate.

    Args:
        baseline: the first run, at least one prediction.
        other: the second, over the same clips in the same order.
        taxonomy: the classes.
        judged: whether EEA, EPC and FCR can be compared: both runs have a judge.

    Raises:
        ValueError: no prediction, or other clips.
    """
    if [(own.id, own.target) for own in baseline] != [(own.id, own.target) for own in other]:
        raise ValueError("Expected predictions of the same clips, with the same targets and in the same order.")
    first, second = (clip_outcomes(run, taxonomy, judged) for run in (baseline, other))
    per_class = {}
    if first.classes is not None:
        for index, emotion in enumerate(taxonomy.classes):
            clips = np.flatnonzero(first.classes == index)
            if len(clips):
                one, two = (Outcomes(run.hits, None).take(clips) for run in (first, second))
                rates = _paired_rates(one, two)
                renamed = {"recall" if rate == "war" else rate: paired for rate, paired in rates.items()}
                per_class[emotion] = ClassComparison(len(clips), renamed)
    return Comparison(len(baseline), _paired_rates(first, second), _adjusted(per_class))


def _paired_rates(baseline: Outcomes, other: Outcomes) -> dict[str, PairedRate]:
    second = other.values()
    rates = {}
    for rate, value in baseline.values().items():
        if rate == "uar":
            gained, lost = _discordant(baseline, other, "war")
            (wins, clips), (losses, _) = baseline.per_class(gained), baseline.per_class(lost)
            difference = Interval(second[rate] - value, *uar_difference(wins, losses, clips))
            rates[rate] = PairedRate(value, second[rate], difference, None)
        else:
            rates[rate] = paired_share(value, second[rate], *_discordant(baseline, other, rate))
    return rates


def _discordant(baseline: Outcomes, other: Outcomes, rate: str) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    before, after = baseline.hits[rate], other.hits[rate]
    return after & ~before, before & ~after


def paired_share(baseline: float, other: float, gained: NDArray[np.bool_], lost: NDArray[np.bool_]) -> PairedRate:
    """Two shares of the same clips, with interval and test.

    Args:
        baseline: of the first run.
        other: of the second.
        gained: clips that count in the second run only, bool `[N]`.
        lost: clips that count in the first run only.
    """
    won, gone = int(gained.sum()), int(lost.sum())
    difference = Interval(other - baseline, *score_interval(won, gone, len(gained)))
    return PairedRate(baseline, other, difference, McNemar(won, gone, mcnemar(won, gone)))


def _adjusted(per_class: dict[str, ClassComparison]) -> dict[str, ClassComparison]:
    """The same with `p_holm`: the family of a rate is its test in each class."""
    adjusted: dict[str, dict[str, PairedRate]] = {emotion: {} for emotion in per_class}
    for rate in ("recall", "eea", "epc", "fcr"):
        tests = {emotion: own.rates[rate].test for emotion, own in per_class.items() if rate in own.rates}
        known = {emotion: test for emotion, test in tests.items() if test is not None}
        p_values = holm([test.p_value for test in known.values()])
        for (emotion, test), p_holm in zip(known.items(), p_values, strict=True):
            adjusted[emotion][rate] = replace(per_class[emotion].rates[rate], test=replace(test, p_holm=p_holm))
    return {emotion: replace(own, rates=adjusted[emotion]) for emotion, own in per_class.items()}
