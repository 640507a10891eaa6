"""Differences over seeds: the formulas, and that 95 % intervals cover."""

import numpy as np
import pytest

from lightning_modules.metrics.seeds import (
    crossed_difference,
    nested_difference,
    rate_values,
    ratio_values,
    recall_values,
    student_p,
    student_quantile,
)

pytestmark = pytest.mark.numerics


@pytest.mark.parametrize(
    ("freedom", "quantile"), [(1, 12.7062047), (2, 4.3026527), (4, 2.7764451), (9.5, 2.2441375), (30, 2.0422725)]
)
def test_student_as_in_tables(freedom: float, quantile: float) -> None:
    assert student_quantile(0.975, freedom) == pytest.approx(quantile, abs=1e-6)
    assert student_p(quantile, freedom) == pytest.approx(0.05, abs=1e-7)
    assert student_p(-quantile, freedom) == pytest.approx(0.05, abs=1e-7)
    assert student_p(0, freedom) == 1


def test_student_becomes_normal() -> None:
    assert student_quantile(0.975, 1e7) == pytest.approx(1.959964, abs=1e-5)


def test_equal_differences_have_no_test_even_an_ulp_apart() -> None:
    own = nested_difference(np.array([0.1 - 0.05, 0.2 - 0.15, 0.3 - 0.25]))
    assert own.p_value is None and own.difference.low == own.difference.high == pytest.approx(0.05)
    assert nested_difference(np.array([0.0, 0.3 - 0.2 - 0.1])).difference.excludes_zero is False


def test_own_clips_by_hand() -> None:
    own = nested_difference(np.array([0.1, 0.2, 0.3]))
    half = 4.3026527 * 0.1 / 3**0.5
    assert own.difference.value == pytest.approx(0.2) and own.freedom == 2
    assert (own.difference.low, own.difference.high) == pytest.approx((0.2 - half, 0.2 + half))
    assert own.p_value == pytest.approx(student_p(0.2 / (0.1 / 3**0.5), 2))
    with pytest.raises(ValueError, match="Got 1 seed"):
        nested_difference(np.array([0.1]))


def test_without_variance_of_clips_it_is_students_t_over_seeds() -> None:
    seeds = np.array([0.1, 0.2, 0.4])
    crossed, expected = crossed_difference(np.repeat(seeds[:, None], 7, axis=1)), nested_difference(seeds)
    assert (crossed.difference.low, crossed.difference.high) == pytest.approx(
        (expected.difference.low, expected.difference.high)
    )
    assert crossed.freedom == pytest.approx(2) and crossed.p_value == pytest.approx(expected.p_value)


def test_without_variance_of_seeds_it_is_students_t_over_clips() -> None:
    clips = np.array([0.0, 1.0, 0.0, -1.0, 1.0])
    crossed = crossed_difference(np.repeat(clips[None], 3, axis=0))
    expected = nested_difference(clips)
    assert crossed.freedom == pytest.approx(4)
    assert (crossed.difference.low, crossed.difference.high) == pytest.approx(
        (expected.difference.low, expected.difference.high)
    )


def test_the_mean_over_clips_is_each_seeds_difference() -> None:
    rng = np.random.default_rng(0)
    classes = rng.integers(0, 3, 40)
    before, after = rng.random((2, 4, 40)) < 0.6
    uar = np.array([[run[s][classes == k].mean() for k in range(3)] for run in (before, after) for s in range(4)])
    expected = uar.mean(axis=1).reshape(2, 4)
    assert recall_values(before, after, classes).mean(axis=1) == pytest.approx(expected[1] - expected[0])
    assert rate_values(before, after).mean(axis=1) == pytest.approx(after.mean(axis=1) - before.mean(axis=1))
    wholes = rng.integers(0, 4, (2, 4, 40))
    counts = np.stack([rng.binomial(wholes, 0.5), wholes], axis=-1)
    ratios = counts[..., 0].sum(axis=2) / counts[..., 1].sum(axis=2)
    assert ratio_values(*counts).mean(axis=1) == pytest.approx(ratios[1] - ratios[0])


@pytest.mark.parametrize(
    ("num_seeds", "num_clips", "of_seeds", "of_clips", "noise"),
    [(5, 322, 0.0, 1.0, 1.0), (5, 50, 0.3, 1.0, 1.0), (5, 322, 1.0, 1.0, 1.0), (10, 100, 0.1, 0.5, 1.0)],
)
def test_intervals_for_shared_clips_cover(
    num_seeds: int, num_clips: int, of_seeds: float, of_clips: float, noise: float
) -> None:
    """Two arms of equal quality count a clip where a seed's skill, less the clip's difficulty, and chance are above 0.

    Arms differ in how they meet seeds and clips, so that their difference varies over both.
    """
    rng = np.random.default_rng(1)
    repeats, covered = 1000, 0
    for _ in range(repeats):
        skill = rng.normal(0.5, of_seeds, (2, num_seeds, 1)) + rng.normal(0, of_clips, (1, 1, num_clips))
        skill = skill + rng.normal(0, of_clips / 2, (2, 1, num_clips))
        hits = skill + rng.normal(0, noise, (2, num_seeds, num_clips)) > 0
        own = crossed_difference(rate_values(*hits)).difference
        covered += own.low <= 0 <= own.high
    assert 0.93 <= covered / repeats <= 0.97
