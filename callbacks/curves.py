"""A run goes on when TensorBoard's curves cannot be written."""

import warnings
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger


class _WritesWhileItCan:
    """TensorBoard's writer of events; after a first failure, of which its thread ends, nothing is written any more.

    A part of a record may be in the file then, and what follows it could not be read.
    """

    def __init__(self, writer: Any) -> None:
        self.writer = writer
        self._failed = False

    def get_logdir(self) -> str:
        return self.writer.get_logdir()

    def add_event(self, event: Any) -> None:
        self._do("add_event", event)

    def flush(self) -> None:
        self._do("flush")

    def close(self) -> None:
        self._do("close")

    def _do(self, name: str, *arguments: Any) -> None:
        if self._failed:
            return
        try:
            getattr(self.writer, name)(*arguments)
        except OSError as error:
            self._failed = True
            warnings.warn(
                f"The curves in {self.get_logdir()} cannot be written ({error}): the curves end here, the run goes on.",
                stacklevel=2,
            )


class CurvesMayEnd(Callback):
    """Lets a run go on when TensorBoard's events cannot be written, for instance because the disk is full.

    TensorBoard's own thread ends then, and with it the run, at the next value that is logged.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger) and trainer.is_global_zero:
                file = logger.experiment.file_writer
                if not isinstance(file.event_writer, _WritesWhileItCan):
                    file.event_writer = _WritesWhileItCan(file.event_writer)
