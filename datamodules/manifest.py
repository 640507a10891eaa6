"""Clips of one's own, listed in a table: `--data Manifest --data.path clips.csv`, without a line of code.

A row is a clip: a media file or a segment of one, its label or labels, and what else is known of it. Which split it
belongs to is said by a column, by a fold, or by a seeded draw.
"""

import os
import stat
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any

from datamodules.clip_source import ClipRecord, Split, listed_twice
from datamodules.containers import MEDIA_SUFFIXES
from datamodules.corpus import Corpus, LabelRow
from datamodules.drawing_lots import draw_groups, draw_stratified
from datamodules.emotions import get_taxonomy
from datamodules.files.printable import readable_name
from datamodules.files.rows import column_names, read_rows
from datamodules.manifest_columns import FIELDS, Columns
from datamodules.segments import Segment

_PARTS: dict[str, tuple[str, ...]] = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid", "dev"),
    "test": ("test", "testing"),
    "predict": ("predict",),
}
"""Part of the data → what a split column calls it, unless `split_values` says otherwise."""

_UNDECIDED = ""
"""Part of the rows of which nothing says whether they are trained or tested on."""


@dataclass(frozen=True)
class _LeftOutRow(LabelRow):
    """A row whose label has no class here, and its file."""

    medium: str | None = None


class Manifest(Corpus):
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
        super().__init__(str(Path(path).parent) if root is None else root, **kwargs)
        if not 0 <= test_fraction < 1:
            raise ValueError(f"test_fraction must be in [0, 1), got {test_fraction}.")
        if not label_separator:
            raise ValueError("label_separator must be text, such as a semicolon; got nothing.")
        self.path = Path(path)
        self.taxonomy = get_taxonomy(taxonomy)
        self.columns = _checked("columns", columns or {}, FIELDS)
        self.labels = {word.strip().lower(): emotion for word, emotion in (labels or {}).items()}
        self.label_separator = label_separator
        values = _checked("split_values", split_values or {}, tuple(_PARTS))
        self._part_of = {name: part for part, names in _PARTS.items() if part not in values for name in names}
        self._part_of |= {str(name).strip().lower(): part for part, name in values.items()}
        self.fold = fold
        self.test_fraction = test_fraction
        self.by_speaker = by_speaker
        self._records: dict[Split, list[ClipRecord]] | None = None
        self._speakers: dict[str, str] = {}
        self._stems: dict[str, list[Path]] | None = None
        self._targets: dict[tuple[str, ...], str | None] = {}
        self._leads_out: dict[str, bool] = {}

    @property
    def splits(self) -> tuple[Split, ...]:
        """The splits that have rows; what is there to test can be predicted, too."""
        loaded = self._load()
        return tuple(split for split in ("train", "test", "predict") if loaded[split])

    def key(self, clip_id: str) -> str:
        """Ids are taken as they are written."""
        return clip_id

    def media_key(self, path: Path) -> str | None:
        """The path below the root: two folders may have a file of one name."""
        return readable_name(path.relative_to(self.root).as_posix())

    def media_file(self, row: LabelRow) -> Path | None:
        """The file of a row that is left out."""
        return Path(row.medium) if isinstance(row, _LeftOutRow) and row.medium else None

    def records(self, split: Split) -> list[ClipRecord]:
        """See `ClipSource.records`.

        Raises:
            ImportError: a Parquet file without a library that reads it.
        """
        return self._load()[split]

    def _load(self) -> dict[Split, list[ClipRecord]]:
        """The rows of all splits, read once."""
        if self._records is None:
            columns, find = self._find_columns(), lru_cache(maxsize=4096)(self.find_medium)
            parts: dict[str, list[ClipRecord]] = {part: [] for part in (*_PARTS, _UNDECIDED)}
            for row, source in read_rows(self.path, list(columns.by_field.values()), self.refuse):
                try:
                    part = self._part(row, columns, source)
                    record = self._clip(row, columns, part, source, find)
                except ValueError as error:
                    self.refuse(str(error))
                    continue
                if record is not None:
                    parts[part].append(record)
            if not any(parts.values()) and not self.problems:
                raise ValueError(f"{self.path} lists no clips.")
            self._records = self._in_splits(parts)
            for split in self.left_out:
                self.report_left_out(split)
        return self._records

    def _find_columns(self) -> Columns:
        names = column_names(self.path)
        columns = Columns.find(self.path, names, self.columns)
        columns.require(self.path, names, "media", "says where a clip is")
        if self.fold is not None:
            columns.require(self.path, names, "fold", "data.fold asks for")
        elif "fold" in columns.by_field and "split" not in columns.by_field:
            raise ValueError(
                f"{self.path} has a column of folds, {columns.by_field['fold']}. Set data.fold to the one to test on."
            )
        if self.by_speaker:
            columns.require(self.path, names, "speaker", "data.by_speaker asks for")
        return columns

    def _part(self, row: Mapping[str, Any], columns: Columns, source: str) -> str:
        """The part that a row belongs to.

        Raises:
            ValueError: an unknown word for it.
        """
        if self.fold is not None:
            return "test" if columns.text(row, "fold", source) == str(self.fold) else "train"
        if "split" not in columns.by_field:
            return _UNDECIDED if "label" in columns.by_field else "predict"
        value = columns.text(row, "split", source)
        part = self._part_of.get(value.lower())
        if part is None:
            raise ValueError(
                f"{source}: the split is {value!r:.80}. Expected one of {', '.join(self._part_of)}; for other words "
                "set data.split_values, e.g. {test: held_out}."
            )
        return part

    def _clip(
        self, row: Mapping[str, Any], columns: Columns, part: str, source: str, find: Callable[[str], str | None]
    ) -> ClipRecord | None:
        """The record of a row; None for one that is left out.

        Raises:
            ValueError: it is malformed, or its label is no class.
        """
        name = columns.text(row, "media", source)
        if not name:
            raise ValueError(f"{source}: the column {columns.by_field['media']} is empty. Expected a media file.")
        labels = columns.labels(row, self.label_separator, source)
        if not labels and "label" in columns.by_field and part != "predict":
            raise ValueError(f"{source}: there is no label. Give the clip one, or put it in the split `predict`.")
        segment = columns.segment(row, source)
        try:
            medium, target = find(name), self._target(tuple(labels))
        except ValueError as error:
            raise ValueError(f"{source}: {error}") from error
        identifier = columns.text(row, "id", source) or _identifier(name, segment)
        rationale = columns.text(row, "rationale", source) or None
        if target is None and labels:
            split: Split = "test" if part == "test" else "predict" if part == "predict" else "train"
            left_out = self.left_out.setdefault(split, [])
            left_out.append(_LeftOutRow(identifier, self.label_separator.join(labels), source, medium=medium))
            return None
        response = None
        if rationale is not None and target is not None:
            response = self._learned(LabelRow(identifier, target, source, rationale), target, len(labels))
        if self.by_speaker:
            self._speakers[identifier] = columns.text(row, "speaker", source)
            if not self._speakers[identifier]:
                raise ValueError(f"{source}: there is no speaker, which data.by_speaker asks for. Name whoever it is.")
        return ClipRecord(
            identifier,
            medium if medium is None or segment is None else medium + segment.fragment,
            target,
            response,
            source,
            self.name,
            columns.text(row, "prompt", source) or None,
            columns.text(row, "transcript", source) or None,
            may_lack=self.allow_missing,
        )

    def _learned(self, row: LabelRow, target: str, num_labels: int) -> str | None:
        if num_labels > 1:
            raise ValueError(
                f"{row.source}: a rationale and the labels {target}, but a clip of several emotions has no one answer "
                "to learn. Leave one label, or take the rationale out."
            )
        response = self.response(row, target)
        assert response is not None, "of a row with a rationale"
        self._check_response(row, response, target)
        return response

    def _target(self, labels: tuple[str, ...]) -> str | None:
        """Canonical emotion or emotions; None where there is none, or one that is left out.

        Raises:
            ValueError: no class of the taxonomy.
        """
        if labels in self._targets:
            return self._targets[labels]
        emotions = [self.labels.get(label.lower(), label) for label in labels]
        target = None
        try:
            if emotions and None not in emotions:
                target = self.taxonomy.joined(self.taxonomy.target(str(emotion), "label") for emotion in emotions)
        except ValueError as error:
            message = str(error).removeprefix("label: ")
            raise ValueError(f"{message} Other words are told by data.labels, e.g. {{ecstatic: happiness}}.") from error
        return self._targets.setdefault(labels, target)

    def find_medium(self, name: str) -> str | None:
        """The file that a row names; None where there is none.

        Raises:
            ValueError: it is outside the root, or several files have this name.
        """
        # Not with Path, which costs ten times as much, a million times.
        path = os.path.normpath(os.path.join(self.root, name.replace("\\", "/")))  # noqa: PTH118
        below = os.path.join(os.path.abspath(self.root), "")  # noqa: PTH100, PTH118
        if not self.follow_links and not os.path.abspath(path).startswith(below):  # noqa: PTH100
            raise ValueError(
                f"{name!r:.200} is not below {self.root}. Set data.root to a directory that holds all media, or "
                "data.follow_links to true."
            )
        folder = os.path.dirname(path)  # noqa: PTH120
        if folder not in self._leads_out:
            self._leads_out[folder] = self.refuses_link(Path(folder))
        if self._leads_out[folder]:
            return None
        try:
            mode = os.lstat(path).st_mode
        except (OSError, ValueError):  # ValueError: a name that no system takes
            return self._named(name)
        if stat.S_ISLNK(mode) and self.refuses_link(Path(path)):
            return None
        return path if stat.S_ISREG(mode) or Path(path).is_file() else self._named(name)

    def _named(self, name: str) -> str | None:
        """The media file with a name that has no suffix, wherever it is below the root."""
        if name.lower().endswith(MEDIA_SUFFIXES):
            return None
        if self._stems is None:
            self._stems = {}
            for path in self.media_files().values():
                self._stems.setdefault(path.stem, []).append(path)
        found = self._stems.get(name, [])
        if len(found) > 1:
            raise ValueError(f"{name!r:.200} may be {found[0]} or {found[1]}. Write the path with its suffix.")
        return str(found[0]) if found else None

    def _in_splits(self, parts: Mapping[str, list[ClipRecord]]) -> dict[Split, list[ClipRecord]]:
        """The rows by split, those for validation marked in the training split."""
        train, validation, test = parts["train"], parts["validation"], parts["test"]
        if parts[_UNDECIDED]:
            train, test = self._divided(self._once(parts[_UNDECIDED]), self.test_fraction)
        if not validation and self.by_speaker:
            train, validation = self._divided(train, self.validation_fraction)
        train = train + [replace(record, is_validation=True) for record in validation]
        return {"train": train, "test": test, "predict": parts["predict"] or test}

    def _once(self, records: list[ClipRecord]) -> list[ClipRecord]:
        """The rows without those of a clip that another row has: a draw could put it into both splits."""
        first: dict[str, ClipRecord] = {}
        for record in records:
            if first.setdefault(record.id, record) is not record:
                self.refuse(listed_twice(first[record.id], record))
        return list(first.values())

    def _divided(self, records: list[ClipRecord], fraction: float) -> tuple[list[ClipRecord], list[ClipRecord]]:
        if self.by_speaker:
            classes = [record.target or "" for record in records]
            drawn = draw_groups([self._speakers[record.id] for record in records], classes, fraction, self.seed)
        else:
            positions: dict[str | None, list[int]] = defaultdict(list)
            for position, record in enumerate(records):
                positions[record.target].append(position)
            drawn = draw_stratified(positions.items(), fraction, self.seed)
        kept = [record for position, record in enumerate(records) if position not in drawn]
        return kept, [record for position, record in enumerate(records) if position in drawn]


def _identifier(name: str, segment: Segment | None) -> str:
    """A clip's id where the table has none: its path without the suffix, and the segment."""
    path = name.replace("\\", "/")
    stem = os.path.splitext(path)[0] if path.lower().endswith(MEDIA_SUFFIXES) else path  # noqa: PTH122 (see above)
    return stem if segment is None else stem + segment.fragment


def _checked(option: str, given: Mapping[str, str], known: tuple[str, ...]) -> dict[str, str]:
    """Raises ValueError for a key that is none of those known."""
    for key in given:
        if key not in known:
            near = get_close_matches(key, known, n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise ValueError(f"{option} has {key!r:.80}. Expected some of {', '.join(known)}.{hint}")
    return dict(given)
