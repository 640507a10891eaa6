"""What a 95 % interval promises, simulated: it holds the true value in about 19 of 20 samples.

Rates are drawn in ranges, as a share of so many clips takes few values: at a single rate near 1, such as 0.99 of 50
clips, any such interval covers by jumps (Wilson's 91 %), and on average over rates 95 %. Bounds are 93 and 97 %, and
the error of the simulation, 0.7 points.
"""

from collections.abc import Iterator

import numpy as np
import pytest

from lightning_modules.metrics.intervals import uar_interval, wilson
from lightning_modules.metrics.paired import score_interval, uar_difference

pytestmark = pytest.mark.numerics

TRIALS = 1000
SHARES = np.array([2488, 1740, 2709, 2229, 1495, 146, 981]) / 11788
"""Of DFEW's classes."""

LOW, HIGH = 0.923, 0.977

RANGES = [(0.5, 0.8), (0.8, 0.95), (0.95, 0.99)]
RECALLS = {
    "equal, middling": np.full(7, 0.7),
    "equal, high": np.full(7, 0.9),
    "equal, near 1": np.full(7, 0.97),
    "as published models": np.array([0.95, 0.8, 0.7, 0.75, 0.6, 0.1, 0.5]),
    "high but for the rare class": np.array([0.97, 0.9, 0.9, 0.9, 0.85, 0.3, 0.8]),
}


def class_counts(chance: np.random.Generator, count: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Clips of the classes that a test set has, and which these are."""
    for _ in range(TRIALS):
        clips = chance.multinomial(count, SHARES)
        yield clips[clips > 0], clips > 0


@pytest.mark.parametrize("count", [50, 322])
@pytest.mark.parametrize(("low", "high"), RANGES)
def test_a_share(low: float, high: float, count: int) -> None:
    chance = np.random.default_rng(0)
    rates = chance.uniform(low, high, 4 * TRIALS)
    ends = [wilson(hits, count) for hits in chance.binomial(count, rates)]
    held = np.mean([a <= rate <= b for (a, b), rate in zip(ends, rates, strict=True)])
    assert LOW < held < HIGH


@pytest.mark.parametrize("count", [50, 322])
@pytest.mark.parametrize(("low", "high"), RANGES)
def test_a_difference_of_shares(low: float, high: float, count: int) -> None:
    """Two runs whose hits are related: half of what the worse one may share with the better, it does."""
    chance, held = np.random.default_rng(1), 0
    for _ in range(TRIALS):
        first, second = chance.uniform(low, high, 2)
        both = (first * second + min(first, second)) / 2
        gained, lost, _, _ = chance.multinomial(count, [second - both, first - both, both, 1 - first - second + both])
        a, b = score_interval(gained, lost, count)
        held += a <= second - first <= b
    # Where hardly a clip differs, every interval holds 0, and so does the truth: it covers more.
    assert LOW < held / TRIALS < (0.995 if low == 0.95 else HIGH)


@pytest.mark.parametrize("count", [50, 322])
@pytest.mark.parametrize("recalls", RECALLS.values(), ids=RECALLS)
def test_uar(recalls: np.ndarray, count: int) -> None:
    chance, held = np.random.default_rng(2), 0
    for clips, present in class_counts(chance, count):
        interval = uar_interval(chance.binomial(clips, recalls[present]), clips)
        held += interval.low <= recalls[present].mean() <= interval.high
    # The rare class has four clips of 322: where it is as bad as here, its recall is drawn up, and its spread, too.
    assert LOW < held / TRIALS < (0.99 if recalls.min() < 0.2 else HIGH)


@pytest.mark.parametrize("count", [50, 322])
@pytest.mark.parametrize(
    "recalls", [RECALLS["equal, middling"], RECALLS["as published models"]], ids=["equal", "as published"]
)
def test_a_difference_of_uar(recalls: np.ndarray, count: int) -> None:
    chance, held = np.random.default_rng(3), 0
    better = 1 - 0.7 * (1 - recalls)
    both = (recalls * better + recalls) / 2
    for clips, present in class_counts(chance, count):
        gained = chance.binomial(clips, (better - both)[present])
        lost = chance.binomial(clips - gained, ((recalls - both) / (1 - better + both))[present])
        a, b = uar_difference(gained, lost, clips)
        held += a <= (better - recalls)[present].mean() <= b
    assert LOW < held / TRIALS < HIGH
