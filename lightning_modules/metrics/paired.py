"""Two runs over the same clips: is the difference more than chance?

Both runs are resampled with the same clips, so that what makes a clip hard for both cancels out. Shape legend as in
`intervals`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from datamodules.emotions import Taxonomy
from lightning_modules.metrics.intervals import (
    Interval,
    Outcomes,
    clip_outcomes,
    kinds,
    percentile_interval,
    resample,
)
from lightning_modules.metrics.predictions import Prediction


@dataclass(frozen=True)
class McNemar:
    """McNemar's exact test of a rate that is a share of clips.

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


def exact_mcnemar(gained: int, lost: int) -> float:
    """Two-sided p of McNemar's exact test: gains and losses are equally likely when the runs are equally good.

    p = min(1, 2 · P(X ≤ min(gained, lost))), X ~ Binomial(gained + lost, ½). Source: McNemar 1947; the exact form is
    the sign test. Summed in whole numbers: exact however many clips differ.
    """
    num_discordant = gained + lost
    term = tail = 1
    for k in range(min(gained, lost)):
        term = term * (num_discordant - k) // (k + 1)
        tail += term
    return min(1.0, 2 * tail / 2**num_discordant)


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
    num_resamples: int = 10_000,
    seed: int = 0,
) -> Comparison:
    """Differences between two runs, over all clips and per class, with intervals and tests.

    Per class, the clips of the class are resampled, and p-values are adjusted (Holm) over the classes of each rate.

    Args:
        baseline: the first run, at least one prediction.
        other: the second, over the same clips in the same order.
        taxonomy: the classes.
        judged: whether EEA, EPC and FCR can be compared: both runs have a judge.
        num_resamples: R.
        seed: of the resamples.

    Raises:
        ValueError: no prediction, other clips, or R is not positive.
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
                rates = _paired_rates(one, two, num_resamples, seed)
                renamed = {"recall" if rate == "war" else rate: paired for rate, paired in rates.items()}
                per_class[emotion] = ClassComparison(len(clips), renamed)
    return Comparison(len(baseline), _paired_rates(first, second, num_resamples, seed), _adjusted(per_class))


def _paired_rates(baseline: Outcomes, other: Outcomes, num_resamples: int, seed: int) -> dict[str, PairedRate]:
    if not baseline.hits:
        return {}
    each, counts = kinds([baseline, other])
    draws = resample(counts, num_resamples, seed)
    before, after = (run.resampled(draws) for run in each)
    second = other.values()
    rates = {}
    for rate, value in baseline.values().items():
        difference = percentile_interval(second[rate] - value, after[rate] - before[rate])
        rates[rate] = PairedRate(value, second[rate], difference, _test(baseline, other, rate))
    return rates


def _test(baseline: Outcomes, other: Outcomes, rate: str) -> McNemar | None:
    if rate not in baseline.hits:
        return None
    before, after = baseline.hits[rate], other.hits[rate]
    gained, lost = int((after & ~before).sum()), int((before & ~after).sum())
    return McNemar(gained, lost, exact_mcnemar(gained, lost))


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
