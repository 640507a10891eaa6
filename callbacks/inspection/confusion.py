"""Confusion matrices between target, answer and explanation, and figures of them.

Shape legend: C classes; K as in `lightning_modules.metrics.counts`.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from datamodules.emotions import Taxonomy
from lightning_modules.metrics.predictions import INVALID, UNKNOWN

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_INK, _RULE, _FRAME = "#1f2328", "#d0d5db", "#e0a100"
_MAX_JUDGE = 32  # characters; the end of a path tells judges apart


@dataclass(frozen=True, eq=False)
class ConfusionMatrix:
    """Clips by two of their three emotions.

    Args:
        tag: short name, fit for a file or a TensorBoard tag.
        rows: names of the rows; by each of them the colours are normalised.
        columns: names of the columns; the first C of rows and columns are the classes.
        counts: clips, int64 `[rows, columns]`.
        row_axis: what the rows are.
        column_axis: what the columns are.
        agreement: name of the share of clips in which both are the same class.
    """

    tag: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    counts: NDArray[np.int64]
    row_axis: str
    column_axis: str
    agreement: str

    @property
    def diagonal(self) -> list[int]:
        """Where row and column are the same class: unknown and invalid equal nothing, not even each other."""
        return [i for i, (row, column) in enumerate(zip(self.rows, self.columns, strict=False)) if row == column]

    @property
    def rate(self) -> float:
        """Share of all clips on the diagonal; 0 without a clip."""
        return int(self.counts[self.diagonal, self.diagonal].sum()) / max(int(self.counts.sum()), 1)


def confusion_matrices(counts: NDArray[np.int64], taxonomy: Taxonomy, judge: str | None) -> list[ConfusionMatrix]:
    """Prediction × target and, with a judge, explanation × target and explanation × prediction.

    Args:
        counts: K, int64 `[C, C+1, C+1]`, of all processes.
        taxonomy: the classes.
        judge: name of the judge; None without one.
    """
    classes = taxonomy.classes
    answered, judged = (*classes, UNKNOWN), (*classes, INVALID)
    by_prediction = ConfusionMatrix(
        "prediction_x_target", classes, answered, counts.sum(axis=2), "target", "prediction", "WAR"
    )
    if judge is None:
        return [by_prediction]
    name = judge if len(judge) <= _MAX_JUDGE else f"…{judge[1 - _MAX_JUDGE :]}"
    heard = f"explanation\n(judge: {name})"
    return [
        by_prediction,
        ConfusionMatrix("explanation_x_target", classes, judged, counts.sum(axis=1), "target", heard, "EEA"),
        ConfusionMatrix("explanation_x_prediction", answered, judged, counts.sum(axis=0), "prediction", heard, "EPC"),
    ]


def draw_confusion(matrix: ConfusionMatrix) -> "Figure":
    """A figure of a matrix: counts written, colours their share of the row, classes framed where they agree.

    The figure is matplotlib's bare `Figure`: pyplot does not know it, so that nothing stays open.
    """
    # Matplotlib takes a third of a second to import: only this function needs it.
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    counts = matrix.counts
    totals = counts.sum(axis=1, keepdims=True)
    shares = counts / totals.clip(min=1)
    width, height = 1.4 + 0.4 * len(matrix.columns), 1.7 + 0.4 * len(matrix.rows)
    figure = Figure(figsize=(width, height), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0, aspect="auto")
    for (row, column), number in np.ndenumerate(counts):
        if number:
            colour = "white" if shares[row, column] > 0.55 else _INK
            axes.text(column, row, str(number), ha="center", va="center", color=colour, fontsize=10)
    axes.set_xticks(range(len(matrix.columns)), matrix.columns, rotation=45, ha="right", rotation_mode="anchor")
    labels = [f"{name} ({int(total)})" for name, total in zip(matrix.rows, totals[:, 0], strict=True)]
    axes.set_yticks(range(len(matrix.rows)), labels)
    for i in matrix.diagonal:
        axes.add_patch(Rectangle((i - 0.5, i - 0.5), 1, 1, fill=False, edgecolor=_FRAME, linewidth=1.5))
    axes.tick_params(length=0, labelsize=10)
    axes.spines[:].set_color(_RULE)
    axes.set_xlabel(matrix.column_axis, fontsize=10, parse_math=False)
    axes.set_ylabel(f"{matrix.row_axis} (clips)", fontsize=10)
    axes.set_title(f"{matrix.agreement} {matrix.rate:.1%} of {int(counts.sum())} clips", fontsize=12)
    return figure
