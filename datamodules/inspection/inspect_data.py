"""`python main.py inspect_data`: is a corpus what it should be, before days of training are spent on it."""

import os
import sys
from json import dumps
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from datamodules.clip_source import ClipSource
from datamodules.files.writing import write_text
from datamodules.inspection.checks import CheckCache, ClipCheck, check_clips
from datamodules.inspection.corpus_report import Checks, Rows, build_report
from datamodules.inspection.screen import print_report
from datamodules.manifest import Manifest

REPORT_FILE = "report.json"
CHECKS_FILE = "checks.jsonl"
SHEET_FILE = "contact_sheet.png"


def inspect_data(
    data: ClipSource,
    output: str | None = None,
    json: bool = False,
    decode: bool = True,
    num_workers: int | None = None,
    clips_per_class: int = 3,
    seed: int = 0,
    timeout_seconds: float = 60.0,
    strict: bool = False,
) -> dict[str, Any]:
    """Check a corpus: counts beside the published ones, label errors, missing, surplus and broken files, overlaps.

    Every clip of every split is decoded once as training decodes it. What was found of a file is kept in
    `checks.jsonl`: a later run, also after a killed one, decodes only new and changed files.

    Args:
        data: the corpus, configured as for training; e.g. `-c configs/data/dfew.yaml`.
        output: directory of report.json, checks.jsonl and contact_sheet.png; null takes `runs/inspect/` + the corpus'
            name, and that of the table where it is one.
        json: print the report as JSON, and nothing else, on standard output.
        decode: decode the clips; false looks at label files and file names alone, and draws no contact sheet.
        num_workers: processes that decode; null takes one per CPU.
        clips_per_class: clips of each class on the contact sheet; 0 draws none.
        seed: of the choice of these clips.
        timeout_seconds: longest time for one clip; a decoder that takes longer is stopped, and the clip counts as
            undecodable.
        strict: exit with status 1 when there is an error or a warning among the findings, but not for mere notes.

    Returns:
        The report; see `datamodules.inspection.corpus_report.build_report`.

    Raises:
        SystemExit: status 1, under `strict`, or with a message when Ctrl-C is pressed.
        ValueError: an argument is out of its range, or there is nothing to inspect.
    """
    workers = len(os.sched_getaffinity(0)) if num_workers is None else num_workers
    if workers < 1 or clips_per_class < 0 or timeout_seconds <= 0:
        raise ValueError(
            f"Got num_workers={num_workers}, clips_per_class={clips_per_class}, timeout_seconds={timeout_seconds}. "
            "Expected num_workers >= 1 (or null), clips_per_class >= 0, timeout_seconds > 0."
        )
    rows, problems = _read(data)
    of_table = [data.path.stem] if isinstance(data, Manifest) else []
    directory = Path("runs/inspect", data.name, *of_table) if output is None else Path(output)
    directory.mkdir(parents=True, exist_ok=True)
    checks, num_known = None, 0
    if decode:
        paths = dict.fromkeys(record.media for records in rows.values() for record in records if record.media)
        cache = CheckCache(directory / CHECKS_FILE, data.media)
        try:
            found, num_known = check_clips(paths, data.media, cache, workers, timeout_seconds)
            checks = _with_lacks(found, rows)
        except KeyboardInterrupt:
            message = f"Stopped. {cache.path} keeps what was checked; the same command goes on from there."
            raise SystemExit(message) from None
    report = build_report(data, rows, problems, checks, num_known)
    text = dumps(report, indent=2, ensure_ascii=False)
    written = [directory / REPORT_FILE]
    write_text(written[0], [text])
    if checks is not None and clips_per_class:
        from datamodules.inspection.contact_sheet import draw_contact_sheet  # it decodes, with torch

        sheet = directory / SHEET_FILE
        written.append(draw_contact_sheet(sheet, data, rows, checks, clips_per_class, seed))
    if json:
        sys.stdout.write(text + "\n")
    else:
        console = Console()
        print_report(report, console)
        console.print(Text(f"Written: {' and '.join(map(str, written))}"), soft_wrap=True)
    if strict and any(finding["severity"] != "note" for finding in report["findings"]):
        raise SystemExit(1)
    return report


def _with_lacks(checks: Checks, rows: Rows) -> Checks:
    """The checks, those failed whose file has no pictures or no sound where the corpus needs them."""
    records = {record.media: record for own in rows.values() for record in own}
    lacks = {
        path: records[path].lack(check.num_frames is not None, check.peak is not None)
        for path, check in checks.items()
        if check.failure is None
    }
    return {path: ClipCheck(lacks[path]) if lacks.get(path) else check for path, check in checks.items()}


def _read(data: ClipSource) -> tuple[Rows, list[str]]:
    """The rows of the splits, and what was refused of them. `predict` is left out where it is the test split."""
    data.problems = []
    try:
        rows = data.read_splits()
    except (FileNotFoundError, ValueError) as error:
        raise ValueError("\n".join([*dict.fromkeys(data.problems), str(error)])) from error
    return {s: r for s, r in rows.items() if s != "predict" or r != rows.get("test")}, data.problems
