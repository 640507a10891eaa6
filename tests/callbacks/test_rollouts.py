"""The files of rollouts: their sizes, their bound, and what stays of it."""

import random
from pathlib import Path

import pytest

from callbacks.rollouts import RolloutLog, RolloutWriter
from datamodules.emotions import DFEW_TAXONOMY
from lightning_modules.metrics.rollouts import Group, RolloutFile, read_rollouts
from tests.rollout_groups import completion, group

pytestmark = pytest.mark.unit

BOUND = 64_000


def step(number: int) -> list[Group]:
    """Some 1,500 bytes that do not compress further."""
    text = "".join(random.Random(number).choices("abcdefghijklmnopqrstuvwxyz", k=1200))
    return [group(number, "a", completion(completion=text, sentences=()))]


def fill(run: Path, steps: range, start: int = 1, rank: int = 0) -> RolloutLog:
    log = RolloutLog(run / "rollouts", RolloutFile(start, steps[0], rank, 1), BOUND)
    for number in steps:
        log.append(step(number), DFEW_TAXONOMY)
    return log


def size(run: Path) -> int:
    return sum(path.stat().st_size for path in (run / "rollouts").iterdir())


def test_files_rotate_and_the_first_and_the_last_ones_stay(tmp_path: Path) -> None:
    log = fill(tmp_path, range(200))
    assert BOUND * 0.8 < size(tmp_path) <= BOUND
    kept = [own.step for own in read_rollouts(tmp_path).groups]
    first, last = kept[:5], kept[-40:]
    assert first == [0, 1, 2, 3, 4] and last == list(range(160, 200)), "where it began, and where it is"
    assert log.dropped > 10 and 200 - len(kept) == kept[5] - 5, "one gap"
    assert read_rollouts(tmp_path).notes[0].startswith(f"{log.dropped} files between")


def test_the_bound_holds_over_starts_and_leaves_other_processes_alone(tmp_path: Path) -> None:
    fill(tmp_path, range(20), rank=1)
    others = size(tmp_path)
    fill(tmp_path, range(100))
    fill(tmp_path, range(90, 190), start=2)
    assert size(tmp_path) - others <= BOUND
    groups = read_rollouts(tmp_path).groups
    assert [own.step for own in groups if own.step < 20] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, *range(5, 20)]
    assert groups[-1].step == 189


def test_below_the_bound_all_stays(tmp_path: Path) -> None:
    log = fill(tmp_path, range(30))
    assert not log.dropped and [own.step for own in read_rollouts(tmp_path).groups] == list(range(30))
    assert len(list((tmp_path / "rollouts").iterdir())) > 5


def test_a_bound_below_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="max_megabytes >= 0"):
        RolloutWriter(-1)
