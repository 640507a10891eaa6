"""Which clips or sentences a process sees, and in what order; the same code on one device and on several."""

import math
import random
import zlib
from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence, Sized
from itertools import accumulate, cycle, islice
from typing import TypeVar

import numpy as np
import torch
from lightning import Trainer
from lightning.pytorch.overrides.distributed import UnrepeatedDistributedSampler
from torch.utils.data import DistributedSampler

Group = TypeVar("Group", bound=Hashable)


class EpochSampler(DistributedSampler):
    """A shuffle that depends on seed and epoch only, and that can be entered in the middle of an epoch.

    The processes deal out one order among them, an item to each in turn: after as many batches on each, what they have
    taken is its beginning, and the rest can be dealt out to any number of processes.

    Args:
        dataset: what is sampled from.
        num_replicas: processes that share an epoch; a few items are repeated where they do not divide evenly.
        rank: of this process.
        seed: of the order.
    """

    def __init__(self, dataset: Sized, num_replicas: int = 1, rank: int = 0, seed: int = 0) -> None:
        super().__init__(dataset, num_replicas, rank, shuffle=True, seed=seed)  # type: ignore[arg-type]
        self._num_skipped = 0

    def __iter__(self) -> Iterator[int]:
        num_skipped, self._num_skipped = self._num_skipped, 0
        order = self.order()
        left = order[num_skipped:]
        left += islice(cycle(order), -len(left) % self.num_replicas)
        return iter(left[self.rank :: self.num_replicas])

    def order(self) -> list[int]:
        """The items of the current epoch, of all processes together."""
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        return torch.randperm(len(self.dataset), generator=generator).tolist()

    def skip(self, num_items: int) -> None:
        """Leave out the first items of the epoch, of all processes together, in the next iteration and in no other."""
        self._num_skipped = num_items

    def num_left(self, num_skipped: int) -> int:
        """Items of a process after the first `num_skipped` of the epoch."""
        return math.ceil(max(len(self.dataset) - num_skipped, 0) / self.num_replicas)

    def fingerprint(self) -> dict[str, int]:
        """What must be equal for two samplers to have one order in the current epoch; the same on every process."""
        return {"num_items": len(self.dataset), "seed": self.seed}


class GroupSampler(EpochSampler):
    """An epoch as long as the dataset, in which each group of items has its share of the draws.

    Args:
        groups: one group per item of the dataset.
        shares: see `draw_epoch`.
        num_replicas, rank, seed: see `EpochSampler`.

    Raises:
        ValueError: see `check_shares`.
    """

    def __init__(
        self,
        groups: Sequence[Hashable],
        shares: Mapping[Hashable, float],
        num_replicas: int = 1,
        rank: int = 0,
        seed: int = 0,
    ) -> None:
        check_shares(groups, shares)
        super().__init__(groups, num_replicas, rank, seed)
        self.groups = groups
        self.shares = shares

    def order(self) -> list[int]:
        draws = self._draws()
        return [draws[position] for position in super().order()]

    def fingerprint(self) -> dict[str, int]:
        return {**super().fingerprint(), "draws": zlib.crc32(np.asarray(self._draws(), dtype="<i8").tobytes())}

    def _draws(self) -> list[int]:
        # Not seed + epoch, which seeds the shuffle: what is drawn and where it lands must not depend on each other.
        return draw_epoch(self.groups, self.shares, random.Random(f"{self.seed}/{self.epoch}"))


def draw_epoch(groups: Sequence[Group], shares: Mapping[Group, float], generator: random.Random) -> list[int]:
    """Items of one epoch, group by group: N draws from N items.

    Group g gets floor or ceil of N · shares[g] / Σ shares draws: one uniform offset rounds all boundaries between the
    groups (systematic sampling), so that over many epochs its mean is the exact share. Within a group no item is
    drawn again before every other has been.

    Args:
        groups: one group per item.
        shares: weight of each group, relative to the others.
        generator: source of the offset and of the order within each group.

    Raises:
        ValueError: see `check_shares`.
    """
    check_shares(groups, shares)
    members: dict[Group, list[int]] = defaultdict(list)
    for item, group in enumerate(groups):
        members[group].append(item)
    cumulative = list(accumulate(shares[group] for group in members))
    offset = generator.random()
    boundaries = [math.floor(len(groups) * value / cumulative[-1] + offset) for value in cumulative[:-1]]
    draws: list[int] = []
    for items, boundary in zip(members.values(), [*boundaries, len(groups)], strict=True):
        count = boundary - len(draws)
        rounds = [generator.sample(items, len(items)) for _ in range(math.ceil(count / len(items)))]
        draws += [item for order in rounds for item in order][:count]
    return draws


def check_shares(groups: Sequence[Group], shares: Mapping[Group, float]) -> None:
    """Check that there is a usable share for each group of items.

    Raises:
        ValueError: a share that is not a positive number, of a group without items, or missing for a group with items.
    """
    bad = {group: share for group, share in shares.items() if not 0 < share < math.inf}
    if bad:
        raise ValueError(f"Shares must be positive numbers, got {bad}. To leave a group out, remove its items.")
    present = dict.fromkeys(groups)
    unknown = [group for group in shares if group not in present]
    if unknown:
        raise ValueError(f"Shares are given for groups without any item: {unknown}. Groups with items: {[*present]}.")
    missing = [group for group in present if group not in shares]
    if missing:
        raise ValueError(f"Groups without a share: {missing}. Shares are given for {[*shares]}; every group needs one.")


def training_sampler(
    dataset: Sized,
    trainer: Trainer | None,
    seed: int,
    groups: Sequence[Hashable] | None = None,
    shares: Mapping[Hashable, float] | None = None,
) -> EpochSampler:
    """An order that depends on seed and epoch only: Lightning tells the sampler the epoch, and leaves it in place.

    On several processes the clips are dealt out, and a few are repeated where they do not divide evenly.

    Args:
        dataset: what is sampled from.
        trainer: names the number of processes and the rank; None is a single process.
        seed: of the order.
        groups: one group per item, e.g. its class or its corpus; None draws every item once per epoch.
        shares: share of an epoch's draws for each group (`draw_epoch`); given with `groups`.

    Raises:
        ValueError: only one of `groups` and `shares`, not one group per item, or bad shares (`check_shares`).
    """
    num_processes, rank = (trainer.world_size, trainer.global_rank) if trainer else (1, 0)
    if groups is None and shares is None:
        return EpochSampler(dataset, num_processes, rank, seed)
    if groups is None or shares is None:
        raise ValueError(f"groups and shares go together, got groups={groups} and shares={shares}.")
    if len(groups) != len(dataset):
        raise ValueError(f"Expected one group for each of the {len(dataset)} items, got {len(groups)}.")
    return GroupSampler(groups, shares, num_processes, rank, seed)


def evaluation_sampler(dataset: Sized, trainer: Trainer | None) -> DistributedSampler | None:
    """Dataset order, each item on exactly one process; None (plain order) on a single process.

    Lightning's own choice repeats items to even out the processes, which would count some clips twice.

    Raises:
        ValueError: there are fewer items than processes.
    """
    if trainer is None or trainer.world_size == 1:
        return None
    if 0 < len(dataset) < trainer.world_size:
        raise ValueError(
            f"{trainer.world_size} processes cannot share {len(dataset)} items to evaluate: each needs one. Set "
            f"trainer.devices so that there are {len(dataset)} processes or fewer."
        )
    return UnrepeatedDistributedSampler(
        dataset, num_replicas=trainer.world_size, rank=trainer.global_rank, shuffle=False
    )
