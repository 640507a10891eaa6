"""Finished runs side by side: a table on screen, `summary.json`, and a bar chart."""

import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from callbacks.prediction_writer import METRICS_FILE
from callbacks.run_record import PARTIAL, RUN_FILE

METRICS = ("war", "uar", "eea", "epc", "fcr")
_COLOURS = ("#9aa5b1", "#e0a458", "#3a7ca5", "#6a994e", "#bc4b51", "#7a5195")


def summarize(runs: dict[str, str], output: str, test: str = "test") -> None:
    """Compare the test metrics of finished runs.

    Args:
        runs: row name → run directory, e.g. '{cold_start: runs/demo/cold_start, grpo_erv: runs/demo/grpo_erv}'.
        output: directory for summary.json and summary.png.
        test: directory within each run directory that its `test` command wrote to.

    Raises:
        FileNotFoundError: a run has no metrics.
        ValueError: no runs.
    """
    if not runs:
        raise ValueError("Nothing to compare: give --runs '{name: directory, ...}'.")
    rows = {name: _read_row(Path(directory), test) for name, directory in runs.items()}
    directory = Path(output)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "summary.json").write_text(json.dumps(rows, indent=2) + "\n")
    _draw(rows, directory / "summary.png")
    _print(rows)
    Console().print(f"Written: {directory / 'summary.json'} and {directory / 'summary.png'}")


def _read_json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing: run `python main.py test` on this run first.")
    return json.loads(file.read_text())


def _read_row(run: Path, test: str) -> dict[str, Any]:
    metrics = _read_json(run / test / METRICS_FILE)
    seconds = {stage: _read_json(path / RUN_FILE)["seconds"] for stage, path in (("fit", run), ("test", run / test))}
    return {
        **{name: metrics[name] for name in METRICS},
        "num_samples": metrics["num_samples"],
        "judge": metrics["judge"],
        "unknown_answers": metrics["unknown_answers"],
        "judge_failures": metrics["judge_failures"],
        PARTIAL: metrics.get(PARTIAL),
        "seconds": round(sum(seconds.values()), 1),
    }


def _half_width(share: float, num_samples: int) -> float:
    """Half a 95 % normal interval of a share of clips."""
    return 1.96 * (share * (1 - share) / num_samples) ** 0.5


def _print(rows: dict[str, dict[str, Any]]) -> None:
    samples = sorted({row["num_samples"] for row in rows.values()})
    judges = sorted({str(row["judge"]) for row in rows.values()})
    table = Table(title=f"{'/'.join(map(str, samples))} test clips, judge: {', '.join(judges)}")
    table.add_column("run")
    for name in (*METRICS, "seconds"):
        table.add_column(name.upper() if name in METRICS else name, justify="right")
    for name, row in rows.items():
        values = ["–" if row[metric] is None else f"{row[metric]:.3f}" for metric in METRICS]
        part = row[PARTIAL]
        shown = name if part is None else f"{name} ({part['batches']} of {part['of']} batches)"
        table.add_row(shown, *values, f"{row['seconds']:.0f}")
    Console().print(table)


def _draw(rows: dict[str, dict[str, Any]], file: Path) -> None:
    # Matplotlib takes a second to import: only this function needs it. "Agg" draws without a display.
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4), layout="constrained")
    width = 0.8 / len(rows)
    for i, (name, row) in enumerate(rows.items()):
        heights = [row[metric] or 0.0 for metric in METRICS]
        errors = [_half_width(height, row["num_samples"]) for height in heights]
        places = [j + (i - (len(rows) - 1) / 2) * width for j in range(len(METRICS))]
        labels = ["–" if row[metric] is None else f"{row[metric]:.2f}" for metric in METRICS]
        bars = axes.bar(places, heights, width * 0.95, yerr=errors, capsize=2, label=name, color=_COLOURS[i % 6])
        axes.bar_label(bars, labels, label_type="center", fontsize=8, color="white")
    axes.set_xticks(range(len(METRICS)), [metric.upper() for metric in METRICS])
    axes.set_ylim(0, 1.05)
    axes.set_ylabel("share of test clips")
    first = next(iter(rows.values()))
    axes.set_title(
        f"{first['num_samples']} test clips, judge: {first['judge']}; bars: 95 % normal interval", fontsize=10
    )
    figure.legend(loc="outside lower center", ncols=len(rows), fontsize=9, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=150)
    pyplot.close(figure)
