"""Order and composition of epochs: a function of seed and epoch, shares kept to a draw, nothing lost between ranks."""

import random
from collections import Counter
from collections.abc import Hashable
from itertools import pairwise, zip_longest
from unittest.mock import Mock

import pytest
from torch.utils.data import DistributedSampler

from datamodules.clip_source import balanced_shares
from datamodules.samplers import EpochSampler, GroupSampler, draw_epoch, evaluation_sampler, training_sampler

pytestmark = pytest.mark.numerics

ITEMS = range(23)
GROUPS = ["a"] * 15 + ["b"] * 6 + ["c"] * 2
SHARES = {"a": 0.2, "b": 0.35, "c": 0.45}


@pytest.mark.parametrize("num_processes", [1, 2, 5])
def test_unweighted_order_is_that_of_torch(num_processes: int) -> None:
    for rank in range(num_processes):
        sampler = EpochSampler(ITEMS, num_processes, rank, seed=7)
        expected = DistributedSampler(ITEMS, num_processes, rank, shuffle=True, seed=7)
        for epoch in (0, 3):
            sampler.set_epoch(epoch)
            expected.set_epoch(epoch)
            assert list(sampler) == list(expected)
            assert len(sampler) == len(expected)


def test_skipped_items_are_missing_from_one_iteration_only() -> None:
    for sampler in (EpochSampler(ITEMS, seed=7), GroupSampler(GROUPS, SHARES, seed=7)):
        whole = list(sampler)
        sampler.skip(5)
        assert list(sampler) == whole[5:]
        assert list(sampler) == whole
        assert len(sampler) == len(whole) == 23


@pytest.mark.parametrize("seed", range(20))
def test_each_group_has_its_share_of_the_draws(seed: int) -> None:
    noise = random.Random(seed)
    groups = [noise.randrange(5) for _ in range(noise.randrange(40, 200))]
    shares = {group: noise.uniform(0.01, 3) for group in set(groups)}
    draws = draw_epoch(groups, shares, noise)
    assert len(draws) == len(groups)
    counts = Counter(groups[item] for item in draws)
    for group, share in shares.items():
        assert abs(counts[group] - len(groups) * share / sum(shares.values())) < 1, group


def test_mean_number_of_draws_is_the_exact_share() -> None:
    # 23 items: 4.6, 8.05 and 10.35 draws. The offset is uniform, so the standard error over 4000 epochs is below 0.01.
    counts: Counter[str] = Counter()
    for epoch in range(4000):
        counts.update(GROUPS[item] for item in draw_epoch(GROUPS, SHARES, random.Random(epoch)))
    assert {group: count / 4000 for group, count in counts.items()} == pytest.approx(
        {"a": 4.6, "b": 8.05, "c": 10.35}, abs=0.04
    )


def test_no_item_is_drawn_again_before_all_others_of_its_group() -> None:
    for epoch in range(20):
        draws = draw_epoch(GROUPS, SHARES, random.Random(epoch))
        for group in SHARES:
            times = Counter({item: 0 for item in ITEMS if GROUPS[item] == group})
            times.update(item for item in draws if GROUPS[item] == group)
            assert max(times.values()) - min(times.values()) <= 1, group


def test_weighted_order_depends_on_seed_and_epoch_only() -> None:
    def epochs(seed: int) -> list[list[int]]:
        sampler = GroupSampler(GROUPS, SHARES, seed=seed)
        orders = []
        for epoch in (0, 1, 0):
            sampler.set_epoch(epoch)
            orders.append(list(sampler))
        return orders

    first, second, again = epochs(seed=1)
    assert first == again != second
    assert sorted(first) != sorted(second)  # other items, not only another order
    assert epochs(seed=1) == [first, second, again]
    assert first not in epochs(seed=2)


def test_groups_are_mixed_within_an_epoch() -> None:
    classes = [GROUPS[item] for item in GroupSampler(GROUPS, SHARES, seed=0)]
    changes = sum(left != right for left, right in pairwise(classes))
    assert changes > 6  # 2 when drawn group by group


def test_processes_deal_out_one_weighted_epoch() -> None:
    whole = list(GroupSampler(GROUPS, SHARES, seed=5))
    parts = [list(GroupSampler(GROUPS, SHARES, num_replicas=2, rank=rank, seed=5)) for rank in (0, 1)]
    dealt = [item for pair in zip_longest(*parts) for item in pair]
    assert dealt == [*whole, whole[0]]  # 23 items on 2 processes: one is repeated


def test_order_of_the_shares_does_not_matter() -> None:
    backwards = dict(reversed(SHARES.items()))
    assert list(GroupSampler(GROUPS, backwards, seed=5)) == list(GroupSampler(GROUPS, SHARES, seed=5))


def test_only_ratios_of_shares_matter() -> None:
    doubled = {group: 2 * share for group, share in SHARES.items()}
    assert list(GroupSampler(GROUPS, doubled, seed=5)) == list(GroupSampler(GROUPS, SHARES, seed=5))


def test_balanced_shares_are_equal() -> None:
    shares = balanced_shares(GROUPS)
    assert shares == {"a": 1 / 3, "b": 1 / 3, "c": 1 / 3}
    counts = Counter(GROUPS[item] for item in GroupSampler(GROUPS, shares, seed=0))
    assert sorted(counts.values()) == [7, 8, 8]


def test_fingerprint_tells_orders_apart_and_processes_not() -> None:
    base = GroupSampler(GROUPS, SHARES, num_replicas=2, rank=0, seed=5)
    for count, rank in ((2, 1), (3, 0)):
        assert GroupSampler(GROUPS, SHARES, count, rank, seed=5).fingerprint() == base.fingerprint()
    others = [
        GroupSampler(GROUPS, SHARES, num_replicas=2, seed=6),
        GroupSampler(GROUPS[:-1], SHARES, num_replicas=2, seed=5),
        GroupSampler(GROUPS, {**SHARES, "a": 2.0}, num_replicas=2, seed=5),
        GroupSampler(GROUPS[::-1], SHARES, num_replicas=2, seed=5),
    ]
    for other in others:
        assert other.fingerprint() != base.fingerprint()


@pytest.mark.parametrize("share", [0.0, -0.5, float("nan"), float("inf")])
def test_share_that_is_not_positive_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="must be positive numbers, got {'b': .*remove its items"):
        GroupSampler(GROUPS, {**SHARES, "b": share})


def test_share_of_an_unknown_group_is_refused() -> None:
    with pytest.raises(ValueError, match=r"without any item: \['d'\]. Groups with items: \['a', 'b', 'c'\]"):
        GroupSampler(GROUPS, {**SHARES, "d": 0.1})


def test_group_without_a_share_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Groups without a share: \['c'\].*\['a', 'b'\]"):
        GroupSampler(GROUPS, {"a": 0.5, "b": 0.5})


def test_training_sampler_is_weighted_by_groups_and_shares() -> None:
    groups: list[Hashable] = list(GROUPS)
    assert list(training_sampler(ITEMS, None, 5)) == list(EpochSampler(ITEMS, seed=5))
    assert list(training_sampler(ITEMS, None, 5, groups, SHARES)) == list(GroupSampler(GROUPS, SHARES, seed=5))


def test_training_sampler_needs_groups_and_shares_together() -> None:
    with pytest.raises(ValueError, match="go together"):
        training_sampler(ITEMS, None, 5, groups=list(GROUPS))
    with pytest.raises(ValueError, match="one group for each of the 23 items, got 22"):
        training_sampler(ITEMS, None, 5, GROUPS[:-1], SHARES)


def test_each_process_has_something_to_evaluate() -> None:
    trainer = Mock(world_size=3, global_rank=1)
    assert list(evaluation_sampler(range(4), trainer)) == [1] and len(evaluation_sampler([], trainer)) == 0
    with pytest.raises(ValueError, match=r"3 processes cannot share 2 items.*trainer\.devices.* 2 processes or fewer"):
        evaluation_sampler(range(2), trainer)
