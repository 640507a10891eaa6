"""What all clip corpora share while they are read: options, splits, records and their checks, without torch.

A corpus adds how its labels are read; `ClipDataModule` makes batches of it. Duplicates and overlaps between the splits
are errors that name the rows (decision 6).
"""

from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal, get_args

from datamodules.containers import PICTURE_SUFFIXES, SOUND_SUFFIXES, VIDEO_SUFFIXES
from datamodules.emotions import Taxonomy
from datamodules.files.printable import printable
from datamodules.files.tables import refuse_row
from datamodules.media_settings import MediaSettings, Modality

Split = Literal["train", "test", "predict"]

BASE_QUESTION = (
    "As an emotional recognition expert; throughout the video, "
    "which emotion conveyed by the characters is the most obvious to you?"
)
OUTPUT_FORMAT = "Output the thinking process in <think> </think> and final emotion in <answer> </answer> tags."
INSTRUCTION = f"{BASE_QUESTION}  {OUTPUT_FORMAT}"
"""The paper's instruction for stages 1 and 3 and for evaluation, with its two spaces (decision 3)."""

TRANSCRIPT = "{transcript}"
"""Stands in a template for what is said in a clip."""


@dataclass(frozen=True, slots=True)
class ClipRecord:
    """One row of a label file.

    Args:
        id: the clip's id as distributed.
        media: path of the media file, or None when no file was found for the row; of a part of one, with the segment
            behind it (`segments.split_media`).
        target: canonical emotion, or None where there is no label (`predict`); several, as MAFW's compound clips have,
            are joined by `_` (`emotions.members` takes them apart).
        response: the completion to learn in stage 1, or None.
        source: `file:row` of the label, for messages.
        dataset: name of the corpus; `read_splits` fills it in.
        instruction: what the model is asked of this clip; None: what it is asked of all.
        transcript: what is said in the clip, or None.
        is_validation: the corpus itself holds the clip out of training for validation.
        may_lack: what the file need not have; `read_splits` fills it in with `dataset`.
    """

    id: str
    media: str | None
    target: str | None
    response: str | None
    source: str
    dataset: str = ""
    instruction: str | None = None
    transcript: str | None = None
    is_validation: bool = False
    may_lack: tuple[Modality, ...] = ("sound",)

    def told(self, transcript_template: str | None) -> str | None:
        """The line that tells the model what is said in the clip; None without a transcript or a template.

        Args:
            transcript_template: see `ClipSource`.
        """
        if transcript_template is None or self.transcript is None:
            return None
        return transcript_template.replace(TRANSCRIPT, self.transcript)

    def lack(self, has_video: bool, has_audio: bool) -> str | None:
        """What the clip's file lacks and must have, in words; None where it has all of it."""
        if not has_video and "pictures" not in self.may_lack:
            return "no video stream. If clips of sound alone are meant, add pictures to data.allow_missing"
        if not has_audio and "sound" not in self.may_lack:
            return "no audio stream. If clips of pictures alone are meant, add sound to data.allow_missing"
        return None


class DataSource(ABC):  # noqa: B024 (a name for both)
    """What `--data` names: a corpus of clips, or any LightningDataModule, which the command line registers here."""


class ClipSource(DataSource):
    """Base of the clip corpora: a subclass has a `taxonomy` and `records` and, where they differ, `splits` and `key`.

    Args:
        root: directory of the corpus.
        batch_size: clips per training batch and device (stage 3: prompts per step and device).
        eval_batch_size: clips per validation, test and prediction batch and device.
        num_workers: decoding processes per loader; 0 decodes in the main process.
        media: how clips are decoded; must agree with the backbone.
        instruction: the text the model is asked with, the same in every stage.
        validation_fraction: share of the training split held out for validation, per class, in [0, 1).
        seed: of the validation draw, the order of training clips and the choice under `limit`.
        on_undecodable: what training does with a clip that cannot be decoded or has no file: `skip` leaves it out and
            counts it, `error` stops. Evaluation always keeps it, as a wrong answer.
        cache_in_memory: keep decoded clips in RAM (about 1.2 MB each at 8 frames of 224 pixels, and 64 kB per second of
            audio; once per worker process): pays off for small corpora over many epochs.
        limit: at most this many clips per split, drawn by `seed`; null takes all.
        pin_memory: put batches into page-locked memory, for faster copies to a GPU; null: where there is one.
        balance_classes: draw each class equally often in training, rare classes repeatedly; an epoch keeps its length.
        cache_dir: directory for decoded frames, waveforms and mel features, read instead of the media file from the
            second epoch or run on; null decodes every time. Several runs and settings may share one.
        cache_gigabytes: largest size of `cache_dir`, in 10⁹ bytes.
        timeout_seconds: longest time for one clip. Clips are read in processes of their own, one per loading process; a
            clip whose decoder takes longer, or crashes, counts as undecodable. Null: no limit, and no such processes.
        follow_links: read label and media files also through links that lead out of `root`. An archive can hold such
            links, to any file of this machine; set it where they are your own.
        allow_missing: what clips may be without: `sound`, which is silence then, and `pictures`, black frames. A clip
            that lacks something else counts as undecodable. Null: what the corpus' own class allows (decision 54).
        transcript_template: a line before the question that tells the model what is said in the clip, where the corpus
            knows it, e.g. `The speaker says: "{transcript}"`; null leaves the words to be heard.
    """

    taxonomy: Taxonomy | None
    """The classes of the targets; None for clips without labels. Of the class, or set at construction."""
    overlaps: ClassVar[Mapping[str, str]] = {}
    """Other corpora, by class name, that share clips with this one → what is known of it."""
    may_lack: ClassVar[tuple[Modality, ...]] = ("sound",)
    """What clips may be without, unless `allow_missing` says otherwise."""
    stills_are_clips: ClassVar[bool] = False
    """Whether pictures among the files are clips, and not something that lies beside them."""

    def __init__(
        self,
        root: str,
        batch_size: int = 1,
        eval_batch_size: int = 8,
        num_workers: int = 0,
        media: MediaSettings = MediaSettings(),  # noqa: B008 (frozen; the CLI reads its defaults from here)
        instruction: str = INSTRUCTION,
        validation_fraction: float = 0.1,
        seed: int = 0,
        on_undecodable: Literal["skip", "error"] = "skip",
        cache_in_memory: bool = False,
        limit: int | None = None,
        pin_memory: bool | None = None,
        balance_classes: bool = False,
        cache_dir: str | None = None,
        cache_gigabytes: float = 50.0,
        timeout_seconds: float | None = 60.0,
        follow_links: bool = False,
        allow_missing: list[Modality] | None = None,
        transcript_template: str | None = None,
    ) -> None:
        if batch_size < 1 or eval_batch_size < 1 or num_workers < 0:
            raise ValueError(
                f"Got batch_size={batch_size}, eval_batch_size={eval_batch_size}, num_workers={num_workers}. Expected "
                "batch sizes of 1 or more, and num_workers of 0 or more."
            )
        if not 0 <= validation_fraction < 1:
            raise ValueError(f"validation_fraction must be in [0, 1), got {validation_fraction}.")
        if timeout_seconds is not None and not timeout_seconds > 0:
            raise ValueError(f"timeout_seconds must be above 0, or null for no limit; got {timeout_seconds}.")
        if limit is not None and limit < 1:
            raise ValueError(f"limit must be at least 1, or null for all clips; got {limit}.")
        unknown = set(allow_missing or ()) - set(get_args(Modality))
        if unknown:
            raise ValueError(f"allow_missing has {', '.join(sorted(unknown))}. Expected sound, pictures, or both.")
        if transcript_template is not None and TRANSCRIPT not in transcript_template:
            raise ValueError(f"transcript_template must have {TRANSCRIPT} in it; got {transcript_template!r:.200}.")
        self.root = Path(root)
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.num_workers = num_workers
        self.media = media
        self.instruction = instruction
        self.validation_fraction = validation_fraction
        self.seed = seed
        self.on_undecodable = on_undecodable
        self.cache_in_memory = cache_in_memory
        self.limit = limit
        self.pin_memory = pin_memory
        self.balance_classes = balance_classes
        self.cache_dir = cache_dir
        self.cache_gigabytes = cache_gigabytes
        self.timeout_seconds = timeout_seconds
        self.follow_links = follow_links
        self.transcript_template = transcript_template
        self.allow_missing = self.may_lack if allow_missing is None else tuple(allow_missing)
        self.problems: list[str] | None = None
        self._rows: dict[Split, list[ClipRecord]] = {}

    @property
    def name(self) -> str:
        """What messages and prediction files call the corpus."""
        return type(self).__name__

    @property
    def media_suffixes(self) -> tuple[str, ...]:
        """Suffixes of the files that may be clips: sound alone where pictures may be missing."""
        sound = SOUND_SUFFIXES if "pictures" in self.allow_missing else ()
        stills = PICTURE_SUFFIXES if self.stills_are_clips and "sound" in self.allow_missing else ()
        return VIDEO_SUFFIXES + sound + stills

    @property
    def splits(self) -> tuple[Split, ...]:
        """The splits that the corpus, as configured, has."""
        return ("train", "test", "predict")

    def why_without(self, split: Split) -> str:
        """Why a split is not there and what helps, for the message behind a space; empty where nothing is known."""
        return ""

    @property
    def caveats(self) -> list[str]:
        """What is known against training on the corpus; warned of before it."""
        return []

    @abstractmethod
    def records(self, split: Split) -> list[ClipRecord]:
        """Rows of a split in the order of its label file.

        Raises:
            FileNotFoundError: a label file or the clips are not where they should be.
            ValueError: a malformed row, an unknown label, or no row at all; names file and row.
        """

    def key(self, clip_id: str) -> str:
        """What makes two ids the same clip; a corpus that writes ids in several ways normalises here."""
        return clip_id

    def refuse(self, problem: str) -> None:
        """Stop at a bad row, or where `problems` is a list (`inspect_data`), note it there and leave the row out.

        Raises:
            ValueError: with the problem.
        """
        if self.problems is None:
            refuse_row(problem)
        else:
            self.problems.append(problem)

    def refuses_link(self, path: Path, root: Path | None = None) -> bool:
        """Whether a path leads out of a directory and must not be followed there; `refuse` is told.

        Args:
            path: below the directory, by its name.
            root: the directory; None: the corpus'.
        """
        root = self.root if root is None else root
        if self.follow_links or path.resolve().is_relative_to(root.resolve()):
            return False
        self.refuse(
            f"{path} leads to {path.resolve()}, out of {root}, and is not read: an archive can hold links to any file "
            "of this machine. If the link is your own, set data.follow_links to true."
        )
        return True

    def read_splits(self) -> dict[Split, list[ClipRecord]]:
        """The rows of every split, read and checked once."""
        if not self._rows:
            self._rows = {split: self._read(split) for split in self.splits}
            # `inspect_data` lists every clip of an overlap itself.
            if self.problems is None and "train" in self._rows and "test" in self._rows:
                self._check_overlap(self._rows["train"], self._rows["test"])
        return self._rows

    def _read(self, split: Split) -> list[ClipRecord]:
        records = self.records(split)
        for position, record in enumerate(records):
            if not record.dataset:
                record = replace(record, dataset=self.name, may_lack=self.allow_missing)
            identifier = printable(record.id)
            records[position] = record if identifier == record.id else replace(record, id=identifier)
        if not records:
            self.refuse(f"{self.name} at {self.root}: the {split} split lists no clips.")
        rows: dict[str, ClipRecord] = {}
        for record in records:
            first = rows.setdefault(self.key(record.id), record)
            if first is not record:
                self.refuse(listed_twice(first, record))
        return list(rows.values())

    def _check_overlap(self, train: Sequence[ClipRecord], test: Sequence[ClipRecord]) -> None:
        rows = {self.key(record.id): record for record in train}
        shared = [record for record in test if self.key(record.id) in rows]
        if shared:
            first = shared[0]
            self.refuse(
                f"{len(shared)} clips are in both train and test, e.g. {first.id!r}: "
                f"{rows[self.key(first.id)].source} and {first.source}. Test clips must not be trained on."
            )

    def sampling_groups(self, records: Sequence[ClipRecord]) -> tuple[list[Hashable], Mapping[Hashable, float]] | None:
        """A group per training clip and the share of draws of each group; None draws every clip once per epoch."""
        if not self.balance_classes:
            return None
        groups: list[Hashable] = [record.target for record in records]
        return groups, balanced_shares(groups)


def listed_twice(first: ClipRecord, second: ClipRecord) -> str:
    """What is wrong with two rows of one clip."""
    return f"Clip {second.id!r} is listed twice: {first.source} and {second.source}. Remove one of the rows."


def balanced_shares(groups: Sequence[Hashable]) -> dict[Hashable, float]:
    """The same share for each group that has an item.

    Args:
        groups: one group per item, e.g. its class.
    """
    distinct = dict.fromkeys(groups)
    return {group: 1 / len(distinct) for group in distinct}
