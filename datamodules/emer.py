r"""EMER's explanations for stage 1, as distributed and as R1-Omni's conversation JSON.

Three forms, told apart by their content:
  * v1, `gt-eng.csv` and `gt-chi.csv`: `names,emotions,subtitles,reasons`;
  * v2, `final-EMER-reason.csv`: `name,chinese,english`; its labels are MER2023's, in `train-label.csv`;
  * a JSON list of `{"video": path, "conversations": [{"from": "human", "value"}, {"from": "gpt", "value"}]}`, where the
X in the JSON is not used: `instruction` is, so that all stages ask with one prompt (the published code has
three). How many rows ask another is logged.
"""

import csv
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from datamodules.clip_source import Split
from datamodules.corpus import Corpus, LabelRow
from datamodules.emotions import MAFW_TAXONOMY, get_taxonomy
from datamodules.files.json_files import read_json, shown
from datamodules.files.tables import read_csv
from datamodules.notices import inform
from datamodules.published import Published
from datamodules.rationale import TAGS, first_tagged

_MEDIA_PREFIX = re.compile(r"(?:\s*<(?:video|audio|image)>)*\s*")

Form = Literal["v1", "v2"]
_COLUMNS: dict[Form, list[str]] = {
    "v1": ["names", "emotions", "subtitles", "reasons"],
    "v2": ["name", "chinese", "english"],
}
_PUBLISHED: dict[Form, Published] = {
    "v1": Published(100, {"anger": 36, "happiness": 32, "anxiety": 17, "sadness": 11, "surprise": 4}, exact=True),
    # Of v2, only the counts of 331 rows are known: those of ERV0's cold-start file.
    "v2": Published(332, {"anger": 115, "happiness": 91, "anxiety": 59, "sadness": 43, "surprise": 23}, exact=False),
}

_PLACES = ("*.json", "*.csv", "dataset-v*/*.csv")
"""Where annotations are looked for: the root, and the folders that AffectGPT's repository distributes EMER in."""
_LANGUAGE_SUFFIX = {"english": "-eng", "chinese": "-chi"}


@dataclass(frozen=True)
class Conversation(LabelRow):
    """One entry of a conversation JSON.

    Args:
        video: the clip's path, with slashes.
        directory: of the JSON.
        response: the gpt value, to learn verbatim.
    """

    video: str = ""
    directory: Path = Path()
    response: str = ""


class EMER(Corpus):
    """Clips with the explanation to learn; a clip is known by its file name without suffix, in every form.

    Clips are found by that name under `videos/`, MER2023's `train/`, or anywhere under `root`. A conversation JSON has
    paths, which are looked for first, below `root`, `videos/` and the JSON's own directory. A path that leads out of
    these, as the absolute ones of R1-Omni's authors do, is never opened; only its file name counts.

    Args:
        root: directory of the annotations and clips.
        annotations: the training file, absolute or relative to the working directory or to `root`; null takes the one
            file in `root` or its `dataset-v*/` that has one of the three forms.
        test_file: a second file, in any of the forms, for `test`; null for none.
        labels: MER2023's `train-label.csv` (`name,discrete,valence`), for v2; null takes the one in `root`.
        language: of v2's explanations, and which of v1's two files is taken where none is named.
        taxonomy: the classes that labels may name. EMER has clips of anxiety (`worried`), a class that only `mafw` has.
        kwargs: see `ClipSource`.
    """

    clip_directories = ("videos", "train", ".")
    # MER2023's words, and those of v1's Chinese file. ERV's cold start also turns `worried` into anxiety.
    aliases: ClassVar[Mapping[str, str]] = {
        "worried": "anxiety",
        "生气": "anger",
        "高兴": "happiness",
        "担忧": "anxiety",
        "悲伤": "sadness",
        "惊讶": "surprise",
    }

    def __init__(
        self,
        root: str,
        annotations: str | None = None,
        test_file: str | None = None,
        labels: str | None = None,
        language: Literal["english", "chinese"] = "english",
        taxonomy: str = "dfew",
        **kwargs: Any,
    ) -> None:
        super().__init__(root, **kwargs)
        self.annotations = annotations
        self.test_file = test_file
        self.labels = labels
        self.language = language
        self.taxonomy = get_taxonomy(taxonomy)

    @property
    def splits(self) -> tuple[Split, ...]:
        """EMER has no test split of its own: `test` needs a `test_file`. Clips of v2 without labels are predicted."""
        if self.test_file is not None:
            return ("train", "test", "predict")
        return ("predict",) if self._lacks_labels else ("train",)

    @property
    def _lacks_labels(self) -> bool:
        """Whether clips are v2's alone, and MER2023's labels are not there."""
        has_labels = self.labels is not None or self.test_file is not None or self._own_labels.is_file()
        return not has_labels and _csv_form(self.label_file("train")) == "v2"

    @property
    def _own_labels(self) -> Path:
        return self.root / "train-label.csv"

    def why_without(self, split: Split) -> str:
        """See `ClipSource.why_without`."""
        return f" {self._to_get(self.label_file('train'))}" if self._lacks_labels else ""

    def _to_get(self, annotations: Path) -> str:
        return (
            f"{annotations} is EMER v2, which has no labels of its own. Looked for MER2023's at {self._own_labels}. "
            "Put its train-label.csv (name,discrete,valence) there, or name it as `labels`. MER2023's authors give it "
            "out with the clips."
        )

    def published(self, split: Split) -> Published | None:
        """Counts of v1 and v2 as distributed; none of a conversation JSON, which anyone may have made."""
        form = _csv_form(self.label_file(split)) if split == "train" else None
        return None if form is None else _PUBLISHED[form]

    def label_file(self, split: Split) -> Path:
        """`annotations`, or what is found in its stead; `test_file` for `test` and `predict`."""
        if split == "train" or self.test_file is None:
            return self.named_file(self.annotations) if self.annotations else self._discover()
        return self.named_file(self.test_file)

    def read_labels(self, path: Path) -> Iterator[LabelRow]:
        """Rows of a file in any of the three forms."""
        form = _csv_form(path)
        if form == "v1":
            return self._read_v1(path)
        if form == "v2":
            return self._read_v2(path)
        if path.suffix.lower() == ".csv":
            expected = " or ".join(f"{','.join(columns)} (EMER {name})" for name, columns in _COLUMNS.items())
            raise ValueError(f"{path}:1: got the header {','.join(_header(path))!r}. Expected {expected}.")
        return self._read_conversations(path)

    def target(self, row: LabelRow) -> str | None:
        """See `Corpus.target`. A JSON's answer is learned verbatim, so it must be one that evaluation reads."""
        if row.label is None:
            return None
        label = str(row.label)
        if not isinstance(row, Conversation):
            label = self.aliases.get(label.strip().lower(), label)
        known = MAFW_TAXONOMY.canonical(label) if self.taxonomy.canonical(label) is None else None
        if known is not None:
            raise ValueError(
                f"{row.source}: label {row.label!r} is not a {self.taxonomy.name} emotion, but mafw's {known}. "
                "Set `taxonomy: mafw`, for the data and the model."
            )
        return self.taxonomy.target(label, row.source)

    def response(self, row: LabelRow, target: str | None) -> str | None:
        """A JSON's gpt value verbatim; else made of the rationale and the target."""
        return row.response if isinstance(row, Conversation) else super().response(row, target)

    def media_file(self, row: LabelRow) -> Path | None:
        """The file at a JSON's path, unless that escapes; else the one with the clip's name.

        Raises:
            ValueError: there is a link that leads out.
        """
        if isinstance(row, Conversation):
            for directory, root in (
                (self.root, self.root),
                (self.root / "videos", self.root),
                (row.directory, row.directory),
            ):
                path = directory / row.video  # an absolute path replaces the directory
                inside = ".." not in Path(row.video).parts and path.absolute().is_relative_to(directory.absolute())
                if inside and path.is_file() and not self.refuses_link(path, root):
                    return path
        return super().media_file(row)

    def _discover(self) -> Path:
        """The one file that has one of the three forms and is not the test file."""
        test_path = None if self.test_file is None else self.named_file(self.test_file).resolve()
        candidates = [
            path for place in _PLACES for path in sorted(self.root.glob(place)) if path.resolve() != test_path
        ]
        found, looked_at = [], []
        for path in candidates:
            try:
                found += [path] if _holds_explanations(path) else []
                looked_at.append(str(path))
            except ValueError as error:  # it may be a file of another purpose, or the one that is looked for
                looked_at.append(str(error))
        others = tuple(suffix for language, suffix in _LANGUAGE_SUFFIX.items() if language != self.language)
        found = [path for path in found if not path.stem.endswith(others)]
        if len(found) == 1:
            return found[0]
        if found:
            raise ValueError(
                f"Several files with EMER explanations: {', '.join(map(str, found))}. Name one as `annotations`."
            )
        where = "; ".join(looked_at) or f"no {', '.join(_PLACES)} there"
        raise FileNotFoundError(
            f"No {self.language} EMER explanations in {self.root} (looked at: {where}). Expected a CSV with the "
            f"header {' or '.join(','.join(columns) for columns in _COLUMNS.values())}, or a conversation JSON. "
            "Name it as `annotations`."
        )

    def _read_v1(self, path: Path) -> Iterator[LabelRow]:
        for row, source in read_csv(path, _COLUMNS["v1"], refuse=self.refuse):
            if not row["names"] or not row["reasons"]:
                self.refuse(f"{source}: got names {row['names']!r} and reasons {row['reasons']!r}. Both must be there.")
                continue
            yield LabelRow(self.key(row["names"]), row["emotions"], source, row["reasons"])

    def _read_v2(self, path: Path) -> Iterator[LabelRow]:
        label_file = self.named_file(self.labels) if self.labels else self._own_labels
        if self.test_file is not None and not label_file.is_file():
            raise FileNotFoundError(self._to_get(path))
        labels = None if self._lacks_labels else self._mer2023_labels(label_file)
        for row, source in read_csv(path, _COLUMNS["v2"], refuse=self.refuse):
            name, reason = row["name"], row[self.language]
            if not name or not reason:
                self.refuse(f"{source}: got name {name!r} and {self.language} {reason!r}. Both must be there.")
            elif labels is None:
                yield LabelRow(self.key(name), None, source)
            elif (clip := self.key(name)) not in labels:
                self.refuse(f"{source}: clip {name!r} has no label in {label_file}. Use MER2023's complete file.")
            else:
                yield LabelRow(clip, labels[clip], source, reason)

    def _mer2023_labels(self, path: Path) -> dict[str, str]:
        """Clip → discrete label."""
        labels: dict[str, str] = {}
        for row, source in read_csv(path, ["name", "discrete"], refuse=self.refuse):
            if labels.setdefault(self.key(row["name"]), row["discrete"]) != row["discrete"]:
                self.refuse(f"{source}: clip {row['name']!r} has another label further up. Remove one of the rows.")
        return labels

    def _read_conversations(self, path: Path) -> Iterator[Conversation]:
        entries = read_json(path)
        if not isinstance(entries, list):
            raise ValueError(f"{path}: got {shown(entries)}. Expected a JSON list of conversations.")
        other_questions = bare_answers = 0
        for position, entry in enumerate(entries, start=1):
            source = f"{path}:{position}"
            try:
                video, question, answer, response = _read_entry(entry, source)
            except ValueError as error:
                self.refuse(str(error))
                continue
            bare_answers += answer == response.strip()
            other_questions += question.split() != self.instruction.split()
            yield Conversation(self.key(video), answer, source, video=video, directory=path.parent, response=response)
        if other_questions:
            inform(f"{path}: {other_questions} of {len(entries)} rows ask another question than `instruction`.")
        if bare_answers:
            inform(
                f"{path}: {bare_answers} of {len(entries)} answers are bare labels, all that stage 3 needs. Stage 1 "
                "would learn to answer without a rationale, which model.bare_answers reads."
            )


def _header(path: Path) -> list[str]:
    with path.open("rb") as file:
        line = file.readline(1000).decode("utf-8-sig", errors="replace")
    return [name.strip() for name in next(csv.reader(line.splitlines()[:1]), [])]


def _csv_form(path: Path) -> Form | None:
    """Which of EMER's CSV forms a file has; None for neither."""
    header = set(_header(path))
    return next((form for form, columns in _COLUMNS.items() if header.issuperset(columns)), None)


def _holds_explanations(path: Path) -> bool:
    if path.suffix.lower() == ".csv":
        return _csv_form(path) is not None
    content = read_json(path)
    return isinstance(content, list) and any(isinstance(entry, dict) and "conversations" in entry for entry in content)


def _read_entry(entry: Any, source: str) -> tuple[str, str, str, str]:
    """Video path, question without its media prefix, answer, and response of an entry.

    Raises:
        ValueError: the entry has another form.
    """
    video = entry.get("video") if isinstance(entry, dict) else None
    turns = entry.get("conversations") if isinstance(entry, dict) else None
    if not isinstance(video, str) or not video or not isinstance(turns, list):
        raise ValueError(
            f"{source}: expected an object with `video` (a path) and `conversations`, got {shown(entry, 120)}."
        )
    speakers = [turn.get("from") if isinstance(turn, dict) else None for turn in turns]
    if speakers != ["human", "gpt"] or not all(isinstance(turn.get("value"), str) for turn in turns):
        raise ValueError(
            f"{source}: expected one human and one gpt turn, each with a text `value`; got turns from {speakers}."
        )
    response = turns[1]["value"]
    answer = first_tagged(response, "answer")
    if answer is None:
        if any(tag in response for tag in TAGS):
            raise ValueError(f"{source}: the gpt value has no <answer>...</answer>: {response[:80]!r}.")
        answer = response.strip()
    path = video.replace("\\", "/")  # written under Windows
    return path, _MEDIA_PREFIX.sub("", turns[0]["value"], count=1), answer, response
