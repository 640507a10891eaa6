"""Calls in forked processes: what comes back, and what a crash or a hang costs."""

import gc
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datamodules import isolation
from datamodules.isolation import IsolatedFunction, Lost, run_isolated

pytestmark = pytest.mark.unit


def arrays(seed: int) -> dict[str, Any]:
    values = np.random.default_rng(seed)
    frames = values.integers(0, 256, (2, 3, 8, 8), dtype=np.uint8)
    empty = np.zeros(0, np.float32)
    return {"frames": frames, "turned": frames.transpose(0, 2, 3, 1), "wave": values.random(1000), "empty": empty}


@pytest.mark.parametrize("shared_bytes", [1 << 20, 4096])
def test_arrays_come_back_equal_and_writable(shared_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolation, "_SHARED_BYTES", shared_bytes)  # 8,384 bytes of arrays: they fit, or they do not
    function = IsolatedFunction(arrays, 60.0)
    first, second = function(1), function(2)
    for seed, result in ((1, first), (2, second)):
        for name, expected in arrays(seed).items():
            np.testing.assert_array_equal(result[name], expected)
    first["frames"][:] = 0
    np.testing.assert_array_equal(second["frames"], arrays(2)["frames"])


def test_a_hang_costs_one_call() -> None:
    function = IsolatedFunction(time.sleep, 1.0)
    assert function(0.0) is None
    start = time.monotonic()
    assert function(500.0) == Lost("timed out after 1 s")
    assert time.monotonic() - start < 60
    assert function(0.0) is None


def test_a_crash_costs_one_call() -> None:
    function = IsolatedFunction(signal.raise_signal, 60.0)
    assert function(signal.SIGKILL) == Lost("the decoder crashed (SIGKILL)")
    assert function(signal.SIGCONT) is None


def test_a_call_whose_process_is_killed_from_outside_is_tried_once_more(tmp_path: Path) -> None:
    def die_once(times: int) -> int:
        with (tmp_path / "tries").open("a+") as file:
            file.write("x")
            file.seek(0)
            tries = len(file.read())
        if tries <= times:
            os.kill(os.getpid(), signal.SIGKILL)
        return tries

    assert IsolatedFunction(die_once, 60.0)(1) == 2
    assert IsolatedFunction(die_once, 60.0)(4) == Lost("the decoder crashed (SIGKILL)")


def test_a_process_that_is_killed_between_calls_costs_none() -> None:
    function = IsolatedFunction(own_process, 60.0)
    first = function(0)
    os.kill(first, signal.SIGKILL)
    assert function(0) not in (first, os.getpid())


def test_both_tries_of_a_call_share_its_time() -> None:
    def crash_late(seconds: float) -> None:
        time.sleep(seconds)
        os.kill(os.getpid(), signal.SIGKILL)

    start = time.monotonic()
    assert IsolatedFunction(crash_late, 1.0)(0.7) == Lost("timed out after 1 s")
    assert time.monotonic() - start < 1.4


def test_the_answer_to_an_interrupted_call_is_not_that_of_the_next() -> None:
    def echo(item: float) -> float:
        time.sleep(item)
        return item

    function = IsolatedFunction(echo, 60.0)
    threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        function(0.3)
    assert function(0.0) == 0.0


class Unportable(ValueError):
    """Pickles, but does not unpickle, as many exceptions of libraries."""

    def __init__(self, where: str, why: str) -> None:
        super().__init__(f"{where}: {why}")


class Unpicklable(ValueError):
    def __reduce__(self) -> str:
        raise TypeError("a handle of a library")


@pytest.mark.parametrize("error", [Unportable("here", "so"), Unpicklable("here: so")])
def test_an_exception_that_does_not_travel_sends_its_words(error: Exception) -> None:
    def fail(item: int) -> None:
        raise error

    function = IsolatedFunction(fail, 60.0)
    with pytest.raises(RuntimeError, match=f"{type(error).__name__}: here: so"):
        function(0)


def test_an_exception_reaches_the_caller_and_the_process_goes_on() -> None:
    function = IsolatedFunction(lambda text: (int(text), os.getpid()), 60.0)
    number, process = function("7")
    with pytest.raises(ValueError, match="invalid literal"):
        function("seven")
    assert function("8") == (8, process) and number == 7 and process != os.getpid()


def test_a_copy_has_a_process_of_its_own() -> None:
    function = IsolatedFunction(own_process, 60.0)
    process = function(0)
    copy = pickle.loads(pickle.dumps(function))
    assert copy(0) != process
    inner = IsolatedFunction(function, 60.0)  # a forked copy, as in a DataLoader's worker
    assert inner(0) not in (process, os.getpid())
    assert function(0) == process


def own_process(item: int) -> int:
    return os.getpid()


@pytest.mark.parametrize("end", [IsolatedFunction.close, lambda function: None])
def test_the_process_ends_with_its_function(end: Callable[[IsolatedFunction], None]) -> None:
    function = IsolatedFunction(own_process, 60.0)
    process = function(0)
    os.kill(process, 0)
    end(function)
    del function
    gc.collect()
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


def test_a_limit_must_be_positive() -> None:
    with pytest.raises(ValueError, match="timeout_seconds must be above 0, got 0"):
        IsolatedFunction(own_process, 0)


class HeldStream:
    """A stream whose lock a thread of the parent's holds."""

    def __init__(self) -> None:
        self.lock = threading.Lock()

    def write(self, text: str) -> None:
        with self.lock:
            pass

    flush = close = write


def test_a_held_lock_of_a_stream_does_not_hold_up_what_the_call_prints(monkeypatch: pytest.MonkeyPatch) -> None:
    held = HeldStream()
    monkeypatch.setattr(sys, "stderr", held)
    function = IsolatedFunction(lambda text: print(text, file=sys.stderr), 5.0)
    with held.lock:
        assert function("decoding") is None


def test_one_of_several_that_crashes_costs_its_own_item() -> None:
    # SIGCONT does nothing to a running process.
    items = [signal.SIGCONT, signal.SIGTERM, signal.SIGCONT]
    assert list(run_isolated(signal.raise_signal, items, num_workers=1, timeout_seconds=60)) == [
        (signal.SIGCONT, None),
        (signal.SIGTERM, Lost("the decoder crashed (SIGTERM)")),
        (signal.SIGCONT, None),
    ]


def test_each_item_of_several_is_tried_once_more(tmp_path: Path) -> None:
    def die_once(item: str) -> str:
        if not (tmp_path / item).exists():
            (tmp_path / item).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return "done"

    outcomes = list(run_isolated(die_once, ["a", "b", "c"], num_workers=2, timeout_seconds=60))
    assert sorted(outcomes) == [(item, "done") for item in "abc"]


def test_a_hang_holds_up_no_other_item() -> None:
    start = time.monotonic()
    outcomes = dict(run_isolated(time.sleep, [0.0, 500.0, 0.01, 0.02], num_workers=2, timeout_seconds=1))
    assert outcomes == {0.0: None, 500.0: Lost("timed out after 1 s"), 0.01: None, 0.02: None}
    assert time.monotonic() - start < 60


def test_an_answer_that_waited_for_a_slow_reader_is_in_time() -> None:
    outcomes = run_isolated(time.sleep, [0.0, 0.05], num_workers=2, timeout_seconds=0.3)
    assert next(outcomes) == (0.0, None)
    time.sleep(0.5)
    assert next(outcomes) == (0.05, None)


@pytest.mark.parametrize("end", ["close", "error"])
def test_what_ends_several_calls_ends_their_processes(end: str) -> None:
    def work(item: str) -> int:
        if item == "hang":
            time.sleep(500)
        return int(item) or os.getpid()

    before = set(Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split())
    calls = run_isolated(work, ["0", "hang", "seven"], num_workers=2, timeout_seconds=60)
    _, process = next(calls)
    if end == "close":
        calls.close()
    else:
        with pytest.raises(ValueError, match="invalid literal"):
            next(calls)
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)
    assert set(Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()) <= before


def test_processes_run_at_the_same_time_and_not_more_than_allowed() -> None:
    outcomes = list(run_isolated(own_process, list(range(6)), num_workers=2, timeout_seconds=60))
    assert sorted(item for item, _ in outcomes) == list(range(6))
    assert len({process for _, process in outcomes}) <= 2


def test_no_items_start_no_process() -> None:
    assert list(run_isolated(own_process, [], num_workers=4, timeout_seconds=60)) == []
