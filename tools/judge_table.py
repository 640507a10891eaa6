"""`python main.py judges`: EEA, EPC and FCR of runs by several judges, side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from datamodules.files.writing import require_directory, write_json
from lightning_modules.judges.file import FileJudge
from lightning_modules.metrics.agreement import judge_agreement, verdict_counts
from lightning_modules.metrics.intervals import LEVEL, Interval, rate_intervals
from lightning_modules.metrics.predictions import PredictionFile, read_predictions
from tools.judge import rationale_of

JUDGED = ("eea", "epc", "fcr")


def judges(predictions: dict[str, str], verdicts: dict[str, list[str]], output: str) -> dict[str, Any]:
    """Show EEA, EPC and FCR of runs by several judges, with 95 % intervals and the judges' agreement.

    Writes `judges.json` into the output directory. Each judge's figures are over the clips that it has judged.

    Args:
        predictions: name → predictions.jsonl or rows.jsonl, e.g. accuracy=a.jsonl erv=b.jsonl; the judge of the
            file, if it has one, comes first.
        verdicts: name → files of `judge`, of people (`rate`) or of anyone's `{"id", "emotion"}` lines, e.g. '{accuracy:
            [a_qwen.jsonl], erv: [b_qwen.jsonl, b_anna.jsonl]}'.
        output: directory for judges.json.

    Returns:
        What `judges.json` holds: by run and judge `num_clips`, `invalid`, the rates, and Cohen's `kappa` with the run's
        first judge.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: no run, verdicts for none of them, a run without any judge, two judges of one name, a malformed line
            (names file and line), or verdicts on other clips or other rationales.
    """
    if not predictions:
        raise ValueError("There is no run to judge: give --predictions NAME=FILE.")
    if unknown := [name for name in verdicts if name not in predictions]:
        raise ValueError(f"There are verdicts for {', '.join(unknown)}; expected runs of {', '.join(predictions)}.")
    require_directory(output, "judges.json")
    runs = {name: read_predictions(path) for name, path in predictions.items()}
    result = {
        "level": LEVEL,
        "runs": {name: _run(name, file, verdicts.get(name, [])) for name, file in runs.items()},
    }
    write_json(Path(output) / "judges.json", result)
    _print(result["runs"])
    Console().print(f"Written: {Path(output) / 'judges.json'}", markup=False)
    return result


def _run(name: str, file: PredictionFile, paths: Sequence[str]) -> dict[str, Any]:
    found: dict[str, dict[str, str | None]] = {}
    if file.judge is not None:
        found[file.judge] = {own.id: own.judged for own in file.predictions}
    rationales = {own.id: rationale_of(own, file.taxonomy) for own in file.predictions}
    for path in paths:
        judge = FileJudge(path)
        if judge.name in found:
            raise ValueError(f"{name} has two judges of the name {judge.name!r}; the second is {path}. Leave one out.")
        # People judge some of the clips.
        ids = [identifier for identifier in rationales if identifier in judge.rationales] or list(rationales)
        verdicts = judge.verdicts(ids, file.taxonomy, [rationales[identifier] for identifier in ids])
        found[judge.name] = dict(zip(ids, verdicts, strict=True))
    if not found:
        raise ValueError(f"{name} has no judge: {file.path} has none, and there are no verdicts for it.")
    first = next(iter(found.values()))
    return {judge: _figures(file, own, first) for judge, own in found.items()}


def _figures(
    file: PredictionFile, verdicts: Mapping[str, str | None], first: Mapping[str, str | None]
) -> dict[str, Any]:
    judged = [replace(own, judged=verdicts[own.id]) for own in file.predictions if own.id in verdicts]
    rates = rate_intervals(judged, file.taxonomy, judged=True)
    both = [identifier for identifier in verdicts if identifier in first and verdicts is not first]
    counts = verdict_counts([first[own] for own in both], [verdicts[own] for own in both], file.taxonomy)
    kappa = judge_agreement(counts).kappa if both else None
    return {
        "num_clips": len(judged),
        "invalid": sum(verdict is None for verdict in verdicts.values()),
        **{rate: asdict(rates[rate]) if rate in rates else None for rate in JUDGED},
        "kappa": None if kappa is None else asdict(kappa),
    }


def _print(runs: dict[str, dict[str, dict[str, Any]]]) -> None:
    table = Table(
        title="Percent, with 95 % intervals; kappa with the first judge",
        box=box.SIMPLE_HEAD,
        collapse_padding=True,
        pad_edge=False,
    )
    table.add_column("run", overflow="fold")
    judges = list(dict.fromkeys(judge for own in runs.values() for judge in own))
    for header in ("judge", "clips", *map(str.upper, JUDGED), "invalid", "kappa"):
        table.add_column(header, justify="right", no_wrap=True)
    for name, own in runs.items():
        for i, (judge, figures) in enumerate(own.items()):
            cells = [str(figures["num_clips"]), *(_shown(figures[rate], 100) for rate in JUDGED)]
            cells += [str(figures["invalid"]), "" if i == 0 else _shown(figures["kappa"], 1)]
            table.add_row("" if i else escape(name), str(1 + judges.index(judge)), *cells)
        table.add_section()
    console = Console()
    console.print(table)
    for number, judge in enumerate(judges, 1):  # whose names may be long paths
        console.print(f"Judge {number}: {judge}", markup=False, highlight=False, soft_wrap=True)


def _shown(interval: dict[str, float] | None, scale: int) -> str:
    if interval is None:
        return "–"
    own = Interval(**interval)
    digits = 1 if scale == 100 else 2
    value, low, high = (f"{scale * end:.{digits}f}" for end in (own.value, own.low, own.high))
    return f"{value}\n{low}–{high}"
