"""What several processes know of one step, put together. All call these in the same order, and get the same.

A single process gets back what it gave.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal, TypeAlias, TypeVar

import torch
import torch.distributed
from torch import Tensor

How = Literal["mean", "sum", "least", "most"]
"""How the values of several processes make one."""

T = TypeVar("T")

Value: TypeAlias = Tensor | float

_num_of_node: ContextVar[int] = ContextVar("num_of_node", default=1)


@dataclass(frozen=True)
class Measured:
    """A value as one process knows it.

    Args:
        value: a scalar.
        weight: of the process in a mean: what the value is itself a mean over, e.g. its number of tokens.
        how: the way in which it joins those of other processes.
    """

    value: Value
    weight: Value
    how: How


class Tally:
    """Scalars of a step, to be logged as one process with all the clips would have measured them."""

    def __init__(self) -> None:
        self._values: dict[str, Measured] = {}

    def add(self, name: str, value: Value, how: How = "mean", weight: Value = 1.0) -> None:
        """Note a value of this process, see `Measured`; a process that has none leaves it out."""
        self._values[name] = Measured(value, weight, how)

    def over_processes(self) -> Mapping[str, Value]:
        """The values of all processes together, by name. Every process takes part, whatever it noted."""
        if _world_size() == 1:
            return {name: measured.value for name, measured in self._values.items()}
        own = {name: Measured(float(m.value), float(m.weight), m.how) for name, m in self._values.items()}
        parts: list[dict[str, Measured]] = [{} for _ in range(_world_size())]
        torch.distributed.all_gather_object(parts, own)
        return combine(parts)


def combine(parts: Sequence[Mapping[str, Measured]]) -> dict[str, float]:
    """Values of several processes as one, by name, in the order in which they first appear."""
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: _combined([part[name] for part in parts if name in part]) for name in names}


def _combined(measured: Sequence[Measured]) -> float:
    values = [float(one.value) for one in measured]
    if measured[0].how == "least":
        return min(values)
    if measured[0].how == "most":
        return max(values)
    if measured[0].how == "sum":
        return sum(values)
    weights = [float(one.weight) for one in measured]
    # All weights 0: nothing was measured, and each process says what it says of nothing.
    total = sum(weights) or 1.0
    return sum(value * weight / total for value, weight in zip(values, weights, strict=True))


def sum_over_processes(*values: Value, device: torch.device) -> list[float]:
    """Sums of scalars over all processes, exact for whole numbers below 2^53."""
    if _world_size() == 1:
        return [float(value) for value in values]
    total = torch.tensor([float(value) for value in values], dtype=torch.float64, device=device)
    torch.distributed.all_reduce(total)
    return total.tolist()


def counted_over_processes(counts: Counter[T]) -> Counter[T]:
    """The counts of all processes together."""
    if _world_size() == 1:
        return counts
    parts: list[Counter[T]] = [Counter() for _ in range(_world_size())]
    torch.distributed.all_gather_object(parts, counts)
    return sum(parts, Counter())


def most_over_processes(value: Value, device: torch.device) -> float:
    """The largest of a scalar over all processes."""
    if _world_size() == 1:
        return float(value)
    most = torch.tensor(float(value), dtype=torch.float64, device=device)
    torch.distributed.all_reduce(most, torch.distributed.ReduceOp.MAX)
    return float(most)


def _world_size() -> int:
    initialised = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if initialised else 1


def local_rank() -> int:
    """This process' number on its node, by its launcher: Lightning's, torchrun or SLURM."""
    return int(os.environ.get("LOCAL_RANK") or os.environ.get("SLURM_LOCALID") or 0)


@contextmanager
def of_node(count: int) -> Iterator[None]:
    """Say how many processes of this node do what the block does."""
    before = _num_of_node.set(count)
    try:
        yield
    finally:
        _num_of_node.reset(before)


def num_of_node() -> int:
    """For how many processes of its node this one speaks: for all of them the first one, for itself any other."""
    return 1 if local_rank() else _num_of_node.get()


def once_per_node(check: Callable[[], None], error: type[Exception]) -> None:
    """Let the first process of each node check something, while the others wait; where it fails, it fails on all.

    Args:
        check: what to do.
        error: what it raises.
    """
    if _world_size() == 1:
        check()
        return
    _once(check, error, local_rank() == 0)


def once(do: Callable[[], None], error: type[Exception]) -> None:
    """Let the first of all processes do something, while the others wait; where it fails, it fails on all.

    Args:
        do: what to do.
        error: what it raises.
    """
    if _world_size() == 1:
        do()
        return
    _once(do, error, torch.distributed.get_rank() == 0)


def _once(do: Callable[[], None], error: type[Exception], is_mine: bool) -> None:
    found, everywhere = None, [None] * _world_size()
    if is_mine:
        try:
            do()
        except error as problem:
            found = str(problem)
    torch.distributed.all_gather_object(everywhere, found)
    for one in everywhere:
        if one is not None:
            raise error(one)
