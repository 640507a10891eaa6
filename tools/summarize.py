"""`python main.py summarize`: finished runs side by side, as a table, `summary.json` and a bar chart."""

from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from callbacks.colours import RUNS
from callbacks.run_files import METRICS_FILE, PARTIAL, RUN_FILE
from datamodules.files.json_files import read_json_object, shown
from datamodules.files.printable import printable
from datamodules.files.writing import write_json
from lightning_modules.metrics.intervals import wilson

METRICS = ("war", "uar", "eea", "epc", "fcr")
GROUNDING = ("grounded", "grounded_fcr")
"""Of tests that knew the truth about their clips; see `lightning_modules.metrics.claims`."""
_HEADINGS = {**{name: name.upper() for name in METRICS}, "grounded_fcr": "grounded\nFCR"}


def summarize(runs: dict[str, str], output: str, test: str = "test") -> None:
    """Compare the test metrics of finished runs.

    Args:
        runs: row name → run directory, e.g. cold_start=runs/demo/cold_start grpo_erv=runs/demo/grpo_erv.
        output: directory for summary.json and summary.png.
        test: directory within each run directory that its `test` command wrote to.

    Raises:
        FileNotFoundError: a run has no metrics.
        ValueError: no runs.
    """
    if not runs:
        raise ValueError("Nothing to compare: give --runs NAME=DIRECTORY [NAME=DIRECTORY ...].")
    rows = {name: _read_row(Path(directory), test) for name, directory in runs.items()}
    directory = Path(output)
    directory.mkdir(parents=True, exist_ok=True)
    write_json(directory / "summary.json", rows)
    _draw(rows, directory / "summary.png")
    _print(rows)
    Console().print(f"Written: {directory / 'summary.json'} and {directory / 'summary.png'}")


def _read_json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing: run `python main.py test` on this run first.")
    return read_json_object(file)


def _number(file: Path, content: dict[str, Any], name: str) -> float | None:
    value = content.get(name, "missing")
    is_known = name == "num_samples" or value is not None  # a share of no clip is null
    if is_known and (isinstance(value, bool) or not isinstance(value, int | float) or value < 0):
        raise ValueError(f"{file}: {name} is {shown(value)}. Expected a number, as this program writes it.")
    return value


def _read_row(run: Path, test: str) -> dict[str, Any]:
    file = run / test / METRICS_FILE
    metrics = _read_json(file)
    grounding = metrics.get("grounding")
    records = [path / RUN_FILE for path in (run, run / test)]
    seconds = [_number(record, _read_json(record), "seconds") for record in records]
    return {
        **{name: _number(file, metrics, name) for name in (*METRICS, "num_samples", "unknown_answers")},
        **{name: _number(file, _figure(file, grounding, name), "value") for name in GROUNDING if grounding is not None},
        "judge": metrics.get("judge"),
        "judge_failures": _number(file, metrics, "judge_failures"),
        PARTIAL: metrics.get(PARTIAL),
        "seconds": round(sum(value or 0.0 for value in seconds), 1),
    }


def _figure(file: Path, grounding: Any, name: str) -> dict[str, Any]:
    figure = grounding.get(name) if isinstance(grounding, dict) else None
    if not isinstance(figure, dict):
        raise ValueError(f"{file}: grounding is {shown(grounding)}. Expected {name} in it, as `test` writes it.")
    return figure


def _error_bar(share: float, num_samples: int) -> tuple[float, float]:
    """How far Wilson's 95 % interval of a share of clips goes down and up from it."""
    low, high = wilson(share * num_samples, num_samples) if num_samples else (share, share)
    return max(share - low, 0.0), max(high - share, 0.0)


def _print(rows: dict[str, dict[str, Any]]) -> None:
    samples = sorted({row["num_samples"] for row in rows.values()})
    judges = sorted({str(row["judge"]) for row in rows.values()})
    title = f"{'/'.join(map(str, samples))} test clips, judge: {', '.join(judges)}"
    table = Table(title=Text(printable(title)), box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    table.add_column("run")
    columns = [*METRICS, *(name for name in GROUNDING if any(name in row for row in rows.values()))]
    for name in (*columns, "seconds"):
        table.add_column(_HEADINGS.get(name, name), justify="right")
    for name, row in rows.items():
        values = ["–" if row.get(metric) is None else f"{row[metric]:.3f}" for metric in columns]
        part = row[PARTIAL]
        shown = name if part is None else f"{name} ({part['batches']} of {part['of']} batches)"
        table.add_row(Text(printable(shown)), *values, f"{row['seconds']:.0f}")
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
        errors = [*zip(*(_error_bar(height, row["num_samples"]) for height in heights), strict=True)]
        places = [j + (i - (len(rows) - 1) / 2) * width for j in range(len(METRICS))]
        labels = ["–" if row[metric] is None else f"{row[metric]:.2f}" for metric in METRICS]
        bars = axes.bar(places, heights, width * 0.95, yerr=errors, capsize=2, label=name, color=RUNS[i % len(RUNS)])
        axes.bar_label(bars, labels, label_type="center", fontsize=8, color="white")
    axes.set_xticks(range(len(METRICS)), [metric.upper() for metric in METRICS])
    axes.set_ylim(0, 1.05)
    axes.set_ylabel("share of test clips")
    first = next(iter(rows.values()))
    axes.set_title(f"{first['num_samples']} test clips, judge: {first['judge']}; bars: 95 % interval", fontsize=10)
    figure.legend(loc="outside lower center", ncols=len(rows), fontsize=9, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=150)
    pyplot.close(figure)
