"""Pictures of how good a verifier is: reliability curve, threshold sweep, confusion, and what its labels decide."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning import Callback, LightningModule, Trainer

from callbacks.trackers import trackers
from lightning_modules.verifier import VerifierModule

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BLUE, _ORANGE, _GREEN, _GREY = "#3a7ca5", "#e0a458", "#2e8b57", "#8a929b"


def _new_figure(width: float, height: float) -> "Figure":
    # Matplotlib takes a second to import: only drawing needs it. Without pyplot it needs no display.
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def reliability_figure(report: dict[str, Any]) -> "Figure":
    """Share of decisions that are true over the probability given, and how many decisions each bin has.

    Args:
        report: of `SentenceLabelReport.compute`.
    """
    calibration = report["calibration"]
    bins = [one for one in calibration["bins"] if one["num_decisions"]]
    figure = _new_figure(6.2, 5.8)
    curve, counts = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    curve.plot([0, 1], [0, 1], color=_GREY, linestyle=":", label="perfectly calibrated")
    probabilities, shares = [[one[key] for one in bins] for key in ("mean_probability", "share_true")]
    curve.vlines(probabilities, *zip(*[one["interval"] for one in bins], strict=True), color=_BLUE, alpha=0.35)
    curve.plot(probabilities, shares, color=_BLUE, marker="o", ms=4, label="verifier, with 95 % intervals")
    curve.axvline(
        report["threshold"], color=_ORANGE, linestyle="--", label=f"the reward's threshold, {report['threshold']}"
    )
    curve.set_ylabel("share of decisions that are true")
    curve.set_ylim(-0.02, 1.02)
    figure.legend(loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    above = calibration["error_above_threshold"]
    above_text = "–" if above is None else f"{above:.3f}"
    curve.set_title(
        f"{report['num_sentences']} held-out sentences × {len(report['per_label'])} labels\n"
        f"expected calibration error {calibration['error']:.3f}; above the threshold {above_text}",
        fontsize=10,
    )
    width = bins[0]["high"] - bins[0]["low"]
    counts.bar([one["low"] for one in bins], [one["num_decisions"] for one in bins], width, align="edge", color=_BLUE)
    counts.set_yscale("log")
    counts.set_ylabel("decisions")
    counts.set_xlabel("probability of the label")
    counts.set_xlim(0, 1)
    return _without_frame(figure)


def sweep_figure(report: dict[str, Any]) -> "Figure":
    """F1 and exact match over the threshold, with the reward's marked.

    Args:
        report: of `SentenceLabelReport.compute`.
    """
    sweep = report["threshold_sweep"]
    thresholds = [point["threshold"] for point in sweep]
    figure = _new_figure(6.4, 4.2)
    axes = figure.subplots()
    for name, colour, label in (
        ("macro_f1", _BLUE, "macro F1"),
        ("micro_f1", _GREEN, "micro F1"),
        ("exact_match", "#bc4b51", "exact match of the label set"),
    ):
        values = [float("nan") if point[name] is None else point[name] for point in sweep]
        axes.plot(thresholds, values, color=colour, marker="o", ms=3, label=label)
    axes.axvline(
        report["threshold"], color=_ORANGE, linestyle="--", label=f"the reward's threshold, {report['threshold']}"
    )
    axes.set_ylim(0, 1.02)
    axes.set_xlim(0, 0.95)
    axes.set_xlabel("threshold")
    axes.set_title(f"{report['num_sentences']} held-out sentences", fontsize=10)
    figure.legend(loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    return _without_frame(figure)


def confusion_figure(report: dict[str, Any]) -> "Figure":
    """Given label × most probable label, in percent of the row, over the labels that occur.

    Args:
        report: of `SentenceLabelReport.compute`.
    """
    rows, columns, counts = (report["confusion"][key] for key in ("rows", "columns", "counts"))
    figure = _new_figure(2.6 + 0.42 * len(columns), 2.0 + 0.36 * len(rows))
    axes = figure.subplots()
    shares = [[count / sum(row) for count in row] for row in counts]
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for i, row in enumerate(shares):
        for j, share in enumerate(row):
            if counts[i][j]:
                colour = "white" if share > 0.55 else "black"
                axes.text(j, i, f"{100 * share:.0f}", ha="center", va="center", fontsize=8, color=colour)
    axes.set_xticks(range(len(columns)), columns, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(rows)), [f"{label} ({sum(row)})" for label, row in zip(rows, counts, strict=True)])
    axes.set_xlabel("most probable label")
    axes.set_ylabel("given label (sentences)")
    axes.set_title("percent of the given label's sentences", fontsize=10)
    return figure


def _without_frame(figure: "Figure") -> "Figure":
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    return figure


FIGURES: dict[str, Callable[[dict[str, Any]], "Figure"]] = {
    "reliability": reliability_figure,
    "threshold_sweep": sweep_figure,
    "confusion": confusion_figure,
}
"""Name → figure of a report: the file's name in the run directory, and its tag in the trackers."""


class VerifierFigures(Callback):
    """After `test` of a verifier, draws `metrics.json`: PNG files in the run directory, figures in the trackers."""

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not isinstance(pl_module, VerifierModule) or not trainer.is_global_zero or trainer.fast_dev_run:
            return
        directory = Path(trainer.default_root_dir)
        directory.mkdir(parents=True, exist_ok=True)
        report = pl_module.metrics_report()
        for name, draw in FIGURES.items():
            figure = draw(report)
            figure.savefig(directory / f"{name}.png", dpi=150)
            for tracker in trackers(trainer):
                tracker.send(tracker.figure, f"test/{name}", figure, trainer.global_step)
