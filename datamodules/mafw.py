"""MAFW (Multi-modal Affective Database in the Wild): 10,045 clips, eleven emotions, single and compound, five folds.

Layouts, encodings, label codes and counts as distributed (docs/data.md). The protocol of the paper is fold 5 of
the single labels; its compound accuracy takes any of a clip's emotions for right.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from datamodules.clip_source import Split
from datamodules.corpus import Corpus, LabelRow
from datamodules.emotions import COMPOUND_SEPARATOR, MAFW_TAXONOMY, members
from datamodules.files.tables import read_workbook
from datamodules.files.text import decode_chinese, misread_chinese, num_chinese, numbered_lines, read_text
from datamodules.notices import inform, warn
from datamodules.published import NUM_FOLDS, Coding, Published, published_fold, wrong_coding

_CLASSES = MAFW_TAXONOMY.classes
_SINGLE = dict(zip(_CLASSES, (1390, 639, 625, 1242, 1138, 1470, 1072, 236, 916, 262, 182), strict=True))
_ONE_OF_COMPOUND = dict(zip(_CLASSES, (425, 310, 180, 1075, 1138, 610, 497, 111, 408, 143, 41), strict=True))
_SEVERAL_CODES = {
    (1, 2): 883, (6, 10): 542, (3, 7): 392, (7, 9): 232, (3, 9): 218, (2, 8): 208, (4, 7): 206, (6, 9): 185,
    (9, 10): 156, (2, 9): 131, (10, 11): 98, (3, 6): 96, (1, 6): 90, (6, 9, 10): 76, (9, 10, 11): 59, (1, 9): 54,
    (4, 8): 52, (3, 7, 9): 45, (2, 10): 39, (2, 7): 37, (1, 2, 9): 36, (1, 7): 33, (6, 11): 32, (6, 7): 26,
    (6, 10, 11): 22, (3, 6, 9): 19, (2, 9, 10): 19, (1, 2, 8): 18, (2, 6): 17, (1, 10): 13, (2, 11): 12,
    (2, 10, 11): 12,
}  # fmt: skip
_SEVERAL = {COMPOUND_SEPARATOR.join(_CLASSES[code - 1] for code in codes): n for codes, n in _SEVERAL_CODES.items()}
_DFER_CLIP = (
    "happiness", "sadness", "neutral", "anger", "surprise", "disgust", "fear", "contempt", "anxiety", "helplessness",
    "disappointment",
)  # fmt: skip

_CLIP = re.compile(r"\d{5}(\.mp4)?", re.ASCII)
_CAPTION_FIELDS = {"chinese": 2, "english": 3}
_NUM_NAMED = 3  # rows that a summary warning names


@dataclass(frozen=True)
class _Workbook:
    """Labels of one of MAFW's workbooks.

    Args:
        path: the file.
        targets: clip key → its canonical emotion or emotions, and `file:row`.
    """

    path: Path
    targets: Mapping[str, tuple[str, str]]


class MAFW(Corpus):
    """MAFW, with `data/clips/` as distributed or `clips/` as R1-Omni and ERV have it, found by looking.

    A split's labels must agree with the workbooks `Labels/{single,multi}-set.xlsx` (or `_set`) where those are there;
    listed clips that `Labels/annotation.xlsx` marks as invalid are counted in a warning.

    Args:
        root: directory that holds `Train & Test Set/`, and `data/clips/` or `clips/`.
        fold: which of the five published splits, 1 to 5; the paper reports fold 5.
        label_set: `single` (9,172 clips of one emotion) or `compound` (8,996 clips of one to three, 43 classes, such as
            `anger_disgust`; an answer is right if it names one of them). The folds of the two are independent: a test
            clip of one may be a training clip of the other.
        captions: learn the annotators' descriptions, `english` or `chinese`, as rationales in stage 1. MAFW describes
            no neutral clip, so these are absent then: leave it null for evaluation and stage 3.
        kwargs: see `ClipSource`.

    Raises:
        ValueError: no such fold, label set or captions; captions of compound clips, which have no one answer to learn.
    """

    taxonomy = MAFW_TAXONOMY
    label_files = ("Train & Test Set/{corpus.label_set}/{corpus.caption_folder}/set_{corpus.fold}/{split}.txt",)
    clip_directories = ("data/clips", "clips")
    other_codings = (
        Coding("S2D's csv (alphabetical)", tuple(sorted(_CLASSES)), 0),
        Coding("DFER-CLIP's annotation", _DFER_CLIP, 0),
        Coding("MAE-DFER's csv (MAFW's own minus 1)", _CLASSES, 0),
    )
    overlaps: ClassVar[Mapping[str, str]] = {
        "DFEW": "MAFW contains 1,097 DFEW clips (MAFW paper, §3.1), and which ones is not published. Test clips of one "
        "corpus may be training clips of the other: report results of joint training with that caveat."
    }

    def __init__(
        self,
        root: str,
        fold: int = 5,
        label_set: Literal["single", "compound"] = "single",
        captions: Literal["english", "chinese"] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(root, **kwargs)
        if not 1 <= fold <= NUM_FOLDS:
            raise ValueError(f"MAFW has folds 1 to {NUM_FOLDS}, got {fold}.")
        if label_set not in ("single", "compound"):
            raise ValueError(f"MAFW's label sets are single and compound, got {label_set!r}.")
        if captions is not None and captions not in _CAPTION_FIELDS:
            raise ValueError(f"MAFW's captions are english or chinese, or null for none; got {captions!r}.")
        if captions is not None and label_set == "compound":
            raise ValueError(
                f"Got captions: {captions} with label_set: compound, but a clip of several emotions has no one answer "
                "to learn. Set label_set: single."
            )
        self.fold = fold
        self.label_set = label_set
        self.captions = captions
        self._workbooks: dict[str, _Workbook | None] = {}
        self._invalid: dict[str, str] | None = None

    @property
    def caption_folder(self) -> str:
        """Folder of the split files that are read."""
        return "no_caption" if self.captions is None else "with_caption"

    def published(self, split: Split) -> Published:
        """Counts of the MAFW paper's Table 3 and of the published split files; no neutral clips under `captions`."""
        totals = _SINGLE if self.label_set == "single" else _ONE_OF_COMPOUND | _SEVERAL
        if self.captions is not None:
            totals = {name: total for name, total in totals.items() if name != "neutral"}
        return published_fold(totals, self.fold, split, exact=self.label_set == "single" and self.fold == 5)

    def target(self, row: LabelRow) -> str | None:
        """Canonical emotion, or emotions of a compound clip.

        Raises:
            ValueError: no class of MAFW's, several where one is expected, or a code: the split files hold names.
        """
        if not isinstance(row.label, str):
            raise ValueError(
                f"{row.source}: got the label code {row.label}. Expected a name such as anger: MAFW's split files hold "
                "names. Codes are of another repository's copy, and of its coding; use the files as distributed."
            )
        if self.label_set == "single" and COMPOUND_SEPARATOR in row.label:
            raise ValueError(
                f"{row.source}: got {row.label}, several emotions. Expected one. For compound clips set label_set: "
                "compound."
            )
        return self.taxonomy.compound_target(row.label, row.source)

    def rows(self, split: Split) -> list[LabelRow]:
        """See `Corpus.rows`; also compares the labels with the workbooks, where there are any."""
        rows = super().rows(split)
        if split != "predict":  # its rows are those of the test split, which are looked at as such
            if self.captions is not None:
                self._report_uncaptioned(split, rows)
            self._compare_labels(rows)
            self._report_invalid(split, rows)
        return rows

    def read_labels(self, path: Path) -> Iterator[LabelRow]:
        """Rows `clip label`, or of a captioned file `clip⇥label⇥Chinese⇥English`; several emotions joined by `_`."""
        return self._read_plain(path) if self.captions is None else self._read_captioned(path, self.captions)

    def _read_plain(self, path: Path) -> Iterator[LabelRow]:
        for line, source in numbered_lines(read_text(path), path):
            fields = line.split()
            if len(fields) == 2 and _CLIP.fullmatch(fields[0]):
                yield LabelRow(fields[0], _label(fields[1]), source)
            else:
                self.refuse(
                    f"{source}: got {line!r:.120}. Expected a clip of five digits and a label, e.g. 10337.mp4 anger."
                )

    def _read_captioned(self, path: Path, language: str) -> Iterator[LabelRow]:
        lines = [
            ([field.strip() for field in line.split("\t")], source)
            for line, source in numbered_lines(decode_chinese(path), path)
        ]
        is_chinese = self._check_chinese([(fields[2], source) for fields, source in lines if len(fields) == 4])
        for fields, source in lines:
            if len(fields) != 4 or not _CLIP.fullmatch(fields[0]):
                self.refuse(
                    f"{source}: got {fields!r:.120}. Expected four fields with tabs between them: a clip of five "
                    "digits, its label, a Chinese and an English caption."
                )
                continue
            caption = fields[_CAPTION_FIELDS[language]]
            if not caption:
                self.refuse(f"{source}: the {language} caption of {fields[0]} is empty. Restore it, or remove the row.")
            elif language == "chinese" and is_chinese and not num_chinese(caption):
                self.refuse(
                    f"{source}: the Chinese caption of {fields[0]} is {caption!r:.60}, without a Chinese character. "
                    "Restore it, or remove the row."
                )
            else:
                yield LabelRow(fields[0], _label(fields[1]), source, caption)

    def _check_chinese(self, captions: Sequence[tuple[str, str]]) -> bool:
        """Refuse a file whose column of Chinese captions, as a whole, is not Chinese; False if it was refused."""
        captions = [(caption, source) for caption, source in captions if caption]
        column = "\n".join(caption for caption, _ in captions)
        cause = misread_chinese(column)
        if not captions or (cause is None and num_chinese(column)):
            return True
        caption, source = captions[0]
        self.refuse(
            f"{source}: the Chinese column of this file is not Chinese, e.g. {caption!r:.60}. Likely cause: "
            f"{cause or 'the columns are in another order, or an editor replaced what it could not show'}. "
            "Use the file as distributed, in GB18030, or a copy converted from GB18030 to UTF-8."
        )
        return False

    def _report_uncaptioned(self, split: Split, rows: Sequence[LabelRow]) -> None:
        """Count the clips that only the split file without captions lists, where there is one."""
        path = self.label_file(split)
        plain = path.parents[2] / "no_caption" / path.parent.name / path.name
        if plain.is_file():
            captioned = {self.key(row.id) for row in rows}
            left = [row for row in self._read_plain(plain) if self.key(row.id) not in captioned]
            num_neutral = sum(row.label == "neutral" for row in left)
            inform(
                f"{self.name} {split}: {len(left)} clips of {plain} carry no caption and are left out, {num_neutral} "
                "of them neutral."
            )

    def _compare_labels(self, rows: Sequence[LabelRow]) -> None:
        """Refuse rows whose label is another one in the workbooks: one emotion in single-set, several in multi-set."""
        for row in rows:
            try:
                target = self.target(row)
            except ValueError:
                continue  # refused where the records are made
            if target is None or (book := self._labels("multi" if len(members(target)) > 1 else "single")) is None:
                continue
            expected, source = book.targets.get(self.key(row.id), (None, ""))
            if expected is None:
                self.refuse(f"{row.source}: clip {row.id} ({target}) is not in {book.path}. Use files of one release.")
            elif expected != target:
                self.refuse(
                    f"{row.source}: clip {row.id} is {target}, but {source} says {expected}. Use files of one release."
                )

    def _labels(self, kind: str) -> _Workbook | None:
        """A workbook's labels, read once; None when it is not there or in a wrong coding."""
        if kind not in self._workbooks:
            path = self._workbook_file(f"{kind}-set", f"{kind}_set")
            self._workbooks[kind] = None if path is None else self._read_workbook(path, kind)
        return self._workbooks[kind]

    def _workbook_file(self, *names: str) -> Path | None:
        paths = [self.root / "Labels" / f"{name}.xlsx" for name in names]
        return next((path for path in paths if path.is_file()), None)

    def _read_workbook(self, path: Path, kind: str) -> _Workbook | None:
        column, totals = f"{kind}_label", _SEVERAL if kind == "multi" else _SINGLE
        labels: dict[str, tuple[tuple[int, ...], str]] = {}
        for row, source in read_workbook(path, ["clip", column]):
            codes = _cell_codes(row[column])
            if not isinstance(row["clip"], str) or not codes or (len(codes) > 1) != (kind == "multi"):
                expected = "several codes as text, e.g. 1,2" if kind == "multi" else "one code"
                self.refuse(f"{source}: got {row}. Expected a clip such as 00025.mp4, and {expected}.")
                continue
            first, first_source = labels.setdefault(self.key(row["clip"]), (codes, source))
            if first != codes:
                self.refuse(f"{first_source} and {source} label clip {row['clip']} differently. Remove one.")
        published = Published(sum(totals.values()), totals, exact=True)
        found = [codes for codes, _ in labels.values()]
        cause = wrong_coding(found, Coding(self.name, _CLASSES, 1), self.other_codings, published)
        if cause:
            self.refuse(f"{path}: {cause}")
            return None
        targets = {}
        for key, (codes, source) in labels.items():
            try:
                targets[key] = COMPOUND_SEPARATOR.join(self.taxonomy.from_code(code, source) for code in codes), source
            except ValueError as error:
                self.refuse(str(error))
        return _Workbook(path, targets)

    def _report_invalid(self, split: Split, rows: Sequence[LabelRow]) -> None:
        """Warn of listed clips that the annotators marked as invalid."""
        marked = self._marked()
        invalid = [f"{row.id} ({marked[key]})" for row in rows if (key := self.key(row.id)) in marked]
        if invalid:
            more = ", ..." if len(invalid) > _NUM_NAMED else ""
            warn(
                f"{self.name} {split}: {len(invalid)} listed clips are marked as invalid: "
                f"{', '.join(invalid[:_NUM_NAMED])}{more}. They are kept, as in the published split."
            )

    def _marked(self) -> Mapping[str, str]:
        """Key of each clip that the annotators marked, and `file:row`; read once."""
        if self._invalid is None:
            path = self._workbook_file("annotation")
            # The column holds 0, -1 and a stray 0.93, which marks nothing.
            self._invalid = {
                self.key(str(row["clip"])): source
                for row, source in (read_workbook(path, ["clip", "invalid"]) if path else ())
                if _is_negative(row["invalid"])
            }
        return self._invalid


def _label(text: str) -> str | int:
    return int(text) if text.isdecimal() and len(text) < 10 else text


def _is_negative(cell: object) -> bool:
    """Whether a cell holds a number below 0, as a number or as text."""
    try:
        return isinstance(cell, int | float | str) and float(cell) < 0
    except ValueError:
        return False


def _cell_codes(cell: object) -> tuple[int, ...] | None:
    """Ascending codes of a label cell: a whole number, or text such as `1,2`. None for anything else."""
    if isinstance(cell, int | float):
        return (int(cell),) if float(cell).is_integer() else None
    parts = [part.strip() for part in cell.split(",")] if isinstance(cell, str) else []
    return (
        tuple(sorted(int(part) for part in parts))
        if parts and all(part.isdecimal() and len(part) < 10 for part in parts)
        else None
    )
