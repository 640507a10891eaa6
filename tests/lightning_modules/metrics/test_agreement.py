"""Cohen's kappa and raw agreement against hand-computed numbers."""

import numpy as np
import pytest

from datamodules.emotions import DFEW_TAXONOMY, MAFW_TAXONOMY, Taxonomy
from lightning_modules.metrics.agreement import cohens_kappa, judge_agreement, verdict_counts

pytestmark = pytest.mark.numerics

TWO = Taxonomy("two", ("happiness", "sadness"))


def counts_of(*rows: list[int]) -> np.ndarray:
    return np.array(rows, dtype=np.int64)


def test_counts_have_invalid_last():
    first = ["happiness", "sadness", "sadness", None, None, "happiness"]
    second = ["happiness", "happiness", "sadness", None, "sadness", None]
    assert verdict_counts(first, second, TWO).tolist() == [[1, 0, 1], [1, 1, 0], [0, 1, 1]]


def test_lengths_must_be_equal():
    with pytest.raises(ValueError, match="got 1 and 2"):
        verdict_counts(["happiness"], ["happiness", None], TWO)


def test_kappa_by_hand():
    # Of 50 clips both say happiness in 20 and sadness in 15: p_o = 0.7. The first says happiness in 25, the second in
    # 30: p_e = 0.5 · 0.6 + 0.5 · 0.4 = 0.5. κ = 0.2 / 0.5.
    counts = counts_of([20, 5, 0], [10, 15, 0], [0, 0, 0])
    assert float(cohens_kappa(counts)) == pytest.approx(0.4, abs=1e-12)
    assert judge_agreement(counts, num_resamples=10).agreement.value == pytest.approx(0.7, abs=1e-12)


def test_three_classes_by_hand():
    # p_o = 9/12; marginals 4, 5, 3 and 5, 5, 2: p_e = (20 + 25 + 6) / 144. κ = (108 − 51) / (144 − 51) = 57/93.
    counts = np.zeros((4, 4), dtype=np.int64)
    counts[:3, :3] = [[3, 1, 0], [1, 4, 0], [1, 0, 2]]
    assert float(cohens_kappa(counts)) == pytest.approx(57 / 93, abs=1e-12)


def test_invalid_agrees_with_nothing_and_is_outside_kappa():
    counts = counts_of([20, 5, 7], [10, 15, 0], [0, 3, 40])
    assert float(cohens_kappa(counts)) == pytest.approx(0.4, abs=1e-12)
    assert judge_agreement(counts, num_resamples=10).agreement.value == pytest.approx(35 / 100, abs=1e-12)


def test_no_better_than_chance_is_exactly_0_and_worse_is_negative():
    assert float(cohens_kappa(counts_of([9, 3, 0], [3, 1, 0], [0, 0, 0]))) == 0
    assert float(cohens_kappa(counts_of([0, 5, 0], [5, 0, 0], [0, 0, 0]))) == -1
    assert float(cohens_kappa(counts_of([2, 0, 0], [0, 3, 0], [0, 0, 0]))) == 1


@pytest.mark.parametrize(
    "counts", [counts_of([8, 0, 0], [0, 0, 0], [0, 0, 2]), counts_of([0, 0, 1], [0, 0, 0], [0, 1, 3])]
)
def test_kappa_is_not_defined_where_chance_agrees_always_or_nothing_is_valid(counts):
    assert np.isnan(cohens_kappa(counts))
    assert judge_agreement(counts, num_resamples=50).kappa is None


def test_many_tables_at_once_are_each_as_alone():
    tables = np.random.default_rng(0).integers(0, 9, size=(20, 8, 8))
    assert cohens_kappa(tables) == pytest.approx([float(cohens_kappa(table)) for table in tables], abs=1e-15)


def test_kappa_against_the_definition_over_clips():
    rng = np.random.default_rng(1)
    first = [MAFW_TAXONOMY.classes[i] for i in rng.integers(0, 11, 500)]
    second = [
        a if rng.random() < 0.6 else MAFW_TAXONOMY.classes[i]
        for a, i in zip(first, rng.integers(0, 11, 500), strict=True)
    ]
    observed = np.mean([a == b for a, b in zip(first, second, strict=True)])
    chance = sum(first.count(emotion) / 500 * second.count(emotion) / 500 for emotion in MAFW_TAXONOMY.classes)
    kappa = float(cohens_kappa(verdict_counts(first, second, MAFW_TAXONOMY)))
    assert kappa == pytest.approx((observed - chance) / (1 - chance), abs=1e-12)


def test_interval_against_a_bootstrap_of_clips_and_the_large_sample_error():
    counts = counts_of([200, 50, 0], [100, 150, 0], [0, 0, 0])
    own = judge_agreement(counts, num_resamples=4000, seed=3)
    # Fleiss, Cohen & Everitt (1969): the standard error is about sqrt(p_o (1 − p_o) / N) / (1 − p_e).
    error = (0.21 / (500 * 0.25)) ** 0.5
    assert own.kappa is not None
    assert own.kappa.value == pytest.approx(0.4, abs=1e-12)
    assert (own.kappa.low, own.kappa.high) == pytest.approx((0.4 - 1.96 * error, 0.4 + 1.96 * error), abs=0.01)
    half = 1.96 * (0.7 * 0.3 / 500) ** 0.5
    assert (own.agreement.low, own.agreement.high) == pytest.approx((0.7 - half, 0.7 + half), abs=0.005)
    clips = np.repeat(np.arange(9), counts.ravel())
    rng = np.random.default_rng(7)
    drawn = [np.bincount(rng.choice(clips, clips.size), minlength=9).reshape(3, 3) for _ in range(2000)]
    assert (own.kappa.low, own.kappa.high) == pytest.approx(
        np.quantile(cohens_kappa(np.stack(drawn)), [0.025, 0.975]), abs=0.01
    )


def test_the_seed_decides_the_interval():
    counts = verdict_counts(
        ["happiness", "anger", None, "fear"] * 5, ["happiness", "fear", None, "fear"] * 5, DFEW_TAXONOMY
    )
    assert judge_agreement(counts, 100, 1) == judge_agreement(counts, 100, 1)
    assert judge_agreement(counts, 100, 1) != judge_agreement(counts, 100, 2)


def test_no_clip_is_an_error():
    with pytest.raises(ValueError, match="No clip was judged"):
        judge_agreement(np.zeros((3, 3), dtype=np.int64))
