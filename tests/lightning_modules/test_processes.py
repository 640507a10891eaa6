"""Values of several processes put together."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_modules.processes import (
    Measured,
    Tally,
    combine,
    counted_over_processes,
    once_per_node,
    sum_over_processes,
)

from .two_processes import on_two_processes

pytestmark = pytest.mark.unit


def test_means_are_over_what_each_process_measured() -> None:
    parts = [
        {"loss": Measured(0.5, 1.0, "sum"), "length": Measured(10.0, 3, "mean"), "longest": Measured(12, 1, "most")},
        {"loss": Measured(0.25, 1.0, "sum"), "length": Measured(20.0, 1, "mean"), "longest": Measured(9, 1, "most")},
        {"shortest": Measured(4, 1, "least")},
        {"shortest": Measured(2, 1, "least")},
    ]
    assert combine(parts) == {"loss": 0.75, "length": 12.5, "longest": 12.0, "shortest": 2.0}


def test_a_mean_over_nothing_is_what_the_processes_say_of_nothing() -> None:
    assert combine([{"kl": Measured(0.0, 0, "mean")}, {"kl": Measured(0.0, 0, "mean")}]) == {"kl": 0.0}


def test_one_process_gets_back_what_it_noted() -> None:
    tally, value = Tally(), torch.tensor(0.1)
    tally.add("loss", value, weight=3)
    assert tally.over_processes()["loss"] is value
    assert sum_over_processes(3, torch.tensor(4), device=torch.device("cpu")) == [3.0, 4.0]


def test_one_process_of_a_node_checks_for_all(tmp_path: Path) -> None:
    def check(rank: int) -> dict[str, Any]:
        torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
        checked: list[int] = []

        def fail() -> None:
            raise ValueError("damaged")

        once_per_node(lambda: checked.append(rank), ValueError)
        try:
            once_per_node(fail, ValueError)
        except ValueError as error:
            return {"checked": checked, "error": str(error)}
        raise AssertionError

    results = on_two_processes(check, tmp_path)
    assert results == [{"checked": [0], "error": "damaged"}, {"checked": [], "error": "damaged"}]


def test_counts_of_all_processes(tmp_path: Path) -> None:
    def count(rank: int) -> dict[str, Any]:
        torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
        return dict(counted_over_processes(Counter({"sad.": 1 + rank, f"only {rank}": 1})))

    assert on_two_processes(count, tmp_path) == [{"sad.": 3, "only 0": 1, "only 1": 1}] * 2
    assert counted_over_processes(Counter("a")) == {"a": 1}
