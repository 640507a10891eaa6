"""Where a step's time and memory go: seconds per phase, tokens per second of sampling, peak memory."""

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, get_args

import torch

Phase = Literal["encode", "sample", "score", "reference", "update"]

_GIB = 2**30


def peak_memory_gib(device: torch.device) -> float:
    """The most memory that was held so far, in GiB: by PyTorch on a CUDA device, else by this process (resident)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / _GIB
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage(2): bytes on macOS, KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / _GIB


class StepMeter:
    """Seconds of the phases of one step. Phases may be entered many times and add up; they do not nest.

    The clock waits for the CUDA device where there is one, so that a phase is charged what it launched.
    """

    def __init__(self) -> None:
        self.start(torch.device("cpu"))

    def start(self, device: torch.device) -> None:
        """Begin a step whose work runs on `device`; forgets the step before."""
        self._device = device
        self._seconds = dict.fromkeys(get_args(Phase), 0.0)
        self._tokens = 0
        self._started = self._now()

    @contextmanager
    def phase(self, name: Phase) -> Iterator[None]:
        """Charge a block to a phase."""
        start = self._now()
        try:
            yield
        finally:
            self._seconds[name] += self._now() - start

    def add_tokens(self, count: int) -> None:
        """Count sampled tokens."""
        self._tokens += count

    def summary(self) -> dict[str, float]:
        """The step so far.

        Returns:
            `seconds` of the whole step and `<phase>_seconds` of each phase, `tokens_per_second` of sampling (0 where
            nothing was sampled), and `peak_memory_gib` (see the function).
        """
        sampling = self._seconds["sample"]
        return {
            "seconds": self._now() - self._started,
            **{f"{name}_seconds": seconds for name, seconds in self._seconds.items()},
            "tokens_per_second": self._tokens / sampling if sampling > 0 else 0.0,
            "peak_memory_gib": peak_memory_gib(self._device),
        }

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()
