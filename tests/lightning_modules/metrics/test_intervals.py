"""Intervals of one run against numbers worked out by hand; `test_coverage` has what an interval promises."""

import random
from collections.abc import Sequence

import numpy as np
import pytest

from datamodules.emotions import DFEW_TAXONOMY, MAFW_TAXONOMY
from lightning_modules.metrics.emotion_report import EmotionReport
from lightning_modules.metrics.intervals import RATES, rate_intervals, uar_interval, wilson
from lightning_modules.metrics.predictions import Prediction

pytestmark = [pytest.mark.numerics, pytest.mark.filterwarnings("ignore:UAR leaves out classes")]


def clip(identifier: int, target: str | None, prediction: str | None, judged: str | None) -> Prediction:
    return Prediction(str(identifier), target, prediction, 1.0, None, None, (), judged, None, None, None, None)


def random_clips(count: int, seed: int) -> list[Prediction]:
    """Clips of five classes, one of them with a single clip; some answers unknown, some replies invalid."""
    chance = random.Random(seed)
    clips = [clip(0, "disgust", "disgust", "fear")]
    for i in range(1, count):
        target = chance.choice(DFEW_TAXONOMY.classes[:4])
        prediction = target if chance.random() < 0.6 else chance.choice([*DFEW_TAXONOMY.classes, None])
        clips.append(clip(i, target, prediction, chance.choice([target, prediction, None, "anger"])))
    return clips


def reported(clips: Sequence[Prediction]) -> dict[str, float]:
    metric = EmotionReport(DFEW_TAXONOMY, "judge")
    metric.update_clips([c.prediction for c in clips], [c.target for c in clips], [c.judged for c in clips])
    report = metric.compute()
    return {rate: report[rate] for rate in RATES}


@pytest.mark.parametrize("seed", range(5))
def test_values_are_those_of_the_report(seed: int) -> None:
    clips = random_clips(137, seed)
    rates = rate_intervals(clips, DFEW_TAXONOMY)
    assert {rate: interval.value for rate, interval in rates.items()} == reported(clips)


def test_wilson_interval_by_hand() -> None:
    # With z² = 3.8415: z² / (n + z²) bounds a share of 0; and (p + z²/2n ± z √(p(1−p)/n + z²/4n²)) / (1 + z²/n).
    assert wilson(0, 10) == pytest.approx((0, 3.8415 / 13.8415), abs=1e-4)
    assert wilson(10, 10) == pytest.approx((10 / 13.8415, 1), abs=1e-4)
    assert wilson(3, 10) == pytest.approx((0.1078, 0.6032), abs=1e-4)


def test_shares_have_wilsons_interval() -> None:
    clips = random_clips(137, seed=1)
    rates = rate_intervals(clips, DFEW_TAXONOMY)
    for rate in ("war", "eea", "epc", "fcr"):
        hits = round(rates[rate].value * 137)
        assert (rates[rate].low, rates[rate].high) == wilson(hits, 137)


def test_uar_by_hand() -> None:
    # 3 of 4 and 1 of 2: accuracy (4 + ½) / 7 = 0.6428571. Each drawn by one clip to it and by one to ½:
    # (3 + 0.6428571 + 0.5) / 6 = 0.6904762, (1 + 1.1428571) / 4 = 0.5357143; mean m = 0.6130952.
    # V = (0.2137188 / 4 + 0.2487245 / 2) / 4 = 0.0444480; n = m(1 − m) / V = 5.3368.
    interval = uar_interval(np.array([3, 1]), np.array([4, 2]))
    assert interval.value == 0.625
    assert (interval.low, interval.high) == pytest.approx(wilson(0.625 * 5.33677, 5.33677), abs=1e-4)


def test_uar_of_one_class_is_its_share() -> None:
    interval = uar_interval(np.array([30]), np.array([40]))
    assert (interval.low, interval.high) == pytest.approx(wilson(30, 40), abs=1e-12)


def test_certain_classes_leave_uar_uncertain() -> None:
    """All right is not certain: with two clips of a class, its recall could be a half."""
    interval = uar_interval(np.array([100, 2]), np.array([100, 2]))
    assert interval.value == interval.high == 1.0 and interval.low < 0.85


def test_rates_that_the_clips_do_not_give_are_left_out() -> None:
    labelled = [clip(0, "fear", "fear", "fear"), clip(1, "anger", "fear", None)]
    assert list(rate_intervals(labelled, DFEW_TAXONOMY)) == list(RATES)
    assert list(rate_intervals([clip(0, "fear", "fear", None)], DFEW_TAXONOMY)) == ["war", "uar"]
    invalid = rate_intervals([clip(0, "fear", None, None)], DFEW_TAXONOMY, judged=True)
    assert {rate: own.value for rate, own in invalid.items()} == dict.fromkeys(RATES, 0.0)
    assert all(own.low == 0.0 and own.high > 0.7 for own in invalid.values()), "one clip says little"
    unlabelled = rate_intervals([*labelled, clip(2, None, "fear", "fear")], DFEW_TAXONOMY)
    assert list(unlabelled) == ["epc"] and unlabelled["epc"].value == 2 / 3
    assert rate_intervals([clip(0, None, "fear", None)], DFEW_TAXONOMY) == {}


def test_any_emotion_of_a_compound_clip_is_right() -> None:
    clips = [clip(i, "anger_disgust", prediction, "anger") for i, prediction in enumerate(["disgust", "anger", "fear"])]
    rates = rate_intervals([*clips, clip(3, "sadness", "sadness", "anger")], MAFW_TAXONOMY)
    assert list(rates) == ["war"]
    assert rates["war"].value == 3 / 4


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="No clip was evaluated"):
        rate_intervals([], DFEW_TAXONOMY)
