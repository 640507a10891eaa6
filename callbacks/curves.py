"""TensorBoard's curves are no reason to end a run."""

import warnings
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger


class _WritesWhileItCan:
    """TensorBoard's record writer, which its thread writes with; after a first failure nothing is written any more.

    A part of a record may be in the file then, and what follows it could not be read.
    """

    def __init__(self, writer: Any, file: str) -> None:
        self.writer = writer
        self.file = file
        self._failed = False

    def write(self, record: bytes) -> None:
        self._do("write", record)

    def flush(self) -> None:
        self._do("flush")

    def close(self) -> None:
        self._do("close")

    def _do(self, name: str, *arguments: bytes) -> None:
        if self._failed:
            return
        try:
            getattr(self.writer, name)(*arguments)
        except OSError as error:
            self._failed = True
            warnings.warn(
                f"{self.file} cannot be written ({error}): the curves end here, the run goes on.", stacklevel=2
            )


class CurvesMayEnd(Callback):
    """Lets a run go on when TensorBoard's events cannot be written, for instance because the disk is full.

    TensorBoard's own thread ends then, and with it the run, at the next value that is logged.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger) and trainer.is_global_zero:
                events = logger.experiment.file_writer.event_writer
                thread = events._async_writer
                if not isinstance(thread._writer, _WritesWhileItCan):
                    thread._writer = thread._worker._record_writer = _WritesWhileItCan(
                        thread._writer, events._file_name
                    )
