"""Reward-hacking alarms: ranges, and what they say of healthy and of hacked runs."""

from dataclasses import replace
from pathlib import Path

import pytest

from datamodules.emotions import DFEW_TAXONOMY
from lightning_modules.metrics.predictions import PredictedSentence, Prediction
from lightning_modules.metrics.rationale_statistics import Ratio, rationale_statistics
from lightning_modules.metrics.reward_hacking import CHECKS, Alarm, make_alarms, prediction_alarms

pytestmark = pytest.mark.unit

NOUNS = ("room", "street", "garden", "kitchen", "car")


def healthy(i: int) -> Prediction:
    """Two neutral observations and two sentences of evidence for the target, none of them said of another clip."""
    target = DFEW_TAXONOMY.classes[i % len(DFEW_TAXONOMY)]
    label = DFEW_TAXONOMY.labels[target]
    clues = [(f"Clip {i} opens in a {NOUNS[i % 5]}.", "neutral"), (f"The lips of person {i} move slowly.", "neutral")]
    clues += [(f"Their voice is at {i} now.", label), (f"Both eyes narrow {i} times.", label)]
    sentences = tuple(PredictedSentence(text, (emotion,), None) for text, emotion in clues)
    rewards = {"format": 1.0, "accuracy": 1.0, "explanation": 0.5 if target == "neutral" else 1.0}
    return Prediction(str(i), target, target, **rewards, sentences=sentences, judged=target, dataset=None,
                      media=None, completion=None, failure=None)  # fmt: skip


HEALTHY = [healthy(i) for i in range(35)]


def said(prediction: Prediction, *sentences: tuple[str, tuple[str, ...]]) -> Prediction:
    return replace(prediction, sentences=tuple(PredictedSentence(text, emotions, None) for text, emotions in sentences))


def label(prediction: Prediction) -> str:
    assert prediction.target is not None
    return DFEW_TAXONOMY.labels[prediction.target]


def warned(predictions: list[Prediction]) -> set[str]:
    return {alarm.name for alarm in prediction_alarms(predictions, DFEW_TAXONOMY) if alarm.warns}


def test_every_statistic_has_a_range_and_a_meaning() -> None:
    assert list(CHECKS) == list(rationale_statistics([], DFEW_TAXONOMY))
    assert all(check.meaning and check.advice for check in CHECKS.values())
    documented = (Path(__file__).parents[3] / "docs/analysis.md").read_text()
    assert [name for name in CHECKS if f"`{name}`" not in documented] == []


def test_a_healthy_run_is_silent() -> None:
    assert warned(HEALTHY) == set()


OUTRIGHT = ("Person {id} shows {label}.", "It is {label} that number {id} feels.", "Clip {id}: so much {label}!")
DESCRIBED = ("Person {id} looks down.", "Then the voice of number {id} breaks.", "In clip {id} nobody moves.")


def written(prediction: Prediction, sentences: tuple[str, ...], *emotions: str) -> Prediction:
    texts = [sentence.format(id=prediction.id, label=label(prediction)) for sentence in sentences]
    return said(prediction, *((text, emotions) for text in texts))


def test_naming_the_label() -> None:
    assert warned([written(p, OUTRIGHT, label(p)) for p in HEALTHY]) == {"label_named"}
    assert warned([written(p, DESCRIBED, label(p)) for p in HEALTHY]) == set()


def test_padding_with_neutral_sentences() -> None:
    quiet = PredictedSentence("It is quiet in here.", ("neutral",), None)
    padded = [replace(p, sentences=(quiet,) * 9 + p.sentences) for p in HEALTHY]
    assert {"neutral_sentences", "repeated_sentences"} <= warned(padded)


def test_pleasing_two_targets() -> None:
    other = {"fear": "anger"}
    assert warned([written(p, DESCRIBED, label(p), other.get(label(p), "fear")) for p in HEALTHY]) == {"rival"}


def test_pleasing_every_target() -> None:
    sentences = (("Their face shows it all.", ("joy", "anger")), ("And they speak of it.", ("fear", "sadness")))
    assert {"shared_sentences", "hedging", "shuffled_ratio"} <= warned([said(p, *sentences) for p in HEALTHY])


def test_a_judge_that_disagrees() -> None:
    assert warned([replace(p, judged="fear") for p in HEALTHY]) == {"judge_gap"}


def test_degenerate_rationales() -> None:
    assert "sentences" in warned([said(p) for p in HEALTHY])
    assert {"distinct_1", "distinct_2"} <= warned([said(p, ("no " * 30, (label(p),))) for p in HEALTHY])


def test_length_that_is_rewarded() -> None:
    rewarded = [
        replace(p, sentences=p.sentences[: 1 + i % 4], explanation=(1 + i % 4) / 4) for i, p in enumerate(HEALTHY)
    ]
    assert "reward_length" in warned(rewarded)


def test_clips_that_do_not_decode_are_left_out() -> None:
    failed = [replace(said(p), id=f"x{p.id}", failure="cannot be decoded") for p in HEALTHY]
    assert prediction_alarms(HEALTHY + failed, DFEW_TAXONOMY) == prediction_alarms(HEALTHY, DFEW_TAXONOMY)


def test_a_file_without_readings_or_of_one_clip_has_values_where_it_can() -> None:
    unread = [
        replace(p, explanation=None, sentences=tuple(replace(s, emotions=None) for s in p.sentences)) for p in HEALTHY
    ]
    values = {alarm.name: alarm.value for alarm in prediction_alarms(unread, DFEW_TAXONOMY)}
    assert values["neutral_sentences"] is None and values["sentences"] == 4.0
    single = {alarm.name: alarm.value for alarm in prediction_alarms(HEALTHY[:1], DFEW_TAXONOMY)}
    assert single["reward_length"] is None and single["shared_sentences"] is None and single["sentences"] == 4.0


@pytest.mark.parametrize(
    ("value", "low", "high", "warns"),
    [
        (0.5, None, 0.5, False),
        (0.51, None, 0.5, True),
        (0.5, 0.5, None, False),
        (0.49, 0.5, None, True),
        (9.0, None, None, False),
        (None, 0.0, 0.0, False),
    ],
)
def test_bounds(value: float | None, low: float | None, high: float | None, warns: bool) -> None:
    assert Alarm("x", value, low, high, "", "").warns is warns


def test_ranges_in_words() -> None:
    ranges = [(None, 0.5), (0.5, None), (-0.5, 0.5), (None, None)]
    words = [Alarm("x", 0.0, low, high, "", "").expected for low, high in ranges]
    assert words == ["at most 0.5", "at least 0.5", "-0.5 to 0.5", "anything"]


def test_thresholds_can_be_set() -> None:
    ratios = rationale_statistics([], DFEW_TAXONOMY) | {"hedging": Ratio(1.0, 2.0)}

    def hedging(thresholds):
        return next(alarm for alarm in make_alarms(ratios, thresholds) if alarm.name == "hedging")

    assert hedging(None).warns and not hedging({"hedging": (None, 0.6)}).warns
    with pytest.raises(ValueError, match="no alarm 'hedge'.*hedging"):
        hedging({"hedge": (None, 0.6)})
    with pytest.raises(ValueError, match=r"\[0.6, 0.1\]"):
        hedging({"hedging": (0.6, 0.1)})
