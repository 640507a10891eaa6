"""Reward-hacking alarms of finished runs: the tool `python main.py alarms`."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from datamodules.files.writing import require_directory, write_json
from lightning_modules.metrics.predictions import PredictionFile, read_predictions
from lightning_modules.metrics.reward_hacking import Alarm, Bounds, check_thresholds, prediction_alarms

ALARMS_FILE = "alarms.json"


def alarms(
    predictions: list[str], output: str | None = None, thresholds: dict[str, Bounds] | None = None
) -> dict[str, Any]:
    """Show the signs of reward hacking in prediction files, one table each.

    Args:
        predictions: files that `test`, `predict` or `score` wrote (`predictions.jsonl`, `rows.jsonl`).
        output: directory for alarms.json; without it there is only the table.
        thresholds: name → [low, high], each a number or null, instead of an alarm's defaults.

    Returns:
        What `alarms.json` holds: by file, its `taxonomy`, `judge`, `num_predictions` and `alarms`.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: no file at all, a malformed line (names file and line), an output that is a file, or thresholds of
            an unknown name.
    """
    if not predictions:
        raise ValueError("No prediction file to look at: give --predictions runs/a/test/predictions.jsonl.")
    if output is not None:
        require_directory(output, ALARMS_FILE)
    check_thresholds(thresholds or {})
    files = [read_predictions(path) for path in predictions]
    found = [prediction_alarms(file.predictions, file.taxonomy, thresholds) for file in files]
    results = {str(file.path): _summary(file, own) for file, own in zip(files, found, strict=True)}
    console = Console()
    for file, own in zip(files, found, strict=True):
        console.print(_table(file, own))
    if output is not None:
        write_json(Path(output) / ALARMS_FILE, results)
        console.print(f"Written: {Path(output) / ALARMS_FILE}", markup=False)
    return results


def _summary(file: PredictionFile, own: list[Alarm]) -> dict[str, Any]:
    return {
        "taxonomy": file.taxonomy.name,
        "judge": file.judge,
        "num_predictions": len(file.predictions),
        "alarms": [{**asdict(alarm), "warns": alarm.warns} for alarm in own],
    }


def _table(file: PredictionFile, own: list[Alarm]) -> Table:
    num_warnings = sum(alarm.warns for alarm in own)
    table = Table(
        title=f"{file.path}: {len(file.predictions)} predictions, judge: {file.judge}, {num_warnings} alarms",
        caption="\n".join(f"⚠ {alarm.name}: {alarm.advice}" for alarm in own if alarm.warns) or None,
        caption_justify="left",
    )
    table.add_column("")
    table.add_column("alarm", no_wrap=True)
    table.add_column("value", justify="right")
    table.add_column("expected", no_wrap=True)
    table.add_column("meaning")
    for alarm in own:
        value = "–" if alarm.value is None else f"{alarm.value:.3f}"
        expected = "" if alarm.expected == "anything" else alarm.expected
        style = "bold red" if alarm.warns else None
        table.add_row("⚠" if alarm.warns else "", alarm.name, value, expected, alarm.meaning, style=style)
    return table
