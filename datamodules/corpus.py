"""Base of the distributed corpora: each declares where its files are, how labels are written and what they mean.

Whatever unpacking its users have, the files are found by looking; an error names every place (decision 10). Labels
are checked at load: an unknown label, a malformed row or a file in another repository's coding is refused, and names
file and row (decision 6).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from datamodules.clip_source import ClipRecord, ClipSource, Split
from datamodules.containers import MEDIA_SUFFIXES
from datamodules.files.printable import readable_name
from datamodules.published import Coding, Published, wrong_coding
from datamodules.rationale import TAGS, leading_sections, read_response


@dataclass(frozen=True)
class LabelRow:
    """One row of a label file, as written.

    Args:
        id: the clip's id.
        label: class code or name; None where there is none.
        source: `file:row`.
        rationale: an explanation to learn in stage 1, without tags; None where there is none.
    """

    id: str
    label: str | int | None
    source: str
    rationale: str | None = None


class Corpus(ClipSource):
    """A corpus of clips and label files under one root.

    A subclass sets the class attributes below and `taxonomy`, and implements `read_labels`, or `rows` where it has no
    label file. `{split}` in a place is `train` or `test`; `{corpus}` is the object, e.g. `{corpus.fold}`.

    Args:
        root: directory of the corpus.
        kwargs: see `ClipSource`.
    """

    label_files: ClassVar[tuple[str, ...]]
    """Where the label file of a split is looked for, relative to the root, in this order."""
    clip_directories: ClassVar[tuple[str, ...]] = (".",)
    """Where clips are looked for, relative to the root: the first that exists, recursively."""
    aliases: ClassVar[Mapping[str, str]] = {}
    """The corpus' own words for emotions → canonical ones; beside the aliases that every answer is read with."""
    other_codings: ClassVar[tuple[Coding, ...]] = ()
    """Codings of other repositories' copies, to name as a likely cause."""

    def __init__(self, root: str, **kwargs: Any) -> None:
        super().__init__(root, **kwargs)
        self._files: dict[str, Path] | None = None

    def read_labels(self, path: Path) -> Iterable[LabelRow]:
        """Rows of a label file in its order; a malformed row goes to `self.refuse`.

        Raises:
            ValueError: the file as a whole cannot be read.
            NotImplementedError: the corpus has neither this method nor `rows` of its own.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement read_labels or rows.")

    def published(self, split: Split) -> Published | None:
        """What is published of a split; None when nothing is."""
        return None

    def key(self, clip_id: str) -> str:
        """By default the name without a media suffix, of a Windows path too."""
        path = Path(clip_id.replace("\\", "/"))
        return path.stem if path.suffix.lower() in MEDIA_SUFFIXES else path.name

    def media_key(self, path: Path) -> str | None:
        """`key` of the clip in a media file; None for a file that is none of the corpus' clips."""
        return self.key(readable_name(path.name))

    def target(self, row: LabelRow) -> str | None:
        """Canonical emotion of a row.

        Raises:
            ValueError: no class of the taxonomy; names the row.
        """
        if row.label is None or isinstance(row.label, int):
            return None if row.label is None else self.taxonomy.from_code(row.label, row.source)
        word = row.label.strip().lower()
        return self.taxonomy.target(self.aliases.get(word, row.label), row.source)

    def response(self, row: LabelRow, target: str | None) -> str | None:
        """The completion to learn in stage 1, made of a row's rationale; None where it has none.

        A rationale with tags of its own around it, sections and `<think>`, stands as it is.
        """
        if row.rationale is None:
            return None
        has_tags = bool(leading_sections(row.rationale)) and row.rationale.endswith("</think>")
        thought = row.rationale if has_tags else f"<think>{row.rationale}</think>"
        return f"{thought}\n<answer>{target}</answer>"

    def media_file(self, row: LabelRow) -> Path | None:
        """The file of a row's clip, found by `key`; None where there is none."""
        return self.media_files().get(self.key(row.id))

    def rows(self, split: Split) -> list[LabelRow]:
        """The rows of a split, from its label file.

        Raises:
            FileNotFoundError: no label file; names every place looked at.
            ValueError: a malformed file, or one in another coding than the corpus' own.
        """
        path = self.label_file(split)
        rows = list(self.read_labels(path))
        if not rows:
            raise ValueError(f"{path} lists no clips.")
        cause = wrong_coding(
            [row.label for row in rows if row.label is not None],
            Coding("the corpus", self.taxonomy.classes, 1),
            self.other_codings,
            self.published(split),
        )
        if cause:
            self.refuse(f"{path}: {cause}")
        return rows

    def records(self, split: Split) -> list[ClipRecord]:
        """See `ClipSource.records`."""
        records: list[ClipRecord] = []
        for row in self.rows(split):
            try:
                records.append(self._record(row))
            except ValueError as error:
                self.refuse(str(error))
        return records

    def _record(self, row: LabelRow) -> ClipRecord:
        """A row with its canonical emotion and its files.

        Raises:
            ValueError: no class of the taxonomy, a link that leads out, or a response that reads back otherwise.
        """
        target, media = self.target(row), self.media_file(row)
        response = self.response(row, target)
        if response is not None:
            self._check_response(row, response, target)
        return ClipRecord(row.id, str(media) if media else None, target, response, row.source)

    def _check_response(self, row: LabelRow, response: str, target: str | None) -> None:
        """Refuse a response whose rationale holds tags of its own: what is learned would be another answer.

        Raises:
            ValueError: it has a tag twice, or does not read back as the row's target; without tags, as a whole.
        """
        is_bare = self._check_tags(row, response)
        read = read_response(response, self.taxonomy, is_bare)
        if read.prediction != target:
            raise ValueError(
                f"{row.source}: the response to learn reads back as {read.prediction or read.answer!r}, and the label "
                f"is {target}: {response!r:.200}"
            )

    @staticmethod
    def _check_tags(row: LabelRow, response: str) -> bool:
        """Refuse a response that can be read in several ways; whether it has no tags at all.

        Raises:
            ValueError: it has a tag twice.
        """
        twice = [tag for tag in TAGS if response.count(tag) > 1]
        if twice:
            raise ValueError(
                f"{row.source}: the response to learn has {twice[0]} {response.count(twice[0])} times, and can be read "
                f"in several ways. Take the tags out of the explanation: {response!r:.200}"
            )
        return not any(tag in response for tag in TAGS)

    def label_file(self, split: Split) -> Path:
        """The label file of a split.

        Raises:
            FileNotFoundError: there is none; names every place looked at.
        """
        name = "train" if split == "train" else "test"
        return self.find(self.label_files, f"{name} labels", split=name)

    def find(self, places: Iterable[str], what: str, **fields: str) -> Path:
        """The first of several places that is a file.

        Args:
            places: relative to the root, with fields in braces.
            what: is looked for, for the message.
            fields: values of the places' fields; `corpus` is given.

        Raises:
            FileNotFoundError: none is; names all of them.
        """
        candidates = [self.root / place.format(corpus=self, **fields) for place in places]
        for path in candidates:
            if path.is_file() and not self.refuses_link(path):
                return path
        raise FileNotFoundError(
            f"No {self.name} {what} under {self.root}. Looked for: {', '.join(map(str, candidates))}. "
            "Set `root` to the directory that holds them."
        )

    def named_file(self, name: str) -> Path:
        """A file that an option names: absolute, or relative to the working directory or to the root.

        Raises:
            FileNotFoundError: there is none; names every place looked at.
        """
        candidates = list(dict.fromkeys((Path(name), self.root / name)))
        for path in candidates:
            if path.is_file():
                return path
        raise FileNotFoundError(f"No such {self.name} file. Looked for: {', '.join(map(str, candidates))}.")

    def media_files(self) -> dict[str, Path]:
        """Media files by `key`.

        Raises:
            FileNotFoundError: none of the directories exists.
            ValueError: two files are one clip, or a link leads out of the root.
        """
        if self._files is not None:
            return self._files
        candidates = [self.root / place for place in self.clip_directories]
        directory = next((path for path in candidates if path.is_dir() and not self.refuses_link(path)), None)
        if directory is None:
            raise FileNotFoundError(
                f"No {self.name} clips under {self.root}. Looked for the directories: "
                f"{', '.join(map(str, candidates))}. Set `root` to the directory that holds one of them."
            )
        files: dict[str, Path] = {}
        for path in sorted(directory.rglob("*")):
            key = self.media_key(path) if path.suffix.lower() in self.media_suffixes else None
            # `rglob` enters no linked directory.
            if key is None or (path.is_symlink() and self.refuses_link(path)):
                continue
            first = files.setdefault(key, path)
            if first is not path:
                self.refuse(f"Two files are {self.name} clip {key}: {first} and {path}. Remove one.")
        self._files = files
        return files
