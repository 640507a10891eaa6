"""Two runs over the same clips: differences against slow loops, tests against numbers computed by hand."""

import random
from dataclasses import replace
from itertools import product
from math import comb

import numpy as np
import pytest

from datamodules.emotions import DFEW_TAXONOMY, MAFW_TAXONOMY
from lightning_modules.metrics.intervals import RATES, Interval, bootstrap_rates, clip_outcomes
from lightning_modules.metrics.paired import compare_runs, exact_mcnemar, holm
from lightning_modules.metrics.predictions import Prediction

pytestmark = pytest.mark.numerics


def clip(identifier: int, target: str | None, prediction: str | None, judged: str | None = None) -> Prediction:
    return Prediction(str(identifier), target, prediction, 1.0, None, None, (), judged, None, None, None, None)


def random_run(count: int, accuracy: float, seed: int) -> list[Prediction]:
    chance = random.Random(seed)
    run = []
    for i in range(count):
        target = DFEW_TAXONOMY.classes[i % 3]
        prediction = target if chance.random() < accuracy else chance.choice([*DFEW_TAXONOMY.classes, None])
        run.append(clip(i, target, prediction, chance.choice([prediction, target, None])))
    return run


def run_of(right: dict[str, str]) -> list[Prediction]:
    """A run that is right (1) or wrong (0): emotion → one digit per clip."""
    clips = [(emotion, digit == "1") for emotion, digits in right.items() for digit in digits]
    return [clip(i, emotion, emotion if own else None) for i, (emotion, own) in enumerate(clips)]


@pytest.mark.parametrize(
    ("gained", "lost", "p_value"),
    [
        (1, 9, 2 * (1 + 10) / 1024),  # 0.021484375
        (9, 1, 0.021484375),
        (0, 0, 1.0),
        (5, 5, 1.0),
        (0, 5, 2 / 32),
        (4, 0, 2 / 16),
        (2, 6, 2 * (1 + 8 + 28) / 256),
    ],
)
def test_exact_mcnemar_by_hand(gained: int, lost: int, p_value: float) -> None:
    assert exact_mcnemar(gained, lost) == p_value


def test_exact_mcnemar_of_many_clips() -> None:
    every_outcome = sum(comb(700, k) for k in range(701) if comb(700, k) <= comb(700, 310))
    assert exact_mcnemar(310, 390) == pytest.approx(every_outcome / 2**700, rel=1e-12)
    assert 0 <= exact_mcnemar(0, 5000) < 1e-300


def test_exact_mcnemar_counts_what_chance_does() -> None:
    """All 2^6 ways in which six clips can differ: those at least as one-sided as 5 to 1."""
    extreme = [ways for ways in product([0, 1], repeat=6) if sum(ways) in (0, 1, 5, 6)]
    assert exact_mcnemar(5, 1) == len(extreme) / 64


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_a_run_does_not_differ_from_itself() -> None:
    run = random_run(90, 0.6, seed=0)
    comparison = compare_runs(run, run, DFEW_TAXONOMY, judged=True, num_resamples=500)
    sections = [comparison.overall, *(own.rates for own in comparison.per_class.values())]
    assert list(comparison.overall) == list(RATES) and len(sections) == 4
    for paired in (paired for rates in sections for paired in rates.values()):
        assert paired.difference == Interval(0.0, 0.0, 0.0) and not paired.difference.excludes_zero
        assert paired.test is None or (paired.test.gained, paired.test.lost, paired.test.p_value) == (0, 0, 1.0)


def test_per_class_by_hand() -> None:
    before = run_of({"happiness": "0000011111", "fear": "1100"})
    after = run_of({"happiness": "1111111110", "fear": "1000"})
    comparison = compare_runs(before, after, DFEW_TAXONOMY, judged=False, num_resamples=200)
    assert list(comparison.overall) == ["war", "uar"]
    war, uar = comparison.overall["war"], comparison.overall["uar"]
    assert (war.baseline, war.other, war.difference.value) == (7 / 14, 10 / 14, 10 / 14 - 7 / 14)
    assert war.test is not None and (war.test.gained, war.test.lost, war.test.p_holm) == (5, 2, None)
    assert war.test.p_value == 2 * (1 + 7 + 21) / 128
    assert uar.test is None and uar.difference.value == pytest.approx((0.9 + 0.25) / 2 - 0.5)
    assert {emotion: own.num_clips for emotion, own in comparison.per_class.items()} == {"happiness": 10, "fear": 4}
    joy, fear = (comparison.per_class[emotion].rates["recall"] for emotion in ("happiness", "fear"))
    assert (joy.baseline, joy.other, fear.baseline, fear.other) == (0.5, 0.9, 0.5, 0.25)
    assert joy.test is not None and fear.test is not None
    assert (joy.test.gained, joy.test.lost, joy.test.p_value) == (5, 1, 14 / 64)
    assert (fear.test.gained, fear.test.lost, fear.test.p_value) == (0, 1, 1.0)
    assert (joy.test.p_holm, fear.test.p_holm) == (28 / 64, 1.0)


def test_judged_rates_of_one_class_by_hand() -> None:
    before = [clip(0, "fear", "fear", "anger"), clip(1, "fear", "anger", "anger"), clip(2, "fear", None, None)]
    after = [clip(0, "fear", "fear", "fear"), clip(1, "fear", "anger", "fear"), clip(2, "fear", None, None)]
    rates = compare_runs(before, after, DFEW_TAXONOMY, judged=True, num_resamples=10).per_class["fear"].rates
    expected = {"recall": (1, 1, 0, 0), "eea": (0, 2, 2, 0), "epc": (1, 1, 1, 1), "fcr": (0, 1, 1, 0)}
    for rate, (hits_before, hits_after, gained, lost) in expected.items():
        paired = rates[rate]
        assert (paired.baseline, paired.other) == (hits_before / 3, hits_after / 3)
        assert paired.test is not None and (paired.test.gained, paired.test.lost) == (gained, lost)


def test_differences_as_of_clips_drawn_one_by_one() -> None:
    """Another computation: the same drawn clips for both runs, counted in a loop."""
    before, after = random_run(120, 0.5, seed=1), random_run(120, 0.7, seed=2)
    first, second = (clip_outcomes(run, DFEW_TAXONOMY, judged=True) for run in (before, after))
    chance = np.random.default_rng(5)
    samples = []
    for _ in range(2000):
        drawn = chance.integers(0, 120, 120)
        one, two = first.take(drawn).values(), second.take(drawn).values()
        samples.append({rate: two[rate] - one[rate] for rate in RATES})
    comparison = compare_runs(before, after, DFEW_TAXONOMY, judged=True, num_resamples=20_000)
    for rate in RATES:
        low, high = np.percentile([sample[rate] for sample in samples], [2.5, 97.5])
        assert comparison.overall[rate].difference.low == pytest.approx(low, abs=0.02)
        assert comparison.overall[rate].difference.high == pytest.approx(high, abs=0.02)


def test_what_is_hard_for_both_runs_cancels() -> None:
    """Runs that differ in 6 of 200 clips: a gain that their own intervals, which overlap, do not show."""
    before = run_of({"fear": "1" * 100 + "0" * 100})
    after = run_of({"fear": "1" * 106 + "0" * 94})
    war = compare_runs(before, after, DFEW_TAXONOMY, judged=False, num_resamples=2000).overall["war"]
    assert war.difference.excludes_zero
    assert war.test is not None and war.test.p_value == 2 / 64
    one, two = (bootstrap_rates(run, DFEW_TAXONOMY)["war"] for run in (before, after))
    assert two.low < one.value < two.high


def test_compound_targets_have_war_alone() -> None:
    before, after = ([clip(0, "anger_disgust", own, "anger"), clip(1, "fear", own)] for own in ("fear", "disgust"))
    comparison = compare_runs(before, after, MAFW_TAXONOMY, judged=True, num_resamples=100)
    assert list(comparison.overall) == ["war"] and comparison.per_class == {}
    war = comparison.overall["war"].test
    assert war is not None and (war.gained, war.lost) == (1, 1)


def test_other_clips_are_refused() -> None:
    run = random_run(5, 0.5, seed=0)
    for other in (run[::-1], run[:4], [replace(own, target="fear") for own in run]):
        with pytest.raises(ValueError, match="predictions of the same clips"):
            compare_runs(run, other, DFEW_TAXONOMY, judged=False)
