"""`python main.py verifier_effect`: how often the verifier's labels decide a reward (see `label_readings`)."""

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from datamodules.files.writing import write_json
from lightning_modules.metrics.predictions import read_predictions


def verifier_effect(predictions: dict[str, str], output: str) -> dict[str, Any]:
    """How often another reading of the verifier's labels would change explanation rewards, from prediction files.

    Writes one JSON file: per run what `reward_effect` returns.

    Args:
        predictions: name → predictions.jsonl or rows.jsonl, e.g. '{cold_start: a.jsonl, grpo_erv: b.jsonl}'.
        output: the JSON file to write.

    Returns:
        What the file holds.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: no file given, a malformed line (names file and line), or a file in which no clip has both a target
            and a verifier's probabilities.
    """
    from lightning_modules.metrics.reward_effect import reward_effect  # with torch: `--help` does without

    if not predictions:
        raise ValueError("Expected at least one run: give --predictions NAME=FILE [NAME=FILE ...].")
    files = {name: read_predictions(path) for name, path in predictions.items()}
    result = {name: reward_effect(file.predictions, file.taxonomy) for name, file in files.items()}
    for name, effect in result.items():
        if not effect["num_clips"]:
            raise ValueError(
                f"{predictions[name]}: none of the {effect['num_left_out']} clips has a target and a verifier's "
                "probabilities. Score the completions with `python main.py score --verifier DIR` first."
            )
    write_json(Path(output), result)
    console = Console()
    for name, effect in result.items():
        console.print(_table(name, effect))
        margins = ", ".join(f"±{m}: {_percent(share)}" for m, share in effect["within_margin"].items())
        console.print(f"Sentences whose label set an error of a probability can change, in percent: {margins}.")
        if effect["num_left_out"]:
            console.print(
                f"[bold yellow]Warning:[/] {effect['num_left_out']} clips left out: no target or no verifier."
            )
    console.print(f"Written: {output}", markup=False, soft_wrap=True)
    return result


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f}"


def _table(name: str, effect: dict[str, Any]) -> Table:
    table = Table(title=escape(f"{name}: {effect['num_clips']} clips, {effect['num_sentences']} sentences, in percent"))
    table.add_column("labels read with", no_wrap=True)
    for header in ("rewards\nchanged", "mean\nchange", "mean\n|change|", "relations\nchanged"):
        table.add_column(header, justify="right")
    for reading, own in effect["readings"].items():
        table.add_row(
            reading.replace("_", " "),
            _percent(own["clips_changed"]),
            f"{round(100 * own['mean_change'], 1) + 0.0:+.1f}",  # + 0.0: no "-0.0"
            _percent(own["mean_absolute_change"]),
            _percent(own["sentences_changed"]),
        )
    return table
