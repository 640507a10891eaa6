"""Calls that crash, hang or raise in worker processes."""

import multiprocessing
import signal
import time
from pathlib import Path

import pytest

from datamodules.inspection.workers import run_isolated
from datamodules.isolation import Lost

pytestmark = pytest.mark.e2e


def test_a_crash_costs_one_call() -> None:
    # SIGCONT does nothing to a running process; SIGSEGV is what a broken file does to a decoder.
    items = [signal.SIGCONT, signal.SIGSEGV, signal.SIGCONT]
    outcomes = list(run_isolated(signal.raise_signal, items, num_workers=1, timeout_seconds=60))
    assert outcomes == [
        (signal.SIGCONT, None),
        (signal.SIGSEGV, Lost("the decoder crashed (SIGSEGV)")),
        (signal.SIGCONT, None),
    ]


def die_once(marker: str) -> str:
    if not Path(marker).exists():
        Path(marker).touch()
        signal.raise_signal(signal.SIGKILL)
    return "done"


def test_a_call_whose_process_is_killed_from_outside_is_tried_once_more(tmp_path: Path) -> None:
    items = [str(tmp_path / "a"), str(tmp_path / "b")]
    outcomes = list(run_isolated(die_once, items, num_workers=1, timeout_seconds=60))
    assert outcomes == [(item, "done") for item in items]


def test_a_hanging_call_is_ended() -> None:
    start = time.monotonic()
    outcomes = dict(run_isolated(time.sleep, [0.0, 500.0, 0.1], num_workers=2, timeout_seconds=1))
    assert outcomes == {0.0: None, 500.0: Lost("timed out after 1 s"), 0.1: None}
    assert time.monotonic() - start < 60


def test_an_exception_reaches_the_caller_and_ends_the_processes() -> None:
    calls = run_isolated(int, ["7", "seven", "8"], num_workers=1, timeout_seconds=60)
    assert next(calls) == ("7", 7)
    with pytest.raises(ValueError, match="invalid literal"):
        next(calls)
    assert multiprocessing.active_children() == []


def test_closing_ends_the_processes() -> None:
    calls = run_isolated(int, ["1", "2", "3"], num_workers=1, timeout_seconds=60)
    next(calls)
    assert len(multiprocessing.active_children()) == 1
    calls.close()
    assert multiprocessing.active_children() == []


def test_no_items_start_no_process() -> None:
    assert list(run_isolated(int, [], num_workers=4, timeout_seconds=60)) == []
