"""The MER challenges of 2023 to 2026: clips of Chinese films with one of six emotions, or with any words for them.

Tables as distributed (the files of MER2025 and MER2026 with their clips in `video/`):
  * `name,discrete`, and mostly `valence`: neutral, angry, happy, sad, worried, surprise;
  * `name,openset`: words such as `['worried', 'serious']`, as Python writes a list, or with commas between them;
  * `name,reason`: an explanation, in a file `track3_…` beside the words in `track2_…`;
  * `name,chinese,english`: what is said.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

from datamodules.clip_source import Split
from datamodules.corpus import Corpus, LabelRow
from datamodules.emotions import get_taxonomy
from datamodules.files.tables import read_csv
from datamodules.listed import ListedCorpus, Row
from datamodules.manifest_columns import Columns
from datamodules.published import Published

Labels = Literal["mer2023", "mer2024", "mer2025", "mer2026", "ovmerd", "mercaptionplus", "human"]
_TABLES: dict[Labels, tuple[str, int | None]] = {
    "mer2023": ("train-label.csv", None),
    "mer2024": ("label-disdim.csv", None),
    "mer2025": ("track1_train_disdim.csv", 7369),
    "mer2026": ("track1_train.csv", 9395),
    "ovmerd": ("track2_train_ovmerd.csv", 332),
    "mercaptionplus": ("track2_train_mercaptionplus.csv", 31327),
    "human": ("track2_train_human.csv", 1532),
}
"""Labels → their table, and how many clips it has by the READMEs of MER2025 and MER2026; OV-MERD is EMER-v2's clips."""
_OPEN = ("ovmerd", "mercaptionplus", "human")
_SUBTITLES = ("subtitle_chieng.csv", "label-transcription.csv", "transcription-engchi-polish.csv")


class MER(ListedCorpus):
    """Clips of a MER challenge, to train on; of a further table, to test on.

    Where labels are words of any kind, the target of a clip is the classes that some of them name, read as answers are
    with `aliases: extended`, and stage 1 learns to answer with all of the words behind the explanation.

    Args:
        root: directory with the tables, and with the clips anywhere below it, or in its `video/`.
        labels_of: which table: `mer2023` to `mer2026` for one emotion of six, `ovmerd` (OV-MERD), `mercaptionplus`
            (MER-Caption+) or `human` (Human-OV) for words.
        test_file: a table of the same columns whose clips are tested on, absolute or relative to the working directory
            or to `root`; null for none.
        unnamed: what becomes of a clip of whose words none names a class: `leave_out`, or `keep` to learn from it in
            stage 1; stage 3 needs a class.
        language: of what is said.
        taxonomy: the classes that labels may name.
        test_fraction: share of each class that is drawn for the test where there is no `test_file`.
        kwargs: see `ClipSource`.

    Raises:
        ValueError: there are no such labels.
    """

    clip_directories = ("video", ".")
    key, media_key = Corpus.key, Corpus.media_key  # clips go by their names, whatever folder they are in
    label_separator = ", "
    aliases: ClassVar[Mapping[str, str]] = {
        "neutral": "neutral", "angry": "anger", "happy": "happiness", "sad": "sadness", "worried": "anxiety",
        "worry": "anxiety", "surprise": "surprise",
    }  # fmt: skip

    def __init__(
        self,
        root: str,
        labels_of: Labels = "mer2025",
        test_file: str | None = None,
        unnamed: Literal["leave_out", "keep"] = "leave_out",
        language: Literal["english", "chinese"] = "english",
        taxonomy: str = "mer",
        test_fraction: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(root, taxonomy, **kwargs)
        self.draw(test_fraction, by_speaker=False)
        if labels_of not in get_args(Labels):
            raise ValueError(f"labels_of must be one of {', '.join(get_args(Labels))}; got {labels_of!r}.")
        self.labels_of = labels_of
        self.test_file = test_file
        self.keeps_unnamed = unnamed == "keep"
        self.language = language
        self.words = get_taxonomy(taxonomy, "extended")

    @property
    def name(self) -> str:
        """Whose labels they are, too: several may be joined."""
        return f"MER-{self.labels_of}"

    @property
    def is_open(self) -> bool:
        """Whether labels are words of any kind."""
        return self.labels_of in _OPEN

    def find_columns(self) -> Columns:
        """Rows tell their split where there is a table for the test. See `ListedCorpus.find_columns`."""
        fields = ("media", "label", "rationale", "transcript", *(("split",) if self.test_file else ()))
        return Columns({name: name for name in fields})

    def published(self, split: Split) -> Published | None:
        """The number of clips in a table to train on; None where a draw divides them or none is known."""
        num_clips = _TABLES[self.labels_of][1]
        is_whole = split == "train" and not (self.test_fraction and self.test_file is None)
        return Published(num_clips, {}, exact=True) if is_whole and num_clips is not None else None

    def target_of(self, labels: tuple[str, ...]) -> str | None:
        """See `ListedCorpus.target_of`; of words of any kind, the classes that some name (decision 55).

        A word that `data.labels` has null for names none.
        """
        if not self.is_open:
            return super().target_of(labels)
        own = [self.labels.get(word.lower(), word) for word in labels]
        return self.words.joined(emotion for word in own if word and (emotion := self.words.canonical(word))) or None

    def learned(self, row: LabelRow, target: str | None, num_labels: int) -> str | None:
        """See `ListedCorpus.learned`; of words of any kind, the answer is all of them."""
        if not self.is_open:
            return super().learned(row, target, num_labels)
        response = self.response(row, str(row.label))
        assert response is not None, "of a row with a rationale"
        self._check_tags(row, response)
        return response

    def listed(self, columns: Columns) -> Iterator[Row]:
        """Rows of the table or tables. See `ListedCorpus.listed`."""
        name, _ = _TABLES[self.labels_of]
        tables = {"train": self.find((name,), f"labels of {self.labels_of}")}
        if self.test_file is not None:
            tables["test"] = self.named_file(self.test_file)
        spoken = next(
            (self._by_name(path, self.language) for place in _SUBTITLES if (path := self.root / place).is_file()), {}
        )
        label = "openset" if self.is_open else "discrete"
        for part, path in tables.items():
            reasons = path.with_name(path.name.replace("track2", "track3"))
            reason_of = self._by_name(reasons, "reason") if reasons != path and reasons.is_file() else {}
            for row, source in read_csv(path, ["name", label], refuse=self.refuse):
                clip = self.key(row["name"])
                yield (
                    {
                        "media": clip,
                        "label": _words(row[label]) if self.is_open else row[label],
                        "split": part,
                        "rationale": reason_of.get(clip),
                        "transcript": spoken.get(clip),
                    },
                    source,
                )

    def _by_name(self, path: Path, column: str) -> dict[str, str]:
        """Clip → what a column of a table has for it."""
        if self.refuses_link(path):
            return {}
        return {self.key(row["name"]): row[column] for row, _ in read_csv(path, ["name", column], refuse=self.refuse)}


def _words(cell: str) -> list[str]:
    """Words of a cell such as `['worried', 'serious']` or `worried, serious`."""
    return [word for part in cell.strip("[]").split(",") if (word := part.strip(" '\""))]
