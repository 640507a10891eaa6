"""A forest plot: differences of several runs to one, each with its interval."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_modules.metrics.intervals import Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Panel = Mapping[str, Mapping[str, Interval]]
"""Run → row → difference, a fraction. Runs need not have the same rows."""


def draw_forest(panels: Mapping[str, Panel], title: str, file: Path) -> None:
    """Draw panels side by side, in percentage points; a marker is filled where the interval excludes 0.

    Args:
        panels: title → what it shows; at least one. All panels have the same runs.
        title: over all panels.
        file: PNG to write; its directory exists.
    """
    # Matplotlib takes a second to import: only this function needs it. "Agg" draws without a display.
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    runs = list(next(iter(panels.values())))
    num_rows = max(len(_rows(panel)) for panel in panels.values())
    size = (1.4 + 3.6 * len(panels), 1.6 + num_rows * max(0.36, 0.2 * len(runs)))
    figure, grid = pyplot.subplots(1, len(panels), figsize=size, layout="constrained", squeeze=False)
    for axes, (name, panel) in zip(grid[0], panels.items(), strict=True):
        _draw_panel(axes, panel)
        axes.set_title(name, fontsize=10)
    handles = [
        pyplot.Line2D([], [], color=f"C{i % 10}", marker="o", label=run.replace("$", r"\$"))
        for i, run in enumerate(runs)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(runs), 5), fontsize=9, frameon=False)
    figure.suptitle(title.replace("$", r"\$"), fontsize=10)
    figure.savefig(file, dpi=150)
    pyplot.close(figure)


def _rows(panel: Panel) -> list[str]:
    """Rows of any run, in the order of their first mention."""
    return list(dict.fromkeys(row for rows in panel.values() for row in rows))


def _draw_panel(axes: "Axes", panel: Panel) -> None:
    rows = _rows(panel)
    axes.axvline(0, color="#555555", linewidth=0.8, zorder=1)
    for i in range(0, len(rows), 2):
        axes.axhspan(i - 0.5, i + 0.5, color="#f3f4f6", zorder=0)
    for i, differences in enumerate(panel.values()):
        shift = (i - (len(panel) - 1) / 2) * 0.7 / len(panel)
        for row, difference in differences.items():
            y, colour = rows.index(row) + shift, f"C{i % 10}"
            axes.plot([100 * difference.low, 100 * difference.high], [y, y], color=colour, linewidth=1.6)
            fill = colour if difference.excludes_zero else "white"
            axes.plot(100 * difference.value, y, "o", color=colour, markerfacecolor=fill, markersize=5)
    axes.set_yticks(range(len(rows)), rows, fontsize=9)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", alpha=0.25)
    axes.spines[["top", "right", "left"]].set_visible(False)
