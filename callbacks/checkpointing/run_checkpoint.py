"""Checkpoints from which a killed run goes on exactly."""

import os
import shutil
import time
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.exceptions import SIGTERMException
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn
from tensorboard.compat.proto.event_pb2 import Event, SessionLog

from callbacks.checkpointing.elasticity import deal_anew, keep_place_in_schedule, steps_per_epoch
from callbacks.checkpointing.files import DIRECTORY, PARTIAL, SUFFIX, CheckpointFiles, own_checkpoints
from callbacks.checkpointing.stop_signals import StopSignals, requeue_job

_STEPS_PER_EPOCH = "steps_per_epoch"


class RunCheckpoint(Checkpoint):
    """Writes `checkpoints/step=N.ckpt` in the run directory; `--ckpt_path last` goes on from the newest.

    The newest is that of most optimizer steps. Where another run got further, one that begins anew or further back says
    so, and replaces what is ahead of it when it writes its first checkpoint.

    It writes at the end of every epoch and of the run, every so many optimizer steps or minutes, and when the scheduler
    of a cluster asks the run to end (SIGTERM; SIGUSR1 of a SLURM job, which it has put into the queue again). It writes
    only between two optimizer steps: a checkpoint holds no accumulated gradients, and a run that is killed there does
    their batches again.

    A checkpoint appears under its name only when it is complete. Frozen parts are not in it.

    Args:
        every_n_steps: optimizer steps between two checkpoints; None: not by steps.
        every_n_minutes: minutes between two checkpoints; None: not by time.
        keep: how many of the newest stay; the others are removed after a new one is complete.

    Raises:
        ValueError: a number is not positive.
    """

    def __init__(self, every_n_steps: int | None = None, every_n_minutes: float | None = 30.0, keep: int = 2) -> None:
        numbers = {"every_n_steps": every_n_steps, "every_n_minutes": every_n_minutes, "keep": keep}
        if any(number is not None and number <= 0 for number in numbers.values()):
            raise ValueError(f"Expected positive numbers or null, got {numbers}.")
        self.every_n_steps = every_n_steps
        self.every_n_minutes = every_n_minutes
        self.keep = keep
        self._seen_step = 0  # optimizer steps at the end of the batch before
        self._saved_step = -1
        self._saved_at = time.monotonic()
        self._is_waiting = False  # for a validation to end
        self._signals = StopSignals()
        self._is_stopping = False
        self._saved_steps_per_epoch: float | None = None  # of the checkpoint that the run goes on from

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        # Strategies that write directories (DeepSpeed) do so by themselves.
        trainer.strategy.checkpoint_io = CheckpointFiles()
        if stage != "fit":
            return
        self._signals, self._is_stopping, self._saved_steps_per_epoch = StopSignals(), False, None
        self._signals.listen_for_requeue()
        if trainer.is_global_zero:
            for partial in self._directory(trainer).glob(f"{PARTIAL}*"):
                _remove(partial)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint[_STEPS_PER_EPOCH] = steps_per_epoch(trainer)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._saved_steps_per_epoch = checkpoint.get(_STEPS_PER_EPOCH)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._signals.listen_for_end()
        self._seen_step = self._saved_step = trainer.global_step
        self._saved_at = time.monotonic()
        # Lightning does so only where it makes the loader after it has read the checkpoint; here the schedule had to
        # know the number of steps before.
        trainer.fit_loop._load_combined_loader_states()
        deal_anew(trainer)
        if self._saved_steps_per_epoch is not None:
            keep_place_in_schedule(trainer, self._saved_steps_per_epoch)
        if trainer.global_step:
            _cut_curves(trainer)
        furthest = max(own_checkpoints(self._directory(trainer)), default=0)
        if furthest > trainer.global_step and not trainer.fast_dev_run:
            rank_zero_warn(
                f"{self._directory(trainer)} holds checkpoints up to step {furthest}, and this run begins at step "
                f"{trainer.global_step}: its first checkpoint will replace those that are ahead of it. To go on from "
                "them, stop, and add --ckpt_path last; to keep them, choose another --trainer.default_root_dir."
            )

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self._is_stopping:  # not at the end of the batch before, whose curves are written after that
            raise SIGTERMException

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        stepped = trainer.global_step > self._seen_step
        self._seen_step = trainer.global_step
        # A job that is to be queued again has the time to come to the end of an accumulation.
        self._is_stopping = self._signals.are_heard(trainer) and (stepped or not self._signals.is_to_be_requeued)
        if not stepped or not (self._is_stopping or self._is_due(trainer)):
            return
        # Lightning leaves a validation out that was due when a run goes on from between the batch and it.
        self._is_waiting = trainer.fit_loop.epoch_loop._should_check_val_fx(trainer.fit_loop._data_fetcher)
        if self._is_stopping or not self._is_waiting:  # who asks to end may not wait for a validation
            self._save(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Before its time is up, a job has to ask for the next one.
        if self._is_stopping and self._signals.is_to_be_requeued:
            raise SIGTERMException

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._is_waiting:
            self._is_waiting = False
            self._save(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._save(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_step != self._saved_step:
            self._save(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        stopped = self._is_stopping and isinstance(exception, SIGTERMException)
        if stopped and self._signals.is_to_be_requeued and trainer.is_global_zero:
            requeue_job()

    def _is_due(self, trainer: Trainer) -> bool:
        if self.every_n_steps is not None and (
            trainer.global_step // self.every_n_steps > self._saved_step // self.every_n_steps
        ):
            return True
        minutes = (time.monotonic() - self._saved_at) / 60
        due = self.every_n_minutes is not None and minutes >= self.every_n_minutes
        # Clocks differ between processes, and all must take part in saving.
        return trainer.strategy.reduce_boolean_decision(due, all=False)

    def _directory(self, trainer: Trainer) -> Path:
        return Path(trainer.default_root_dir) / DIRECTORY

    def _save(self, trainer: Trainer) -> None:
        if trainer.fast_dev_run:
            return
        path = self._directory(trainer) / f"step={trainer.global_step:08d}{SUFFIX}"
        partial = path.with_name(PARTIAL + path.name)
        trainer.save_checkpoint(partial, weights_only=False)  # all of it, in Lightning's words
        if trainer.is_global_zero:
            if path.is_dir():
                _remove(path)
            partial.replace(path)
            _flush_directory(path.parent)
            self._remove_old(path.parent, trainer.global_step)
        trainer.strategy.barrier("RunCheckpoint")
        self._saved_step = trainer.global_step
        self._saved_at = time.monotonic()
        if self._is_stopping:
            rank_zero_info(f"Asked to end by a signal: saved {path}. Go on with --ckpt_path last.")

    def _remove_old(self, directory: Path, step: int) -> None:
        """Leave the checkpoint just written and those before it, `keep` in all."""
        own = own_checkpoints(directory)
        kept = [saved for saved in own if saved <= step][-self.keep :]
        for saved, file in own.items():
            if saved not in kept:  # too old, or of a run that got further and that this one replaces
                _remove(file)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _flush_directory(directory: Path) -> None:
    """Have the new name itself survive a power cut."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _cut_curves(trainer: Trainer) -> None:
    """Have TensorBoard forget what a killed run logged after the checkpoint: those steps are done again."""
    manual = not trainer.lightning_module.automatic_optimization
    step = trainer.fit_loop.total_batch_idx + 1 if manual else trainer.global_step  # as Lightning counts in its logs
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger) and trainer.is_global_zero:
            start = SessionLog(status=SessionLog.START)
            logger.experiment.file_writer.add_event(Event(step=step, session_log=start))
