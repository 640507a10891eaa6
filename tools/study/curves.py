"""Curves of training over seeds, from the runs' TensorBoard events."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from callbacks.colours import RUNS

_SMOOTHED_OVER = 30
"""A point is the mean of its neighbours: of one in this many of the run's steps."""
_COLUMNS = 3

Curve = NDArray[np.float64]
"""Steps and values, float64 `[2, n]`."""


def read_curves(run: Path, tags: Sequence[str]) -> dict[str, Curve]:
    """The scalars of a run; tags that it does not have are left out. Of a step made twice, the later counts."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # takes a second

    events = EventAccumulator(str(run), size_guidance={"scalars": 0})
    events.Reload()
    known = set(events.Tags()["scalars"])
    points = {tag: {event.step: event.value for event in events.Scalars(tag)} for tag in tags if tag in known}
    return {tag: np.array([list(own), list(own.values())], dtype=np.float64) for tag, own in points.items()}


def smooth(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Each value's mean with its neighbours `[n]`, over fewer of them near the ends."""
    half = len(values) // _SMOOTHED_OVER // 2
    sums = np.concatenate([[0.0], np.cumsum(values)])
    places = np.arange(len(values))
    first, last = np.maximum(places - half, 0), np.minimum(places + half + 1, len(values))
    return (sums[last] - sums[first]) / (last - first)


def draw_curves(arms: Mapping[str, Sequence[Mapping[str, Curve]]], tags: Sequence[str], file: Path) -> bool:
    """Draw a panel per tag, in it a line per arm: the mean over seeds, in a band from the least to the greatest.

    Args:
        arms: arm → each seed's curves; it has its colour by its place, with curves or without, as in `summarize`. Of
            seeds with other steps, those that all have are drawn.
        tags: in the order of the panels; one that no run has is left out.
        file: PNG to write.

    Returns:
        Whether there was anything to draw.
    """
    shown = [tag for tag in tags if any(tag in seed for seeds in arms.values() for seed in seeds)]
    if not shown:
        return False
    # Matplotlib takes a second to import: only this function needs it. "Agg" draws without a display.
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = -(-len(shown) // _COLUMNS)
    columns = min(len(shown), _COLUMNS)
    figure, grid = pyplot.subplots(
        rows, columns, figsize=(4.2 * columns, 2.8 * rows + 0.6), layout="constrained", squeeze=False
    )
    for axes in grid.flat[len(shown) :]:
        axes.set_visible(False)
    for tag, axes in zip(shown, grid.flat, strict=False):
        for i, seeds in enumerate(arms.values()):
            if own := [seed[tag] for seed in seeds if tag in seed]:
                steps = sorted(set.intersection(*(set(curve[0]) for curve in own)))
                values = np.stack([smooth(curve[1][np.isin(curve[0], steps)]) for curve in own])
                axes.plot(steps, values.mean(axis=0), color=RUNS[i % len(RUNS)], linestyle=_style(i), linewidth=1.3)
                axes.fill_between(
                    steps, values.min(axis=0), values.max(axis=0), color=RUNS[i % len(RUNS)], alpha=0.15, lw=0
                )
        axes.set_title(tag, fontsize=10)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    handles = [
        pyplot.Line2D([], [], color=RUNS[i % len(RUNS)], linestyle=_style(i), label=name.replace("$", r"\$"))
        for i, (name, seeds) in enumerate(arms.items())
        if any(tag in seed for seed in seeds for tag in shown)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=9, frameon=False)
    figure.savefig(file, dpi=120)
    pyplot.close(figure)
    return True


def _style(index: int) -> str:
    """Colours repeat after ten arms."""
    return ("-", "--", ":")[index // 10 % 3]
