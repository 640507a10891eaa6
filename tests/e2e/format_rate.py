"""A callback as a user writes one: the format reward of a validation's completions, logged for others to watch."""

from typing import Any

from lightning import Callback, LightningModule, Trainer

from callbacks.rewards import format_score
from lightning_modules.evaluation import Evaluation


class FormatRate(Callback):
    """Logs `val/format`, the share of validation clips that are answered in the format."""

    def __init__(self) -> None:
        self._scores: list[float] = []

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._scores = []

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *args: Any, **kwargs: Any
    ) -> None:
        assert isinstance(outputs, Evaluation), "a policy returns evaluations"
        self._scores += [format_score(response.completion) for response in outputs.responses]

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pl_module.log("val/format", sum(self._scores) / len(self._scores), prog_bar=True)
