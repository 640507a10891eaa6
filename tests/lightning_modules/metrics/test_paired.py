"""Two runs over the same clips: differences and tests against numbers computed by hand and by trying."""

import random
from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from datamodules.emotions import DFEW_TAXONOMY, MAFW_TAXONOMY
from lightning_modules.metrics.intervals import RATES, rate_intervals
from lightning_modules.metrics.paired import compare_runs, holm, mcnemar, score_interval, uar_difference
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


def test_mcnemar_by_hand() -> None:
    # z = 8 / √10 and 3 / √9; of a normal distribution 0.27 % lies beyond ±3.
    assert mcnemar(9, 1) == mcnemar(1, 9) == pytest.approx(0.011412, abs=1e-6)
    assert mcnemar(6, 3) == pytest.approx(0.317311, abs=1e-6)  # z = 1
    assert mcnemar(0, 0) == mcnemar(5, 5) == 1.0


def likeliest_lost(gained: int, lost: int, count: int, difference: float) -> float:
    """Share of clips lost that makes the counts likeliest among those of a difference, by trying them all."""
    shares = np.linspace(max(0.0, -difference) + 1e-9, (1 - difference) / 2 - 1e-9, 200_001)
    likelihood = gained * np.log(shares + difference) + lost * np.log(shares)
    likelihood += (count - gained - lost) * np.log1p(-2 * shares - difference)
    return float(shares[likelihood.argmax()])


@pytest.mark.parametrize(("gained", "lost", "count"), [(7, 1, 21), (30, 22, 322), (3, 5, 50)])
def test_at_the_ends_the_score_is_z(gained: int, lost: int, count: int) -> None:
    for end, z in zip(score_interval(gained, lost, count), (1.959964, -1.959964), strict=True):
        q = likeliest_lost(gained, lost, count, end)
        score = (gained - lost - count * end) / (count * (2 * q + end - end**2)) ** 0.5
        assert score == pytest.approx(z, abs=1e-3)


def test_interval_and_test_agree() -> None:
    for gained, lost in product(range(40), repeat=2):
        low, high = score_interval(gained, lost, 100)
        assert (low > 0 or high < 0) == (mcnemar(gained, lost) < 0.05), (gained, lost)
        assert low <= (gained - lost) / 100 <= high


def test_a_run_that_gains_what_it_loses_has_a_symmetric_interval() -> None:
    low, high = score_interval(6, 6, 50)
    assert low == pytest.approx(-high, abs=1e-12) and 0.1 < high < 0.2
    low, high = score_interval(0, 0, 50)
    assert -0.08 < low < 0 < high < 0.08, "no clip differs of fifty: a difference of a few percent remains possible"
    assert score_interval(50, 0, 50)[1] == pytest.approx(1.0)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_a_run_does_not_differ_from_itself() -> None:
    run = random_run(90, 0.6, seed=0)
    comparison = compare_runs(run, run, DFEW_TAXONOMY, judged=True)
    sections = [comparison.overall, *(own.rates for own in comparison.per_class.values())]
    assert list(comparison.overall) == list(RATES) and len(sections) == 4
    for paired in (paired for rates in sections for paired in rates.values()):
        assert paired.difference.value == 0 and not paired.difference.excludes_zero
        assert paired.test is None or (paired.test.gained, paired.test.lost, paired.test.p_value) == (0, 0, 1.0)


def test_per_class_by_hand() -> None:
    before = run_of({"happiness": "0000011111", "fear": "1100"})
    after = run_of({"happiness": "1111111110", "fear": "1000"})
    comparison = compare_runs(before, after, DFEW_TAXONOMY, judged=False)
    assert list(comparison.overall) == ["war", "uar"]
    war, uar = comparison.overall["war"], comparison.overall["uar"]
    assert (war.baseline, war.other, war.difference.value) == (7 / 14, 10 / 14, 10 / 14 - 7 / 14)
    assert war.test is not None and (war.test.gained, war.test.lost, war.test.p_holm) == (5, 2, None)
    assert war.test.p_value == mcnemar(5, 2)
    assert uar.test is None and uar.difference.value == pytest.approx((0.9 + 0.25) / 2 - 0.5)
    assert {emotion: own.num_clips for emotion, own in comparison.per_class.items()} == {"happiness": 10, "fear": 4}
    joy, fear = (comparison.per_class[emotion].rates["recall"] for emotion in ("happiness", "fear"))
    assert (joy.baseline, joy.other, fear.baseline, fear.other) == (0.5, 0.9, 0.5, 0.25)
    assert joy.test is not None and fear.test is not None
    assert (joy.test.gained, joy.test.lost, joy.test.p_value) == (5, 1, mcnemar(5, 1))
    assert (fear.test.gained, fear.test.lost, fear.test.p_value) == (0, 1, mcnemar(0, 1))
    assert (joy.test.p_holm, fear.test.p_holm) == (2 * mcnemar(5, 1), mcnemar(0, 1))


def test_judged_rates_of_one_class_by_hand() -> None:
    before = [clip(0, "fear", "fear", "anger"), clip(1, "fear", "anger", "anger"), clip(2, "fear", None, None)]
    after = [clip(0, "fear", "fear", "fear"), clip(1, "fear", "anger", "fear"), clip(2, "fear", None, None)]
    rates = compare_runs(before, after, DFEW_TAXONOMY, judged=True).per_class["fear"].rates
    expected = {"recall": (1, 1, 0, 0), "eea": (0, 2, 2, 0), "epc": (1, 1, 1, 1), "fcr": (0, 1, 1, 0)}
    for rate, (hits_before, hits_after, gained, lost) in expected.items():
        paired = rates[rate]
        assert (paired.baseline, paired.other) == (hits_before / 3, hits_after / 3)
        assert paired.test is not None and (paired.test.gained, paired.test.lost) == (gained, lost)


def test_uar_of_one_class_is_the_difference_of_its_shares() -> None:
    ends = uar_difference(np.array([9]), np.array([4]), np.array([60]))
    assert ends == pytest.approx(score_interval(9, 4, 60), abs=0.01)


def test_what_is_hard_for_both_runs_cancels() -> None:
    """Runs that differ in 6 of 200 clips: a gain that their own intervals, which overlap, do not show."""
    before = run_of({"fear": "1" * 100 + "0" * 100})
    after = run_of({"fear": "1" * 106 + "0" * 94})
    war = compare_runs(before, after, DFEW_TAXONOMY, judged=False).overall["war"]
    assert war.difference.excludes_zero
    assert war.test is not None and war.test.p_value == mcnemar(6, 0)
    one, two = (rate_intervals(run, DFEW_TAXONOMY)["war"] for run in (before, after))
    assert two.low < one.value < two.high


def test_compound_targets_have_war_alone() -> None:
    before, after = ([clip(0, "anger_disgust", own, "anger"), clip(1, "fear", own)] for own in ("fear", "disgust"))
    comparison = compare_runs(before, after, MAFW_TAXONOMY, judged=True)
    assert list(comparison.overall) == ["war"] and comparison.per_class == {}
    war = comparison.overall["war"].test
    assert war is not None and (war.gained, war.lost) == (1, 1)


def test_other_clips_are_refused() -> None:
    run = random_run(5, 0.5, seed=0)
    for other in (run[::-1], run[:4], [replace(own, target="fear") for own in run]):
        with pytest.raises(ValueError, match="predictions of the same clips"):
            compare_runs(run, other, DFEW_TAXONOMY, judged=False)
