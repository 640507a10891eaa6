"""Several completions of each clip: means, majority and pass@k, against values counted by hand."""

from itertools import combinations

import pytest

from datamodules.emotions import DFEW_TAXONOMY
from lightning_modules.metrics.predictions import Prediction
from lightning_modules.metrics.several_samples import majority, pass_at, samples_summary, several_samples

pytestmark = pytest.mark.numerics


@pytest.mark.parametrize(("num_right", "chosen"), [(0, 1), (2, 1), (2, 2), (2, 3), (2, 4), (5, 5), (1, 5)])
def test_pass_at_is_the_share_of_choices_with_a_right_one(num_right: int, chosen: int) -> None:
    choices = list(combinations(range(5), chosen))
    expected = sum(any(sample < num_right for sample in own) for own in choices) / len(choices)
    assert pass_at(num_right, 5, chosen) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        (["anger", "fear", "anger"], "anger"),
        (["fear", "anger"], "fear"),  # a tie: the earliest
        (["sadness", "anger", "fear", "fear", "anger"], "anger"),
        ([None, None, "fear"], "fear"),
        ([None, None], None),
    ],
)
def test_majority(answers: list[str | None], expected: str | None) -> None:
    assert majority(answers) == expected


def clip(identifier: str, target: str | None, prediction: str | None, judged: str | None) -> Prediction:
    return Prediction(identifier, target, prediction, 1.0, None, None, (), judged)


def test_figures_by_hand() -> None:
    first = [clip("1", "anger", "anger", "anger"), clip("2", "fear", "anger", "anger")]
    second = [clip("1", "anger", "anger", "fear"), clip("2", "fear", "fear", "fear")]
    third = [clip("1", "anger", None, None), clip("2", "fear", "fear", "anger")]
    figures = several_samples([first, second, third], DFEW_TAXONOMY, judged=True)
    assert figures["per_clip"] == 3
    assert figures["rates"]["war"] == {
        "mean": pytest.approx((1 / 2 + 1 + 1 / 2) / 3),
        "sd": pytest.approx((1 / 12) ** 0.5),
    }
    assert figures["rates"]["fcr"]["mean"] == pytest.approx((1 / 2 + 1 / 2 + 0) / 3)
    assert figures["agreement"] == pytest.approx((2 / 3 + 2 / 3) / 2)
    assert figures["majority"] == {"war": 1.0, "uar": 1.0}
    # Right answers of three: 2 and 2; right and explained: 1 and 1.
    assert figures["pass_at"]["war"] == {"1": pytest.approx(2 / 3), "2": 1.0, "3": 1.0}
    assert figures["pass_at"]["fcr"] == {"1": pytest.approx(1 / 3), "2": pytest.approx(2 / 3), "3": 1.0}
    lines = samples_summary(figures)
    assert lines[0].startswith("3 samples of each clip, mean ± standard deviation: WAR 66.7 ± 28.9, ")
    assert lines[1:] == [
        "Majority of 3: WAR 100.0, UAR 100.0.",
        "pass@k, WAR: 1: 66.7, 2: 100.0, 3: 100.0.",
        "pass@k, FCR: 1: 33.3, 2: 66.7, 3: 100.0.",
    ]


def test_clips_without_labels_or_judge() -> None:
    samples = [[clip("1", None, answer, None)] for answer in ("anger", "fear")]
    figures = several_samples(samples, DFEW_TAXONOMY, judged=False)
    assert (figures["rates"], figures["majority"], figures["pass_at"]) == ({}, {}, {})
    assert figures["agreement"] == 0.5
    assert len(samples_summary(figures)) == 1
