"""Progress where there is no terminal: a line in the log every half minute, instead of a bar that redraws itself."""

import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from lightning import Callback, LightningModule, Trainer

from datamodules.files.printable import clock_time
from lightning_modules.trainable_policy import TrainablePolicyModule


def progress_line(name: str, done: int, total: float, rate: float, figures: dict[str, float]) -> str:
    """One line of progress, e.g. `train: step 120 of 360, 3.10 steps/s, 1:17 left, loss 0.312`.

    Args:
        name: of the loop.
        done: steps so far.
        total: steps in all; infinite where there is no end.
        rate: steps per second.
        figures: name → value.
    """
    parts = [f"{name}: step {done}" + (f" of {total:.0f}" if total < float("inf") else "")]
    parts.append(f"{rate:.2f} steps/s" if rate >= 1 or not rate else f"{1 / rate:.2f} s/step")
    if rate and total < float("inf"):
        parts.append(f"{clock_time((total - done) / rate)} left")
    return ", ".join([*parts, *(f"{key} {value:.4g}" for key, value in figures.items())])


class ProgressLines(Callback):
    """Prints how far a stage is where standard output is no terminal: step, rate, time left, and the bar's figures.

    Args:
        every_seconds: between two lines; 0 or less prints none.
    """

    def __init__(self, every_seconds: float = 30.0) -> None:
        self.every_seconds = every_seconds
        self.clock: Callable[[], float] = time.monotonic
        self._loop, self._first, self._began, self._last = "", 0, 0.0, 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._enter("train", trainer.global_step)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        is_policy = isinstance(pl_module, TrainablePolicyModule)
        total = pl_module.num_optimizer_steps() if is_policy else trainer.estimated_stepping_batches
        self._advance(trainer, "train", trainer.global_step, total)

    def on_validation_batch_end(self, trainer: Trainer, *step: Any) -> None:
        self._evaluated(trainer, "validation", trainer.num_val_batches, *step)

    def on_test_batch_end(self, trainer: Trainer, *step: Any) -> None:
        self._evaluated(trainer, "test", trainer.num_test_batches, *step)

    def on_predict_batch_end(self, trainer: Trainer, *step: Any) -> None:
        self._evaluated(trainer, "predict", trainer.num_predict_batches, *step)

    def _evaluated(
        self,
        trainer: Trainer,
        loop: str,
        totals: Sequence[int | float],
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._advance(trainer, loop, batch_idx + 1, totals[dataloader_idx])

    def _enter(self, loop: str, done: int) -> None:
        self._loop, self._first = loop, done
        self._began = self._last = self.clock()

    def _advance(self, trainer: Trainer, loop: str, done: int, total: float) -> None:
        if loop != self._loop:
            self._enter(loop, done)
        now = self.clock()
        is_due = self.every_seconds > 0 and now - self._last >= self.every_seconds
        if is_due and trainer.is_global_zero and not sys.stdout.isatty():
            self._last = now
            rate = (done - self._first) / (now - self._began)
            figures = {name: float(value) for name, value in trainer.progress_bar_metrics.items() if name != "v_num"}
            print(progress_line(loop, done, total, rate, figures), flush=True)
