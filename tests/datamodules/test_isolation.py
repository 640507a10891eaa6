"""Calls in a forked process: what comes back, and what a crash or a hang costs."""

import gc
import os
import pickle
import signal
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from datamodules import isolation
from datamodules.isolation import IsolatedFunction, Lost

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
