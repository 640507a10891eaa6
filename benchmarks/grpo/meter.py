"""Seconds and peak memory of the phases of a step.

Memory is measured in a process of its own per method, so that no other method's weights or freed blocks count:

- CUDA: what PyTorch's allocator holds at most (`torch.cuda.max_memory_allocated`).
- CPU under Linux: the largest resident set, `VmHWM` of `/proc/self/status`, which writing 5 to `/proc/self/clear_refs`
  sets back at the start of a phase. glibc is told to hand freed blocks of 64 KiB and more back to the system at once,
  since the resident set would count them for good. What the process held before the models were made (interpreter and
  libraries) is taken off.
"""

import ctypes
import gc
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

PHASES = ("sample", "reference", "update")

_STATUS, _CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_RESET_PEAK = "5"
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # <malloc.h>


class Memory:
    """Memory of this process on one device, in bytes, over what it held when this object was made.

    Args:
        device: "cpu" or "cuda".
    """

    def __init__(self, device: str) -> None:
        self._on_gpu = device == "cuda"
        if not self._on_gpu:
            libc = ctypes.CDLL(None)
            for parameter in (_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD):
                libc.mallopt(parameter, 1 << 16)
        # Libraries that load with the first computation count as the empty process.
        nn.Linear(64, 64, device=device)(torch.ones(64, 64, device=device)).sum().backward()
        self._baseline = 0
        self._baseline = self.held()

    @staticmethod
    def is_measurable(device: str) -> bool:
        """Whether this machine tells."""
        return device == "cuda" or _CLEAR_REFS.exists()

    def held(self) -> int:
        """What is held now."""
        gc.collect()
        return (torch.cuda.memory_allocated() if self._on_gpu else _status("VmRSS")) - self._baseline

    def peak(self) -> int:
        """The most that was held since `reset_peak`."""
        return (torch.cuda.max_memory_allocated() if self._on_gpu else _status("VmHWM")) - self._baseline

    def reset_peak(self) -> None:
        """Start over."""
        if self._on_gpu:
            torch.cuda.reset_peak_memory_stats()
        else:
            _CLEAR_REFS.write_text(_RESET_PEAK)


def _status(field: str) -> int:
    found = re.search(rf"^{field}:\s+(\d+) kB$", _STATUS.read_text(), re.MULTILINE)
    assert found is not None, f"{_STATUS} has no {field}"
    return int(found[1]) * 1024


class Meter:
    """What the phases of each step took: `seconds` and `peaks`, one dictionary per step, phase → seconds or bytes.

    `seconds` also has "step", the whole, with what lies between the phases.

    Args:
        device: "cpu" or "cuda".
        memory: measures peaks too; None: only seconds.
    """

    def __init__(self, device: str, memory: Memory | None = None) -> None:
        self._on_gpu = device == "cuda"
        self._memory = memory
        self.seconds: list[dict[str, float]] = []
        self.peaks: list[dict[str, int]] = []

    def _now(self) -> float:
        if self._on_gpu:
            torch.cuda.synchronize()
        return time.perf_counter()

    @contextmanager
    def step(self) -> Iterator[None]:
        """Around one step."""
        self.seconds.append({})
        self.peaks.append({})
        start = self._now()
        yield
        self.seconds[-1]["step"] = self._now() - start

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Around one phase of a step; a phase of several pieces adds up."""
        if self._memory is not None:
            self._memory.reset_peak()
        start = self._now()
        yield
        seconds, peaks = self.seconds[-1], self.peaks[-1]
        seconds[name] = seconds.get(name, 0.0) + self._now() - start
        if self._memory is not None:
            peaks[name] = max(peaks.get(name, 0), self._memory.peak())
