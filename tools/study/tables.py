"""The tables of a study, once for the terminal, for Markdown and for the page."""

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from datamodules.files.printable import printable
from lightning_modules.metrics.intervals import RATES
from tools.study.figures import Arms, Difference, spread

Cell = Sequence[str]
"""Its lines."""


@dataclass(frozen=True)
class StudyTable:
    """A table.

    Args:
        title: over it.
        header: of the columns.
        rows: a cell per column.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]

    def show(self, console: Console) -> None:
        """Print it to a terminal."""
        table = Table(title=Text(printable(self.title)), box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
        for i, name in enumerate(self.header):
            table.add_column(Text(name), justify="right" if i else "left", no_wrap=not i)
        for row in self.rows:
            table.add_row(*(Text(printable("\n".join(cell), multiline=True)) for cell in row))
        console.print(table)

    def markdown(self) -> list[str]:
        """Its lines in Markdown."""
        lines = [["<br>".join(_in_markdown(line) for line in cell) for cell in row] for row in self.rows]
        head = [list(self.header), ["---", *("--:" for _ in self.header[1:])]]
        return [f"## {self.title}", "", *(f"| {' | '.join(row)} |" for row in [*head, *lines]), ""]

    def html(self) -> str:
        """The same as HTML; no text of it can become markup."""
        head = "".join(f"<th scope=col>{html.escape(name)}</th>" for name in self.header)
        rows = "".join(
            f"<tr><th scope=row>{html.escape(' '.join(row[0]))}</th>"
            + "".join(f"<td>{'<br>'.join(map(html.escape, cell))}</td>" for cell in row[1:])
            + "</tr>"
            for row in self.rows
        )
        return f"<h2>{html.escape(self.title)}</h2><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _in_markdown(text: str) -> str:
    return text.replace("|", "\\|")


def heading(figure: str) -> str:
    """A figure's name over a column."""
    return figure.upper() if figure in RATES else figure.replace("_", " ").replace("fcr", "FCR")


def means_table(arms: Arms, figures: Sequence[str], missing: Mapping[str, int]) -> StudyTable:
    """Each arm's figures: the mean over its seeds, and their standard deviation.

    Args:
        arms: of the study.
        figures: columns.
        missing: arm → number of seeds without a result.
    """
    rows = []
    for name, tests in arms.items():
        cells: list[Cell] = []
        for figure in figures:
            mean, deviation = spread([own.figures.get(figure) for own in tests.values()]) if tests else (None, None)
            shown = "–" if mean is None else f"{mean:.3f}"
            cells.append([shown] if deviation is None else [shown, f"± {deviation:.3f}"])
        lacks = [f"(without {missing[name]})"] if missing.get(name) else []
        rows.append([[name, *lacks], *cells])
    seeds = max(len(tests) for tests in arms.values())
    title = f"Mean ± standard deviation over {seeds} seeds" if seeds > 1 else "One seed"
    return StudyTable(title, ["arm", *map(heading, figures)], rows)


def differences_table(
    baseline: str, differences: Mapping[str, Mapping[str, Difference]], figures: Sequence[str]
) -> StudyTable:
    """Each arm less a baseline, in percentage points: difference, interval, p adjusted over the arms."""
    rows = []
    counts = {name: min((one.num_seeds for one in own.values()), default=0) for name, own in differences.items()}
    for name, own in differences.items():
        cells = [_difference(own[figure]) if figure in own else ["–"] for figure in figures]
        fewer = [f"({counts[name]} of {max(counts.values())} seeds)"] if counts[name] < max(counts.values()) else []
        # One seed has no spread over seeds: its interval is another one than the title's.
        alone = ["(clips' interval)"] if fewer and counts[name] == 1 else []
        rows.append([[name, *fewer, *alone], *cells])
    title = f"Less {baseline}: points, 95 % interval, p (Holm)"
    return StudyTable(title, ["arm", *map(heading, figures)], rows)


def _difference(own: Difference) -> Cell:
    star = " *" if own.difference.excludes_zero else ""
    low, high = _points(own.difference.low), _points(own.difference.high)
    lines = [f"{_points(own.difference.value)}{star}", f"[{low},", f"{high}]"]
    return lines if own.p_holm is None else [*lines, f"p {own.p_holm:.3f}" if own.p_holm >= 0.001 else "p <0.001"]


def _points(fraction: float) -> str:
    """In percentage points; a difference that rounds to 0 has no sign."""
    points = round(100 * fraction, 1)
    return f"{points:+.1f}" if points else "0.0"
