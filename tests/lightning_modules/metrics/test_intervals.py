"""Bootstrap intervals against slow loops, and against what an interval promises."""

import random
from collections.abc import Sequence

import numpy as np
import pytest

from datamodules.emotions import DFEW_TAXONOMY, MAFW_TAXONOMY
from lightning_modules.metrics.emotion_report import EmotionReport
from lightning_modules.metrics.intervals import RATES, Interval, bootstrap_rates, clip_outcomes, kinds, resample
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
    rates = bootstrap_rates(clips, DFEW_TAXONOMY, num_resamples=10)
    assert {rate: interval.value for rate, interval in rates.items()} == reported(clips)


def test_the_same_resamples_in_a_slow_loop() -> None:
    """Each resample written out as a list of clips and counted by `EmotionReport`."""
    clips = random_clips(40, seed=1)
    outcomes = clip_outcomes(clips, DFEW_TAXONOMY, judged=True)
    (each,), counts = kinds([outcomes])
    assert counts.sum() == len(clips) and len(counts) < len(clips)
    draws = resample(counts, num_resamples=60, seed=3)
    assert (draws.sum(axis=1) == len(clips)).all()
    assert each.classes is not None and outcomes.classes is not None
    examples = [
        next(
            clips[i]
            for i in range(len(clips))
            if outcomes.classes[i] == each.classes[kind]
            and all(outcomes.hits[rate][i] == each.hits[rate][kind] for rate in each.hits)
        )
        for kind in range(len(counts))
    ]
    loop = [
        reported([own for own, count in zip(examples, row, strict=True) for _ in range(int(count))]) for row in draws
    ]
    rates = bootstrap_rates(clips, DFEW_TAXONOMY, num_resamples=60, seed=3)
    for rate in RATES:
        values = [row[rate] for row in loop]
        assert each.resampled(draws)[rate] == pytest.approx(values, abs=1e-12)
        ends = np.percentile(values, [2.5, 97.5])
        assert (rates[rate].low, rates[rate].high) == pytest.approx(tuple(ends), abs=1e-12)
    assert any(row["uar"] != pytest.approx(row["war"]) for row in loop)


def test_drawing_kinds_is_drawing_clips() -> None:
    """Another computation: clips drawn one by one. The ends agree within the error of 2,000 resamples."""
    clips = random_clips(120, seed=2)
    chance = np.random.default_rng(7)
    outcomes = clip_outcomes(clips, DFEW_TAXONOMY, judged=True)
    samples = [outcomes.take(chance.integers(0, len(clips), len(clips))).values() for _ in range(2000)]
    rates = bootstrap_rates(clips, DFEW_TAXONOMY, num_resamples=20_000)
    for rate in RATES:
        low, high = np.percentile([sample[rate] for sample in samples], [2.5, 97.5])
        assert rates[rate].low == pytest.approx(low, abs=0.02)
        assert rates[rate].high == pytest.approx(high, abs=0.02)


def test_nineteen_of_twenty_intervals_hold_the_true_rate() -> None:
    chance = random.Random(0)
    true_rate, held = 0.7, 0
    for trial in range(300):
        clips = [clip(i, "fear", "fear" if chance.random() < true_rate else "anger", None) for i in range(100)]
        war = bootstrap_rates(clips, DFEW_TAXONOMY, num_resamples=400, seed=trial)["war"]
        held += war.low <= true_rate <= war.high
    assert 0.92 < held / 300 < 0.98


def test_a_seed_gives_the_same_intervals() -> None:
    clips = random_clips(50, seed=4)
    assert bootstrap_rates(clips, DFEW_TAXONOMY, 200, seed=1) == bootstrap_rates(clips, DFEW_TAXONOMY, 200, seed=1)
    assert bootstrap_rates(clips, DFEW_TAXONOMY, 200, seed=1) != bootstrap_rates(clips, DFEW_TAXONOMY, 200, seed=2)


def test_rates_that_the_clips_do_not_give_are_left_out() -> None:
    labelled = [clip(0, "fear", "fear", "fear"), clip(1, "anger", "fear", None)]
    assert list(bootstrap_rates(labelled, DFEW_TAXONOMY, 10)) == list(RATES)
    assert list(bootstrap_rates([clip(0, "fear", "fear", None)], DFEW_TAXONOMY, 10)) == ["war", "uar"]
    invalid = bootstrap_rates([clip(0, "fear", None, None)], DFEW_TAXONOMY, 10, judged=True)
    assert invalid == {rate: Interval(0.0, 0.0, 0.0) for rate in RATES}
    unlabelled = bootstrap_rates([*labelled, clip(2, None, "fear", "fear")], DFEW_TAXONOMY, 10)
    assert list(unlabelled) == ["epc"] and unlabelled["epc"].value == 2 / 3
    assert bootstrap_rates([clip(0, None, "fear", None)], DFEW_TAXONOMY, 10) == {}


def test_any_emotion_of_a_compound_clip_is_right() -> None:
    clips = [clip(i, "anger_disgust", prediction, "anger") for i, prediction in enumerate(["disgust", "anger", "fear"])]
    rates = bootstrap_rates([*clips, clip(3, "sadness", "sadness", "anger")], MAFW_TAXONOMY, 1000)
    assert list(rates) == ["war"]
    assert rates["war"].value == 3 / 4 and rates["war"].low < 0.5 and rates["war"].high == 1.0


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="No clip was evaluated"):
        bootstrap_rates([], DFEW_TAXONOMY)
    with pytest.raises(ValueError, match="at least one resample; got 0"):
        bootstrap_rates([clip(0, "fear", "fear", None)], DFEW_TAXONOMY, num_resamples=0)
