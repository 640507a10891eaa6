"""`python main.py report`: what the model says, and whether to believe it, as one HTML file."""

import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from datamodules.files.writing import require_directory, write_text
from datamodules.synthetic.truth import ClipTruth, read_truth
from lightning_modules.metrics.claims import prediction_truths
from lightning_modules.metrics.intervals import RATES
from lightning_modules.metrics.predictions import read_predictions
from lightning_modules.metrics.rollouts import read_rollouts
from tools.report.data import Run, check_runs, page_data, run_names
from tools.report.media import ClipMedia, Pictures, clip_media, draw_all, find_media
from tools.report.page_writer import ROLLOUT_SCRIPTS, build_page
from tools.report.rollouts import choose_groups, rollouts_data

REPORT_FILE = "report.html"


def report(
    predictions: list[str] | None = None,
    *,
    output: str,
    rollouts: str | None = None,
    names: list[str] | None = None,
    title: str | None = None,
    num_frames: int = 4,
    embed_media: bool = False,
    num_workers: int | None = None,
    timeout_seconds: float = 60.0,
    truth: str | None = None,
    max_groups: int = 1000,
) -> Path:
    """Write `report.html`: figures with intervals, alarms, confusion matrices, and a page for each clip.

    With `rollouts` it shows how a run of stage 3 went: curves, each group with its completions, a clip over training,
    and a comparison of steps.

    The file needs no network. Frames are inside it. Media files are not, but linked relative to it, unless
    `embed_media` is set: keep them where they are, or the player says that they are gone.

    Args:
        predictions: predictions.jsonl or rows.jsonl files of one taxonomy.
        output: directory for report.html.
        rollouts: directory of a run of stage 3, in place of `predictions`.
        names: of the runs, one for each file; taken from the files' folders if not given.
        title: of the page; null: what it is about.
        num_frames: frames shown of each clip; 0 decodes nothing.
        embed_media: put media files of up to 4 MiB that decode into the page, so that it can be given away alone.
        num_workers: processes that decode; null takes one per CPU.
        timeout_seconds: longest time for one clip; its pictures are left out if the decoder takes longer.
        truth: the synthetic.json of the generated corpus that the clips come from: each sentence is marked as true of
            its clip, untrue, or unsupported.
        max_groups: of `rollouts`, that one can look at in the page, each a clip and its completions. Curves and
            comparison count all.

    Returns:
        The file.

    Raises:
        FileNotFoundError: a prediction file is missing, or a run has no rollouts.
        ValueError: no file, or both predictions and rollouts, a malformed line or a repeated id (names file and line),
            different taxonomies or targets, names that do not fit the files, clips without truth or with that of
            another corpus, or an argument out of its range.
        ImportError: FFmpeg's libraries are missing.
    """
    workers = len(os.sched_getaffinity(0)) if num_workers is None else num_workers
    if num_frames < 0 or workers < 1 or timeout_seconds <= 0 or max_groups < 1:
        raise ValueError(
            f"Got num_frames={num_frames}, num_workers={num_workers}, timeout_seconds={timeout_seconds}, "
            f"max_groups={max_groups}. Expected num_frames >= 0, num_workers >= 1 (or null), timeout_seconds > 0, "
            "max_groups >= 1."
        )
    require_directory(output, REPORT_FILE)
    decode = partial(
        _media, Path(output), num_frames=num_frames, embed=embed_media, workers=workers, timeout_seconds=timeout_seconds
    )
    file = Path(output) / REPORT_FILE
    if rollouts is not None:
        if predictions or names or truth:
            raise ValueError("A report of --rollouts is a page of its own: leave --predictions, --names, --truth out.")
        run = read_rollouts(rollouts)
        shown = choose_groups(run.groups, max_groups)
        data = rollouts_data(title or "Rollouts", run, shown, decode({group.id: [group.media] for group in shown}))
        write_text(file, [build_page(data, scripts=ROLLOUT_SCRIPTS)])
        _print_notes(data["notes"], file)
        return file
    runs = _read(predictions or (), names)
    truths = None if truth is None else _truths(runs, truth)
    named: dict[str, list[str]] = {}
    for own in runs:
        for prediction in own.file.predictions:
            named.setdefault(prediction.id, []).extend([prediction.media] if prediction.media else [])
    media = decode(named)
    data = page_data(title or "Explanations", runs, media, truths)
    write_text(file, [build_page(data)])
    _print(data, media, file)
    return file


def _read(predictions: Sequence[str], names: Sequence[str] | None) -> list[Run]:
    if not predictions:
        raise ValueError("Nothing to report: give --predictions FILE [FILE ...], or --rollouts RUN.")
    if names is not None and len(names) != len(predictions):
        raise ValueError(f"Got {len(names)} names ({', '.join(names)}) for {len(predictions)} prediction files.")
    files = [read_predictions(path) for path in predictions]
    runs = [Run(*pair) for pair in zip(names or run_names([file.path for file in files]), files, strict=True)]
    check_runs(runs)
    return runs


def _truths(runs: Sequence[Run], path: str) -> dict[str, ClipTruth]:
    """Clip id → what it shows."""
    truth = read_truth(path)
    found = {}
    for run in runs:
        clips = prediction_truths(run.file.predictions, run.file.path, truth)
        found |= {prediction.id: clip for prediction, clip in zip(run.file.predictions, clips, strict=True)}
    return found


def _media(
    directory: Path,
    named: Mapping[str, Sequence[str]],
    *,
    num_frames: int,
    embed: bool,
    workers: int,
    timeout_seconds: float,
) -> dict[str, ClipMedia]:
    """Clip id → pictures and player; of several files that are named for a clip, the first that is at hand."""
    found = {identifier: next(filter(None, map(find_media, paths)), None) for identifier, paths in named.items()}
    present = list(dict.fromkeys(path for path in found.values() if path is not None))
    drawn = {path: Pictures(None, None, ()) for path in present}
    if num_frames and present:
        columns = (TextColumn("decoding clips"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True)) as progress:
            task = progress.add_task("", total=len(present))
            drawn = draw_all(present, num_frames, workers, timeout_seconds, lambda: progress.advance(task))
    return {
        identifier: clip_media(found[identifier] or next(iter(paths), None), drawn, directory, embed)
        for identifier, paths in named.items()
    }


def _print(data: dict[str, Any], media: dict[str, ClipMedia], file: Path) -> None:
    taxonomy = data["taxonomy"]["name"]
    table = Table(title=f"{len(data['clips'])} clips ({taxonomy}), in percent, 95 % intervals", box=box.SIMPLE_HEAD)
    table.add_column("run", overflow="fold")
    for name in RATES:
        table.add_column(name.upper(), justify="right", no_wrap=True)
    for run in data["runs"]:
        warning = sum(alarm["warns"] for alarm in run["alarms"])
        about = f"{escape(run['name'])}\n{run['num_clips']} clips\n{warning} alarm{'' if warning == 1 else 's'}"
        table.add_row(about, *(_interval(run["rates"][name]) for name in RATES))
    Console().print(table)
    example = next(((own, notes.notes[0]) for own, notes in media.items() if notes.notes), None)
    first = [] if example is None else [f"The first is {example[0]!r}. {example[1]}"]
    _print_notes([*data["notes"], *first], file)


def _print_notes(notes: Sequence[str], file: Path) -> None:
    console = Console(highlight=False, markup=False)
    for note in notes:
        console.print(note)
    console.print(f"Written: {file} ({file.stat().st_size / 1e6:.1f} MB)", soft_wrap=True)


def _interval(interval: dict[str, float] | None) -> str:
    if interval is None:
        return "–"
    value, low, high = (100 * interval[end] for end in ("value", "low", "high"))
    return f"{value:.1f}\n{low:.1f}–{high:.1f}"
