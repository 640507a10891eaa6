"""Pictures, texts, tables and settings, for whatever trackers a run has; curves Lightning sends to them itself.

TensorBoard, Weights & Biases and MLflow take all of it, any other logger of Lightning the settings. Only process zero
sends.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from lightning import Trainer
from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from numpy.typing import NDArray

from callbacks.curves import has_failed, while_it_can
from callbacks.inspection.hparams import write_hyperparameters

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Row = Mapping[str, Any]


class Tracker:
    """A logger of Lightning that takes settings and nothing else, as a file of comma-separated values.

    Args:
        logger: of the run.
    """

    draws = False
    """Whether it takes pictures and texts."""

    def __init__(self, logger: Any) -> None:
        self.logger = logger

    def send(self, what: Callable[..., None], *arguments: Any) -> None:
        """Call one of its methods, unless the logger has failed before."""
        while_it_can(self.logger, what)(*arguments)

    def picture(self, tag: str, picture: NDArray[np.uint8], step: int) -> None:
        """Show a picture, `[height, width, 3]`."""

    def figure(self, tag: str, figure: "Figure", step: int) -> None:
        """Show a figure of Matplotlib."""

    def table(self, tag: str, markdown: str, rows: Sequence[Row], step: int) -> None:
        """Show a table, as text or as rows.

        Args:
            tag: its name.
            markdown: the table with what explains it.
            rows: the same as plain values, each with the same columns.
            step: of training.
        """

    def settings(self, values: Mapping[str, float | str], reached: Mapping[str, float]) -> None:
        """Note a run's settings, and the last value of the metrics that runs are compared by."""
        self.logger.log_hyperparams(dict(values))
        self.logger.save()


class TensorBoard(Tracker):
    """Tables as Markdown, settings in the HPARAMS tab."""

    draws = True

    def picture(self, tag: str, picture: NDArray[np.uint8], step: int) -> None:
        self.logger.experiment.add_image(tag, picture, step, dataformats="HWC")

    def figure(self, tag: str, figure: "Figure", step: int) -> None:
        self.logger.experiment.add_figure(tag, figure, step)

    def table(self, tag: str, markdown: str, rows: Sequence[Row], step: int) -> None:
        self.logger.experiment.add_text(tag, markdown, step)

    def settings(self, values: Mapping[str, float | str], reached: Mapping[str, float]) -> None:
        write_hyperparameters(self.logger.experiment, values)  # the metrics are there already, as curves


class WeightsAndBiases(Tracker):
    """Tables as W&B's own, settings in the run's configuration and metrics in its summary."""

    draws = True

    def picture(self, tag: str, picture: NDArray[np.uint8], step: int) -> None:
        self.logger.log_image(tag, [picture], step)

    def figure(self, tag: str, figure: "Figure", step: int) -> None:
        self.picture(tag, drawn(figure), step)

    def table(self, tag: str, markdown: str, rows: Sequence[Row], step: int) -> None:
        # A table and a picture of one name would replace each other.
        data = [list(row.values()) for row in rows]
        self.logger.log_table(f"{tag}_table", columns=list(rows[0]), data=data, step=step)

    def settings(self, values: Mapping[str, float | str], reached: Mapping[str, float]) -> None:
        self.logger.log_hyperparams(dict(values))
        self.logger.experiment.summary.update(dict(reached))


class MLflow(Tracker):
    """Pictures by step, figures and tables as artifacts, settings as parameters."""

    draws = True

    def picture(self, tag: str, picture: NDArray[np.uint8], step: int) -> None:
        self.logger.experiment.log_image(self.logger.run_id, picture, key=tag, step=step)

    def figure(self, tag: str, figure: "Figure", step: int) -> None:
        self.picture(tag, drawn(figure), step)

    def table(self, tag: str, markdown: str, rows: Sequence[Row], step: int) -> None:
        content = {"columns": list(rows[0]), "data": [list(row.values()) for row in rows]}
        self.logger.experiment.log_text(self.logger.run_id, markdown, f"texts/{tag}/{step:06d}.md")
        self.logger.experiment.log_dict(self.logger.run_id, content, f"tables/{tag}/{step:06d}.json")

    def settings(self, values: Mapping[str, float | str], reached: Mapping[str, float]) -> None:
        self.logger.log_hyperparams(dict(values))  # metrics are there already


_KINDS: dict[type[Logger], type[Tracker]] = {
    TensorBoardLogger: TensorBoard,
    WandbLogger: WeightsAndBiases,
    MLFlowLogger: MLflow,
}


def trackers(trainer: Trainer) -> list[Tracker]:
    """Of a run, without those that have failed; none on the other processes."""
    if not trainer.is_global_zero:
        return []
    return [
        next((tracker for kind, tracker in _KINDS.items() if isinstance(logger, kind)), Tracker)(logger)
        for logger in trainer.loggers
        if not has_failed(logger)
    ]


def drawn(figure: "Figure") -> NDArray[np.uint8]:
    """A figure as a picture, `[height, width, 3]`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
