"""Watching a study: in a terminal a line per running job, in a file a line per start, end and half minute."""

import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from datamodules.files.printable import clock_time, printable
from tools.study.records import Records
from tools.study.runner import Run

_LINE_SECONDS = 30.0
_LAST_LINES = 8
_TAIL_BYTES = 8_000


class StudyScreen:
    """Shows a study while it runs; a context manager.

    Args:
        records: of the study.
        total: number of its jobs.
        console: to write to.
    """

    def __init__(self, records: Records, total: int, console: Console) -> None:
        self.records, self.total, self.console = records, total, console
        self._began = self._last_line = time.monotonic()
        self._live = Live(console=console, refresh_per_second=2, transient=True) if console.is_terminal else None

    def __enter__(self) -> "StudyScreen":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live:
            self._live.stop()

    def changed(self, run: Run) -> None:
        """Print that a job has started or ended; of a failed one, the last lines of its log."""
        log = self.records.log(run.job)
        said = {
            "running": "goes on" if run.goes_on else "starts",
            "done": f"[green]done[/] in {clock_time(run.seconds or 0)}",
            "failed": f"[bold red]failed[/] with status {run.exit_status}; {escape(str(log))} ends with",
            "left out": "[yellow]left out[/]: what it needs failed",
        }[run.status]
        self.console.print(f"{self._elapsed()} {escape(run.job.folder)} {said}", highlight=False, soft_wrap=True)
        if run.status == "failed":
            for line in last_lines(log, _LAST_LINES):
                self.console.print(f"    {line}", markup=False, highlight=False, soft_wrap=True)

    def tick(self, runs: Sequence[Run]) -> None:
        """Show the running jobs."""
        running = [run for run in runs if run.status == "running"]
        counts = Counter(run.status for run in runs)
        summary = f"{self._elapsed()} {counts['done']} of {self.total} jobs done"
        if failed := counts["failed"] + counts["left out"]:
            summary += f", {failed} failed or left out"
        if self._live:
            self._live.update(self._table(running, summary))
        elif time.monotonic() - self._last_line >= _LINE_SECONDS:
            self._last_line = time.monotonic()
            lines = [f"    {run.job.folder}: {self._progress(run)}" for run in running]
            self.console.print("\n".join([summary, *map(escape, lines)]), highlight=False, soft_wrap=True)

    def _table(self, running: Sequence[Run], summary: str) -> Table:
        table = Table(box=box.SIMPLE, show_header=False, padding=(0, 1), title=summary, title_justify="left")
        for run in running:
            table.add_row(
                Text(run.job.folder),
                clock_time(time.monotonic() - run.started),
                Text(self._progress(run)),
                style="cyan",
            )
        return table

    def _progress(self, run: Run) -> str:
        lines = last_lines(self.records.log(run.job), 1)
        return lines[0] if lines else "…"

    def _elapsed(self) -> str:
        return f"[{clock_time(time.monotonic() - self._began)}]".replace("[", "\\[")


def last_lines(log: Path, count: int) -> list[str]:
    """The last lines of a log that say something, as a terminal may show them."""
    if not log.is_file():
        return []
    with log.open("rb") as file:
        file.seek(0, 2)
        file.seek(max(file.tell() - _TAIL_BYTES, 0))
        text = file.read().decode("utf-8", errors="replace")
    lines = [printable(line.split("\r")[-1].strip()) for line in text.replace("\r\n", "\n").split("\n")]
    return [line for line in lines if line][-count:]
