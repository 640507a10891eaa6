"""Randomness of a training step as a function of its place in the run (decision 42).

A resumed run draws what it would have drawn. Saved states of the generators would not do: what runs between two steps
(a validation, new workers) draws from them, too, and need not run again after a restart.
"""

import random
from typing import Any

import numpy as np
import torch
from lightning import LightningModule

_KEY = "run_seed"
_ALL = 2**32 - 1  # in place of a rank, which no process has


def step_seed(run_seed: int, epoch: int, batch_idx: int, rank: int) -> int:
    """A seed in 0 .. 2**64 - 1 for one step of one process; different places give unrelated seeds.

    Args:
        run_seed: of the whole run.
        epoch: counted from 0.
        batch_idx: batch within the epoch.
        rank: global rank of the process.
    """
    sequence = np.random.SeedSequence([abs(run_seed), epoch, batch_idx, rank])
    return int(sequence.generate_state(1, np.uint64)[0])


class SeededSteps(LightningModule):
    """A module whose training steps draw their random numbers from the run's seed, epoch, batch and process alone.

    A subclass, or the callback that begins its steps, calls `seed_step` before anything random. The run's seed is that
    of `seed_everything`. Every checkpoint holds it: a resumed run keeps it, whatever seed it is started with.
    """

    def __init__(self) -> None:
        super().__init__()
        self._run_seed: int | None = None

    def on_fit_start(self) -> None:
        _ = self.run_seed  # every process asks for it at the same time

    @property
    def run_seed(self) -> int:
        """The run's seed, from the start of the fit on."""
        if self._run_seed is None:
            self._run_seed = self.trainer.strategy.broadcast(torch.initial_seed())
        return self._run_seed

    def seed_step(self, batch_idx: int) -> None:
        """Seed Python's, NumPy's and PyTorch's generators (CPU and GPU) for a training step."""
        seed = step_seed(self.run_seed, self.trainer.current_epoch, batch_idx, self.trainer.global_rank)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed)

    def seed_rounding(self) -> None:
        """Seed PyTorch's generators for an optimizer step that rounds by chance, alike on all processes."""
        torch.manual_seed(step_seed(self.run_seed, self.trainer.current_epoch, self.trainer.global_step, _ALL))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[_KEY] = self._run_seed

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._run_seed = checkpoint[_KEY]
