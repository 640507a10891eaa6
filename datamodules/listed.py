"""Base of the corpora that are a list of rows: a table of one's own, the tables of a corpus, or the names of its files.

A row is a clip: a media file or a segment of one, its label or labels, and what else is known of it. Which split it
belongs to is said by the row, by a fold, or by a seeded draw.
"""

import os
import stat
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from datamodules.clip_source import ClipRecord, Split, listed_twice
from datamodules.containers import MEDIA_SUFFIXES
from datamodules.corpus import Corpus, LabelRow
from datamodules.drawing_lots import draw_groups, draw_stratified
from datamodules.emotions import get_taxonomy
from datamodules.files.printable import readable_name
from datamodules.manifest_columns import Columns, Field
from datamodules.notices import warn
from datamodules.published import Published
from datamodules.segments import Segment

Row = tuple[Mapping[str, Any], str]
"""Column → value, and `file:row`."""

PARTS: dict[str, tuple[str, ...]] = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid", "dev"),
    "test": ("test", "testing"),
    "predict": ("predict",),
}
"""Part of the data → what rows call it."""

_NUM_NAMED = 12
"""Labels without a class that a warning names, the commonest first."""

_NEED_LABELS = "clips to train or test on need (those of the split predict do not)"

_UNDECIDED = ""
"""Part of the rows of which nothing says whether they are trained or tested on."""


@dataclass(frozen=True)
class ListedRow(LabelRow):
    """A row and its file."""

    medium: str | None = None


class ListedCorpus(Corpus):
    """Clips that rows list. A subclass has `listed`, and `fields`, the columns of its rows.

    Rows name their media by a path below the root; a name without a suffix is that of the one media file called so.
    They belong to a split by a split column; or by a fold column, of which `fold` is tested; or by a draw that depends
    on `seed` and the rows alone, of `test_fraction` of each class. Without a label column, all are there to predict.
    A label among `aliases` that has no class in the taxonomy leaves its clip out, and is counted.

    Args:
        root: directory that the media are below.
        taxonomy: the classes that labels may name: a name of `configs/taxonomy/`, or the path of such a file.
        labels: further words for emotions → class or alias; null leaves the clips with this label out.
        kwargs: see `ClipSource`.

    Raises:
        ValueError: no such taxonomy.
    """

    fields: tuple[Field, ...] = ()
    label_separator: str = ";"
    fold: int | str | None = None
    """Value of the fold column that is tested on; the others are trained on."""
    test_fraction: float = 0.0
    """Share that is drawn for the test, where nothing says so."""
    by_speaker: bool = False
    """Whether who is drawn for the test or for validation speaks nowhere else."""
    keeps_unnamed: bool = False
    """Whether a clip whose labels name no class is still learned from, where it has a rationale."""

    def __init__(self, root: str, taxonomy: str, labels: Mapping[str, str | None] | None = None, **kwargs: Any) -> None:
        super().__init__(root, **kwargs)
        self.taxonomy = get_taxonomy(taxonomy)
        own = {word: emotion if self.taxonomy.canonical(emotion) else None for word, emotion in self.aliases.items()}
        self.labels = own | {word.strip().lower(): emotion for word, emotion in (labels or {}).items()}
        self.listing = self.root
        """What lists the clips, for messages."""
        self.left_out: dict[Split, list[ListedRow]] = defaultdict(list)
        """Split → its rows whose labels have no class."""
        self._part_of = {name: part for part, names in PARTS.items() for name in names}
        self._records: dict[Split, list[ClipRecord]] | None = None
        self._speakers: dict[str, str] = {}
        self._stems: dict[str, list[Path]] | None = None
        self._targets: dict[tuple[str, ...], str | None] = {}
        self._leads_out: dict[str, bool] = {}

    def draw(self, test_fraction: float, by_speaker: bool) -> None:
        """Have a share of the rows drawn for the test.

        Raises:
            ValueError: it is not in [0, 1).
        """
        if not 0 <= test_fraction < 1:
            raise ValueError(f"test_fraction must be in [0, 1), got {test_fraction}.")
        self.test_fraction, self.by_speaker = test_fraction, by_speaker

    def listed(self, columns: Columns) -> Iterable[Row]:
        """The rows in their order; a malformed one goes to `self.refuse`.

        Raises:
            FileNotFoundError, ValueError: what lists them is not there, or cannot be read.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement listed.")

    def find_columns(self) -> Columns:
        """Where rows have what they tell."""
        return Columns({name: name for name in self.fields})

    @property
    def splits(self) -> tuple[Split, ...]:
        """The splits that have rows; what is there to test can be predicted, too."""
        loaded = self._load()
        return tuple(split for split in ("train", "test", "predict") if loaded[split])

    def why_without(self, split: Split) -> str:
        """See `ClipSource.why_without`."""
        try:
            self.find_columns().require("label", _NEED_LABELS)
        except ValueError as error:
            return f" {error}"
        return ""

    def published_words(self, clips: Mapping[str, int]) -> Published:
        """Published counts, by the corpus' words, as counts of classes; clips that are left out count in the whole."""
        classes: Counter[str] = Counter()
        for word, count in clips.items():
            target = self.target_of((word,))
            if target is not None:
                classes[target] += count
        return Published(sum(clips.values()), dict(classes), exact=True)

    def key(self, clip_id: str) -> str:
        """Ids are taken as they are written."""
        return clip_id

    def media_key(self, path: Path) -> str | None:
        """The path below the root: two folders may have a file of one name."""
        return readable_name(path.relative_to(self.root).as_posix())

    def records(self, split: Split) -> list[ClipRecord]:
        """See `ClipSource.records`."""
        return self._load()[split]

    def _load(self) -> dict[Split, list[ClipRecord]]:
        """The rows of all splits, read once."""
        if self._records is None:
            columns, find = self.find_columns(), lru_cache(maxsize=4096)(self.find_medium)
            folds = set[str]()
            parts: dict[str, list[ClipRecord]] = {part: [] for part in (*PARTS, _UNDECIDED)}
            for row, source in self.listed(columns):
                try:
                    folds.add(columns.text(row, "fold", source))
                    part = self._part(row, columns, source)
                    record = self._clip(row, columns, part, source, find)
                except ValueError as error:
                    self.refuse(str(error))
                    continue
                if record is not None:
                    parts[part].append(record)
            if not any(parts.values()) and not self.problems:
                raise ValueError(f"{self.listing} lists no clips.")
            if self.fold is not None and str(self.fold) not in folds:
                known = ", ".join(sorted(filter(None, folds), key=lambda fold: (len(fold), fold)))
                raise ValueError(
                    f"{self.listing} has no fold {self.fold}: its column {columns.by_field['fold']} has {known:.300}."
                )
            self._records = self._in_splits(parts)
            for split in self.left_out:
                self._report_left_out(split)
        return self._records

    def _report_left_out(self, split: Split) -> None:
        """Warn of the rows of a split that are left out."""
        left_out = self.left_out[split]
        labels = Counter(row.label for row in left_out)
        counts = ", ".join(f"{name} {count}" for name, count in labels.most_common(_NUM_NAMED))
        counts += f" and {len(labels) - _NUM_NAMED} more" if len(labels) > _NUM_NAMED else ""
        warn(
            f"{self.name} {split}: {len(left_out)} clips are left out, as the taxonomy {self.taxonomy.name} has "
            f"no class for their labels ({counts})."
        )

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
        labels = tuple(columns.labels(row, self.label_separator, source))
        if not labels and part != "predict":
            columns.require("label", _NEED_LABELS)
            raise ValueError(f"{source}: there is no label. Give the clip one, or put it in the split `predict`.")
        segment = columns.segment(row, source)
        try:
            medium = find(name)
            if labels not in self._targets:
                self._targets[labels] = self.target_of(labels)
        except ValueError as error:
            raise ValueError(f"{source}: {error}") from error
        target, rationale = self._targets[labels], columns.text(row, "rationale", source) or None
        identifier = columns.text(row, "id", source) or _identifier(name, segment)
        response = None
        if labels and (target is None or rationale is not None):
            listed = ListedRow(identifier, self.label_separator.join(labels), source, rationale, medium)
            if target is None and not (self.keeps_unnamed and rationale):
                split: Split = "test" if part == "test" else "predict" if part == "predict" else "train"
                self.left_out[split].append(listed)
                return None
            response = self.learned(listed, target, len(labels))
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

    def learned(self, row: LabelRow, target: str | None, num_labels: int) -> str | None:
        """The response to learn of a row with a rationale and labels.

        Raises:
            ValueError: there is none, or it would be learned as another.
        """
        if num_labels > 1:
            raise ValueError(
                f"{row.source}: a rationale and the labels {target}, but a clip of several emotions has no one answer "
                "to learn. Leave one label, or take the rationale out."
            )
        response = self.response(row, target)
        assert response is not None, "of a row with a rationale"
        self._check_response(row, response, target)
        return response

    def target_of(self, labels: tuple[str, ...]) -> str | None:
        """Canonical emotion or emotions; None where there is none, or one that is left out.

        Raises:
            ValueError: no class of the taxonomy.
        """
        emotions = [self.labels.get(label.lower(), label) for label in labels]
        if not emotions or None in emotions:
            return None
        try:
            return self.taxonomy.joined(self.taxonomy.target(str(emotion), "label") for emotion in emotions)
        except ValueError as error:
            message = str(error).removeprefix("label: ")
            raise ValueError(f"{message} Other words are told by data.labels, e.g. {{ecstatic: happiness}}.") from error

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
