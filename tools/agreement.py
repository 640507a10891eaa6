"""`python main.py agreement`: how far two judges of the same rationales agree, and where they differ."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.table import Table

from callbacks.inspection.confusion import ConfusionMatrix, draw_confusion
from datamodules.emotions import Taxonomy, get_taxonomy
from datamodules.files.printable import printable
from datamodules.files.writing import require_directory, write_json
from lightning_modules.judges.file import FileJudge, same_words
from lightning_modules.metrics.agreement import Agreement, judge_agreement, verdict_counts
from lightning_modules.metrics.intervals import LEVEL, Interval
from lightning_modules.metrics.predictions import INVALID, read_predictions
from lightning_modules.metrics.records import read_records
from tools.judge import rationale_of

_HEAD = 4  # letters of an emotion over a column: they tell all emotions apart, and twelve columns fit a screen
_AXIS = 32  # characters of a judge's name along an axis; the end of a path tells judges apart


@dataclass(frozen=True)
class JudgedFile:
    """What a judge says of clips.

    Args:
        path: the file.
        judge: name of the judge.
        verdicts: id → canonical emotion; None: invalid.
        rationales: id → what was judged; None: not known.
    """

    path: str
    judge: str
    verdicts: dict[str, str | None]
    rationales: dict[str, str | None]


def _first_line(path: str) -> dict[str, Any]:
    """`sentences`, which only predictions have, and `taxonomy` of a file; None each where it has none."""
    return read_records(path, [], ["sentences", "taxonomy"])[0].fields


def find_taxonomy(paths: Sequence[str], name: str | None) -> Taxonomy:
    """The taxonomy of files of verdicts or predictions.

    Args:
        paths: the files; `read_judged` refuses those of another taxonomy.
        name: given beside them, or None.

    Raises:
        ValueError: neither given nor named in a file, or no such taxonomy.
    """
    named = [name, *(_first_line(path)["taxonomy"] for path in paths)]
    known = [own for own in named if own is not None]
    if not known:
        raise ValueError(f"Neither {' nor '.join(paths)} names its taxonomy. Give --taxonomy.")
    return get_taxonomy(str(known[0]))


def read_judged(path: str, taxonomy: Taxonomy) -> JudgedFile:
    """The verdicts in a file of verdicts, or in a file of predictions with `judged`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a malformed line or a repeated id (names file and line), another taxonomy, or predictions without a
            judge.
    """
    if _first_line(path)["sentences"] is None:
        judge = FileJudge(path)
        ids = list(judge.rationales)
        verdicts = dict(zip(ids, judge.verdicts(ids, taxonomy), strict=True))
        return JudgedFile(path, judge.name, verdicts, judge.rationales)
    file = read_predictions(path)
    if file.taxonomy != taxonomy:
        raise ValueError(f"{path} is in the taxonomy {file.taxonomy.name}; expected {taxonomy.name}.")
    if file.judge is None:
        raise ValueError(f"{path} has no verdicts. Judge its rationales first: `python main.py judge`.")
    predictions = file.predictions
    return JudgedFile(
        path,
        printable(file.judge),
        {own.id: own.judged for own in predictions},
        {own.id: rationale_of(own, taxonomy) for own in predictions},
    )


def shared_ids(first: JudgedFile, second: JudgedFile, intersect: bool) -> list[str]:
    """The clips that both judges read, in the order of the first file.

    Args:
        first: of one judge.
        second: of the other.
        intersect: leave clips that only one file has out, instead of refusing them.

    Raises:
        ValueError: a clip is in one file only (without `intersect`), no clip is in both, or the judges read different
            rationales of a clip.
    """
    ids = [identifier for identifier in first.verdicts if identifier in second.verdicts]
    counts = f"{first.path}: {len(first.verdicts)} clips, {second.path}: {len(second.verdicts)}, in both: {len(ids)}"
    if not ids:
        raise ValueError(f"No clip is in both files ({counts}).")
    if not intersect and not len(ids) == len(first.verdicts) == len(second.verdicts):
        raise ValueError(
            f"The files are over different clips ({counts}). Have both judges read the same clips, or leave the others "
            "out with --intersect."
        )
    for identifier in ids:
        if not same_words(first.rationales[identifier], second.rationales[identifier]):
            raise ValueError(
                f"Clip {identifier!r}: the judges read different rationales. Expected two judges of the same "
                "completions."
            )
    return ids


def agreement(
    first: str,
    second: str,
    output: str,
    taxonomy: str | None = None,
    intersect: bool = False,
    num_resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Any]:
    """Compare two judges of the same rationales: Cohen's kappa with its 95 % interval, and a confusion matrix.

    Writes `agreement.json` and `agreement.png` into the output directory. An invalid verdict agrees with nothing; kappa
    is over the clips that both judges give a class.

    Args:
        first: verdicts of `judge` (or anyone's `{"id", "emotion"}` per line), or predictions with their judge's
            verdicts.
        second: likewise, of the other judge.
        output: directory for agreement.json and agreement.png.
        taxonomy: the classes, for files that do not name them.
        intersect: leave clips that only one file has out, instead of refusing the files.
        num_resamples: bootstrap resamples.
        seed: of the resamples; the same seed gives the same intervals.

    Returns:
        What `agreement.json` holds.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a malformed line or a repeated id (names file and line), predictions without a judge, no or
            different taxonomies, different clips, or different rationales of a clip.
    """
    require_directory(output, "agreement.json and agreement.png")
    classes = find_taxonomy([first, second], taxonomy)
    files = [read_judged(path, classes) for path in (first, second)]
    ids = shared_ids(*files, intersect)
    counts = verdict_counts(*([file.verdicts[identifier] for identifier in ids] for file in files), classes)
    own = judge_agreement(counts, num_resamples, seed)
    matrix = _matrix(counts, files, classes)
    result = {
        "taxonomy": classes.name,
        **{name: _judge_figures(file, ids) for name, file in zip(("first", "second"), files, strict=True)},
        "num_clips": len(ids),
        "num_valid": int(counts[:-1, :-1].sum()),
        "level": LEVEL,
        "num_resamples": num_resamples,
        "seed": seed,
        **asdict(own),
        "confusion_matrix": {
            "rows": [*classes.classes, INVALID],
            "columns": [*classes.classes, INVALID],
            "counts": counts.tolist(),
        },
    }
    write_json(Path(output) / "agreement.json", result)
    _draw(matrix, own, Path(output) / "agreement.png")
    _print(result, matrix, own)
    Console().print(f"Written: {output}/agreement.json and {output}/agreement.png", markup=False, soft_wrap=True)
    return result


def _judge_figures(file: JudgedFile, ids: Sequence[str]) -> dict[str, Any]:
    return {
        "path": file.path,
        "judge": file.judge,
        "dropped": len(file.verdicts) - len(ids),
        "invalid": sum(file.verdicts[identifier] is None for identifier in ids),
    }


def _matrix(counts: NDArray[np.int64], files: Sequence[JudgedFile], taxonomy: Taxonomy) -> ConfusionMatrix:
    # Different names, as invalid does not agree with invalid.
    rows, columns = ((*taxonomy.classes, f"{INVALID} ({which})") for which in ("first", "second"))
    first, second = (own if len(own) <= _AXIS else f"…{own[1 - _AXIS :]}" for own in (file.judge for file in files))
    return ConfusionMatrix("judges", rows, columns, counts, first, second, "agreement")


def _draw(matrix: ConfusionMatrix, own: Agreement, path: Path) -> None:
    figure = draw_confusion(matrix)
    if own.kappa is not None:
        (axes,) = figure.axes
        axes.set_title(f"κ {own.kappa.value:.2f}, {axes.get_title()}", fontsize=12)
    figure.savefig(path, dpi=150)


def _print(result: dict[str, Any], matrix: ConfusionMatrix, own: Agreement) -> None:
    console = Console()
    for which in ("first", "second"):
        judge = result[which]
        dropped = f", {judge['dropped']} clips dropped (not in both files)" if judge["dropped"] else ""
        text = f"{which}: {judge['judge']} ({judge['path']}), {judge['invalid']} invalid{dropped}."
        console.print(text, markup=False, soft_wrap=True)
    table = Table(title=f"{result['num_clips']} clips: first judge down, second across", box=box.SIMPLE_HEAD, padding=0)
    table.add_column("", no_wrap=True)
    for column in matrix.columns:
        table.add_column(column[:_HEAD], justify="right", min_width=_HEAD, no_wrap=True)
    for i, row in enumerate(matrix.counts.tolist()):
        name = INVALID if i == len(row) - 1 else matrix.rows[i]
        cells = [f"[bold]{n or '·'}[/]" if i == j and name != INVALID else str(n or "") for j, n in enumerate(row)]
        table.add_row(name, *cells, end_section=i == len(row) - 2)
    console.print(table)
    kappa = "not defined" if own.kappa is None else _with_interval(own.kappa, 1, 3)
    console.print(
        f"Agreement: {_with_interval(own.agreement, 100, 1)} percent of all clips. Cohen's kappa over the "
        f"{result['num_valid']} clips with two valid verdicts: {kappa}. In brackets: 95 % bootstrap intervals.",
        markup=False,
    )


def _with_interval(interval: Interval, factor: float, digits: int) -> str:
    low, value, high = (f"{factor * number:.{digits}f}" for number in (interval.low, interval.value, interval.high))
    return f"{value} [{low}, {high}]"
