"""A report as tables and short lines, for people."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from datamodules.files.printable import printable
from datamodules.inspection.corpus_report import deviating_classes, differs_in_size

_MARKS = {"error": ("✗", "red"), "warning": ("!", "yellow"), "note": ("·", "cyan")}
_NUM_VALUES = 4  # of picture sizes and the like; the rest is summed up
_NAMES = {
    "picture_sizes": "pictures (pixels)",
    "frame_rates": "frames per second",
    "video_codecs": "video codecs",
    "audio_codecs": "audio codecs",
    "sample_rates": "sample rates (Hz)",
    "num_channels": "sound channels",
}


def print_report(report: Mapping[str, Any], console: Console) -> None:
    """Counts beside the published ones, what the files are like, and the findings.

    Args:
        report: see `build_report`.
        console: where to.
    """
    of = f", taxonomy {report['taxonomy']}" if report["taxonomy"] else ""
    console.print(Text(f"{report['corpus']} at {report['root']}{of}", style="bold"), soft_wrap=True)
    console.print(_count_table(report["splits"]))
    if report["decoding"] is not None and report["decoding"]["num_checked"]:
        earlier = report["decoding"]["num_checked_earlier"]
        by_whom = f", {earlier:,} of them by an earlier run" if earlier else ""
        console.print(Text(f"{report['decoding']['num_checked']:,} clips checked{by_whom}", style="bold"))
        console.print(_media_table(report["decoding"]))
    for finding in report["findings"]:
        mark, style = _MARKS[finding["severity"]]
        line = Text(f"{mark} {finding['message']}: {finding['count']:,}", style=style)
        console.print(line, soft_wrap=True)
        more = finding["count"] - len(finding["examples"])
        for example in [*finding["examples"], *([f"... and {more:,} more"] if more else [])]:
            console.print(Text(f"    {printable(example)}"), soft_wrap=True)
    if all(finding["severity"] == "note" for finding in report["findings"]):
        what = "no problem found" if report["decoding"] is not None else "no problem found; no clip was decoded"
        console.print(Text(f"✓ {what}", style="green"))


def _count_table(splits: Mapping[str, Any]) -> Table:
    """Classes × splits, with what of it is held out for validation.

    The published number stands beside each, an inferred one with `≈`; what differs is yellow.
    """
    table = Table()
    table.add_column("class")
    for split, section in splits.items():
        table.add_column(split, justify="right")
        if section["published"] is not None:
            table.add_column("published", justify="right", style="dim")
        if section["validation"]:
            table.add_column("of which validation", justify="right")
    for name in dict.fromkeys(name for section in splits.values() for name in section["classes"]):
        cells = [Text(name)]
        for section in splits.values():
            cells.append(_number(section["classes"].get(name, 0), bool(deviating_classes(section).get(name))))
            if section["published"] is not None:
                cells.append(_published(section["published"], name))
            if section["validation"]:
                cells.append(Text(f"{section['validation'].get(name, 0):,}"))
        table.add_row(*cells)
    table.add_section()
    totals = [Text("all")]
    for section in splits.values():
        totals.append(_number(section["num_clips"], differs_in_size(section)))
        if section["published"] is not None:
            totals.append(Text(f"{section['published']['num_clips']:,}"))
        if section["validation"]:
            totals.append(Text(f"{sum(section['validation'].values()):,}"))
    table.add_row(*totals)
    return table


def _published(published: Mapping[str, Any], name: str) -> Text:
    """The published number of a class; nothing where only the split's size is published."""
    if not published["classes"]:
        return Text()
    about = "" if published["exact"] else "≈ "
    return Text(f"{about}{published['classes'].get(name, 0):,}")


def _number(count: int, differs: bool) -> Text:
    return Text(f"{count:,}", style="yellow" if differs else "")


def _media_table(decoding: Mapping[str, Any]) -> Table:
    table = Table(show_header=False)
    seconds, frames = decoding["duration_seconds"], decoding["num_frames"]
    if seconds is not None:
        spread = f"{seconds['min']:.2f} to {seconds['max']:.2f} s, median {seconds['median']:.2f} s"
        table.add_row("duration", spread)
        table.add_row("", _values(decoding["duration_buckets"]))
    if frames is not None:
        table.add_row("frames per clip", f"{frames['min']:,} to {frames['max']:,}, median {frames['median']:g}")
    for key, name in _NAMES.items():
        if decoding[key]:
            table.add_row(name, _values(decoding[key]))
    return table


def _values(counts: Mapping[str, int]) -> Text:
    """`value (clips)` of the commonest values."""
    shown = [f"{value} ({count:,})" for value, count in list(counts.items())[:_NUM_VALUES]]
    others = list(counts.values())[_NUM_VALUES:]
    if others:
        shown.append(f"{len(others)} others ({sum(others):,})")
    return Text(", ".join(shown))
