"""Clips of one's own, listed in a table: `--data Manifest --data.path clips.csv`, without a line of code.

A row is a clip: a media file or a segment of one, its label or labels, and what else is known of it. Which split it
belongs to is said by a column, by a fold, or by a seeded draw.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from datamodules.files.printable import did_you_mean
from datamodules.files.rows import column_names, read_rows
from datamodules.listed import PARTS, ListedCorpus, Row
from datamodules.manifest_columns import FIELDS, Columns


class Manifest(ListedCorpus):
    """Clips that a table lists: CSV, TSV, JSONL or Parquet.

    Columns are found by their names (media, label, split, fold, rationale, transcript, start, end, speaker, prompt, id
    and usual variants of these) or by `columns`; only media must be there. Several rows may share a file, each with its
    `start` and `end` in seconds or as h:mm:ss. Media are looked for below `root`; a name without a suffix is that of
    the one media file called so.

    A clip may be sound alone, or pictures.

    Rows belong to a split by a split column; or by a fold column, of which `fold` is tested; or by a draw that depends
    on `seed` and the table alone, of `test_fraction` of each class. Without a label column, all are there to predict.

    Args:
        path: the table.
        taxonomy: the classes that labels may name: a name of `configs/taxonomy/`, or the path of such a file.
        root: directory that the media are below; null: that of the table.
        columns: field → name of its column, where that is none of the usual ones, e.g. `{label: gold}`.
        labels: the table's own words for emotions → class or alias, e.g. `{ecstatic: happiness}`; null leaves the clips
            with this label out.
        label_separator: between several labels of a clip.
        split_values: train, validation, test or predict → what the split column calls it.
        fold: value of the fold column that is tested on; the others are trained on.
        test_fraction: share that is drawn for the test, where no column says so; 0 keeps all for training.
        by_speaker: whoever is drawn for the test or for validation speaks nowhere else.
        kwargs: see `ClipSource`.

    Raises:
        ValueError: an option is out of its range, or no such taxonomy.
    """

    may_lack = ("sound", "pictures")
    stills_are_clips = True

    def __init__(
        self,
        path: str,
        taxonomy: str = "mafw",
        root: str | None = None,
        columns: dict[str, str] | None = None,
        labels: dict[str, str | None] | None = None,
        label_separator: str = ";",
        split_values: dict[str, str] | None = None,
        fold: int | str | None = None,
        test_fraction: float = 0.2,
        by_speaker: bool = False,
        **kwargs: Any,
    ) -> None:
        root = str(Path(path).parent) if root is None else root
        super().__init__(root, taxonomy, labels, **kwargs)
        self.draw(test_fraction, by_speaker)
        self.fold = fold
        if not label_separator:
            raise ValueError("label_separator must be text, such as a semicolon; got nothing.")
        self.path = self.listing = Path(path)
        self.columns = _checked("columns", columns or {}, FIELDS)
        self.label_separator = label_separator
        values = _checked("split_values", split_values or {}, tuple(PARTS))
        self._part_of = {name: part for name, part in self._part_of.items() if part not in values}
        self._part_of |= {str(name).strip().lower(): part for part, name in values.items()}

    def listed(self, columns: Columns) -> Iterable[Row]:
        """Rows of the table.

        Raises:
            FileNotFoundError, ValueError: see `read_rows`.
            ImportError: a Parquet file without a library that reads it.
        """
        return read_rows(self.path, list(columns.by_field.values()), self.refuse)

    def find_columns(self) -> Columns:
        """The columns of the table, by their names or as told. See `ListedCorpus.find_columns`.

        Raises:
            FileNotFoundError, ValueError: no such file, or a column that is needed is not there.
        """
        columns = Columns.find(self.path, column_names(self.path), self.columns)
        columns.require("media", "says where a clip is")
        if self.fold is not None:
            columns.require("fold", "data.fold asks for")
        elif "fold" in columns.by_field and "split" not in columns.by_field:
            raise ValueError(
                f"{self.path} has a column of folds, {columns.by_field['fold']}. Set data.fold to the one to test on."
            )
        if self.by_speaker:
            columns.require("speaker", "data.by_speaker asks for")
        return columns


def _checked(option: str, given: Mapping[str, str], known: tuple[str, ...]) -> dict[str, str]:
    """Raises ValueError for a key that is none of those known."""
    for key in given:
        if key not in known:
            raise ValueError(
                f"{option} has {key!r:.80}. Expected some of {', '.join(known)}.{did_you_mean(key, known)}"
            )
    return dict(given)
