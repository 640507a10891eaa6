"""A run goes on when its trackers fail: TensorBoard's curves cannot be written, or a server is gone."""

import warnings
from collections.abc import Callable
from functools import wraps
from typing import Any
from weakref import WeakSet

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger, TensorBoardLogger

from callbacks.tracker_errors import is_of_tracker

_SENDING = ("log_metrics", "log_hyperparams", "save", "after_save_checkpoint", "finalize")
"""What Lightning calls of a logger."""
_FAILED: WeakSet[Logger] = WeakSet()


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


def has_failed(logger: Logger) -> bool:
    """Whether nothing is sent to a logger any more."""
    return logger in _FAILED


def while_it_can(logger: Logger, function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that sends something to a logger, and does nothing after a first failure of the logger."""

    @wraps(function)
    def send(*arguments: Any, **options: Any) -> Any:
        if has_failed(logger):
            return None
        try:
            return function(*arguments, **options)
        except Exception as error:
            if not (isinstance(error, OSError) or is_of_tracker(error)):
                raise
            _FAILED.add(logger)
            warnings.warn(
                f"{type(logger).__name__} fails ({error}): nothing more is sent to it, the run goes on.", stacklevel=2
            )

    return send


class CurvesMayEnd(Callback):
    """Lets a run go on when a logger fails after its start, as the disk is full or its server gone.

    TensorBoard's own thread ends then, and with it the run, at the next value that is logged.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        for logger in trainer.loggers if trainer.is_global_zero else ():
            if isinstance(logger, TensorBoardLogger):
                file = logger.experiment.file_writer
                if not isinstance(file.event_writer, _WritesWhileItCan):
                    file.event_writer = _WritesWhileItCan(file.event_writer)
                continue
            for name in _SENDING:
                if name not in vars(logger):  # not of an earlier stage
                    setattr(logger, name, while_it_can(logger, getattr(logger, name)))
