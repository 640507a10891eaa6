"""Which column of a table holds what, and its cells as text, times and labels."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from datamodules.files.printable import did_you_mean, printable
from datamodules.segments import Segment

Field = Literal["media", "id", "label", "split", "fold", "rationale", "transcript", "start", "end", "speaker", "prompt"]
"""What a column may hold."""

FIELDS: tuple[Field, ...] = get_args(Field)

_NAMES: dict[Field, tuple[str, ...]] = {
    "media": ("media", "path", "file", "filename", "filepath", "video", "videopath", "audio", "clip", "name"),
    "id": ("id", "clipid"),
    "label": ("label", "labels", "emotion", "emotions", "target"),
    "split": ("split", "subset", "partition"),
    "fold": ("fold",),
    "rationale": ("rationale", "reason", "reasoning", "explanation"),
    "transcript": ("transcript", "subtitle", "subtitles", "utterance"),
    "start": ("start", "starttime", "startseconds"),
    "end": ("end", "endtime", "endseconds"),
    "speaker": ("speaker", "speakerid", "actor"),
    "prompt": ("prompt", "instruction", "question"),
}
"""Names of columns that say what they hold, in lower case and without space, `_` and `-`."""

_CLOCK = re.compile(r"(?:(\d+):)?(\d+):(\d+(?:[.,]\d+)?)", re.ASCII)


@dataclass(frozen=True)
class Columns:
    """The columns of a table that hold something known.

    Args:
        by_field: field → column.
        path: the table, for messages.
        names: of all its columns.
    """

    by_field: Mapping[Field, str]
    path: Path = Path()
    names: Sequence[str] = ()

    @classmethod
    def find(cls, path: Path, names: Sequence[str], given: Mapping[str, str]) -> "Columns":
        """The columns of a table, by their names or as told.

        Args:
            path: the table, for messages.
            names: of its columns.
            given: field → column.

        Raises:
            ValueError: a column that is told is not there, or several may hold the same.
        """
        found: dict[Field, str] = {}
        for field in FIELDS:
            if field in given:
                if given[field] not in names:
                    raise ValueError(
                        f"{path}:1: there is no column {given[field]!r} for {field}. Got {_listed(names)}."
                        + did_you_mean(given[field], names)
                    )
                found[field] = given[field]
                continue
            free = (name for name in names if name not in given.values())
            fitting = [name for name in free if re.sub(r"[\s_-]", "", name).lower() in _NAMES[field]]
            if len(set(fitting)) > 1:
                raise ValueError(
                    f"{path}:1: {' and '.join(fitting)} may each be the {field} column. Say which: "
                    f"data.columns: {{{field}: {fitting[0]}}}."
                )
            if fitting:
                found[field] = fitting[0]
        return cls(found, path, names)

    def require(self, field: Field, why: str) -> None:
        """Raises ValueError where a field has no column."""
        if field not in self.by_field:
            names = self.names
            if len(names) == 1 and (other := next((mark for mark in ";\t|" if mark in names[0]), None)):
                raise ValueError(
                    f"{self.path}:1: got one column, {_listed(names)!r}, as if its columns were separated by "
                    f"{other!r}. Save the table with commas, or with tabs as a .tsv file."
                )
            raise ValueError(
                f"{self.path}:1: there is no {field} column, which {why}. Got {_listed(names)}. Name it: "
                f"data.columns: {{{field}: NAME}}."
            )

    def text(self, row: Mapping[str, Any], field: Field, source: str) -> str:
        """A cell as text without surrounding space; empty where there is nothing.

        Raises:
            ValueError: it holds something else than text or a number.
        """
        column = self.by_field.get(field)
        value = None if column is None else row.get(column)
        if isinstance(value, str):
            return value.strip()
        if value is None or value != value:  # NaN is what pandas writes for nothing
            return ""
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(
                f"{source}: the column {column} holds {printable(repr(value)):.80}. Expected text or a number."
            )
        return str(int(value)) if float(value).is_integer() else str(value)

    def labels(self, row: Mapping[str, Any], separator: str, source: str) -> list[str]:
        """The labels of a row: a list of texts, or a text with separators; none where the cell is empty.

        Raises:
            ValueError: see `text`.
        """
        value = row.get(self.by_field.get("label", ""))
        if isinstance(value, list) and all(isinstance(own, str) for own in value):
            parts = value
        else:
            parts = self.text(row, "label", source).split(separator)
        return [label for part in parts if (label := part.strip())]

    def segment(self, row: Mapping[str, Any], source: str) -> Segment | None:
        """The part of the file that a row is about; None for all of it.

        Raises:
            ValueError: a start or end that is no time, or an end that is not after the start.
        """
        if "start" not in self.by_field and "end" not in self.by_field:
            return None
        start, end = self._seconds(row, "start", source), self._seconds(row, "end", source)
        if start is None and end is None:
            return None
        if end is not None and end <= (start or 0.0):
            raise ValueError(
                f"{source}: the segment ends at {end:g} s and starts at {start or 0.0:g} s. Swap or correct them."
            )
        return Segment(start or 0.0, end)

    def _seconds(self, row: Mapping[str, Any], field: Field, source: str) -> float | None:
        text = self.text(row, field, source)
        if not text:
            return None
        clock = _CLOCK.fullmatch(text)
        try:
            if clock is not None:
                hours, minutes, rest = clock.groups()
                return 3600 * int(hours or 0) + 60 * int(minutes) + float(rest.replace(",", "."))
            seconds = float(text)
        except ValueError:
            seconds = math.nan
        if not 0 <= seconds < math.inf:
            raise ValueError(
                f"{source}: the column {self.by_field[field]} holds {text!r:.80}. Expected seconds, or h:mm:ss."
            )
        return seconds


def _listed(names: Sequence[str]) -> str:
    return printable(f"{', '.join(names)}"[:300])
