"""What all clip corpora share: splits, checks, decoding, skipping, loaders. A corpus adds only how its labels are read.

Decisions (spec "datasets" §7): validation is a seeded, class-stratified part of the training split, never of the test
split; a clip that cannot be decoded is left out of training (or fatal, by choice), and in evaluation it is kept and
counts as a wrong answer; duplicates and overlaps between the splits are errors that name the rows.
"""

import random
from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from lightning import LightningDataModule
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn
from torch.utils.data import DataLoader, Dataset, Sampler

from datamodules.batch import Clip, collate
from datamodules.emotions import Taxonomy
from datamodules.media import DecodedClip, MediaError, MediaSettings, decode_clip
from datamodules.samplers import evaluation_sampler, training_sampler

Split = Literal["train", "test", "predict"]

BASE_QUESTION = (
    "As an emotional recognition expert; throughout the video, "
    "which emotion conveyed by the characters is the most obvious to you?"
)
OUTPUT_FORMAT = "Output the thinking process in <think> </think> and final emotion in <answer> </answer> tags."
INSTRUCTION = f"{BASE_QUESTION}  {OUTPUT_FORMAT}"
"""The paper's instruction for stages 1 and 3 and for evaluation, with its two spaces (spec "Instruction")."""

_STAGE_SPLIT: dict[str, Split] = {"fit": "train", "validate": "train", "test": "test", "predict": "predict"}

VIDEO_SUFFIXES = (".mp4", ".avi", ".mkv", ".mov", ".webm")
_NUM_NAMED = 3  # rows that a summary warning names; the count says how many more there are


@dataclass(frozen=True)
class ClipRecord:
    """One row of a label file.

    Args:
        id: the clip's id as distributed.
        media: path of the media file, or None when no file was found for the row.
        target: canonical emotion, or None where there is no label (`predict`).
        response: the completion to learn in stage 1, or None.
        source: `file:row` of the label, for messages.
    """

    id: str
    media: str | None
    target: str | None
    response: str | None
    source: str


class ClipDataset(Dataset[Clip]):
    """Decodes the clips of records.

    Args:
        records: the rows.
        settings: how clips are decoded.
        instruction: the text the model is asked with.
        on_undecodable: `skip` returns a failed clip (black frames, no audio, `failure` set), `error` raises.
        cache_in_memory: keep decoded clips; each worker process has a cache of its own.
    """

    def __init__(
        self,
        records: Sequence[ClipRecord],
        settings: MediaSettings,
        instruction: str,
        on_undecodable: Literal["skip", "error"],
        cache_in_memory: bool,
    ) -> None:
        self.records = list(records)
        self.settings = settings
        self.instruction = instruction
        self.on_undecodable = on_undecodable
        self._cache: dict[int, Clip] | None = {} if cache_in_memory else None

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Clip:
        """The clip of a record.

        Raises:
            MediaError: the clip cannot be decoded and `on_undecodable` is `error`.
        """
        if self._cache is None:
            return self._load(self.records[index])
        if index not in self._cache:
            self._cache[index] = self._load(self.records[index])
        return self._cache[index]

    def _load(self, record: ClipRecord) -> Clip:
        failure = None
        try:
            if record.media is None:
                raise MediaError(f"listed in {record.source}, but there is no such file")
            decoded = decode_clip(record.media, self.settings)
        except MediaError as error:
            if self.on_undecodable == "error":
                raise
            failure = str(error).removeprefix(f"{record.media}: ")
            size = self.settings.image_size
            black = torch.zeros(self.settings.num_frames, 3, size, size, dtype=torch.uint8)
            decoded = DecodedClip(black, torch.zeros(0), has_audio=False)
        return Clip(
            id=record.id,
            media=record.media or "",
            frames=decoded.frames,
            waveform=decoded.waveform,
            has_audio=decoded.has_audio,
            instruction=self.instruction,
            target=record.target,
            response=record.response,
            failure=failure,
        )


def split_validation(
    records: Sequence[ClipRecord], fraction: float, seed: int
) -> tuple[list[ClipRecord], list[ClipRecord]]:
    """Training and validation part of a training split, stratified by class, both in the order of `records`.

    Each class gives round(fraction · clips) clips, at least one where it has two or more. Depends on the label file and
    the seed only, not on which media files are present.

    Args:
        records: the training split.
        fraction: share of validation in [0, 1); 0 leaves none.
        seed: of the draw within each class.
    """
    classes: dict[str | None, list[int]] = defaultdict(list)
    for position, record in enumerate(records):
        classes[record.target].append(position)
    held_out: set[int] = set()
    for emotion, positions in classes.items():
        wanted = min(max(round(fraction * len(positions)), 1), len(positions) - 1) if fraction > 0 else 0
        held_out.update(random.Random(f"{seed}/{emotion}").sample(positions, wanted))
    training = [record for position, record in enumerate(records) if position not in held_out]
    return training, [records[position] for position in sorted(held_out)]


class ClipDataModule(LightningDataModule, ABC):
    """Base of the clip corpora; a subclass implements `records`, `taxonomy` and, where it differs, `splits` and `key`.

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
        pin_memory: put batches into page-locked memory, for faster copies to a GPU.
    """

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
        pin_memory: bool = False,
    ) -> None:
        super().__init__()
        if not 0 <= validation_fraction < 1:
            raise ValueError(f"validation_fraction must be in [0, 1), got {validation_fraction}.")
        if limit is not None and limit < 1:
            raise ValueError(f"limit must be at least 1, or null for all clips; got {limit}.")
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
        self.datasets: dict[str, ClipDataset] = {}
        self._rows: dict[Split, list[ClipRecord]] = {}

    @property
    @abstractmethod
    def taxonomy(self) -> Taxonomy:
        """The classes of the targets."""

    @property
    def splits(self) -> tuple[Split, ...]:
        """The splits that the corpus, as configured, has."""
        return ("train", "test", "predict")

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

    def setup(self, stage: str) -> None:
        """Read and check the label files once; `stage` is Lightning's.

        Raises:
            FileNotFoundError, ValueError: see `records`; also for a clip listed twice or in both train and test.
        """
        needed = _STAGE_SPLIT[stage]
        if needed not in self.splits:
            raise ValueError(f"{type(self).__name__} at {self.root} has no {needed} split; it has {self.splits}.")
        if not self._rows:
            self._rows = {split: self._read(split) for split in self.splits}
            if "train" in self._rows and "test" in self._rows:
                self._check_overlap(self._rows["train"], self._rows["test"])
        if needed != "train":
            self._add_dataset(needed, self._rows[needed])
            return
        training, validation = split_validation(self._rows["train"], self.validation_fraction, self.seed)
        if stage == "fit":
            self._add_dataset("train", training)
        if validation:
            self._add_dataset("validation", validation)

    def _read(self, split: Split) -> list[ClipRecord]:
        rows = self.records(split)
        if not rows:
            raise ValueError(f"{type(self).__name__} at {self.root}: the {split} split lists no clips.")
        seen: dict[str, ClipRecord] = {}
        for record in rows:
            first = seen.setdefault(self.key(record.id), record)
            if first is not record:
                raise ValueError(
                    f"Clip {record.id!r} is listed twice: {first.source} and {record.source}. Remove one of the rows."
                )
        return rows

    def _check_overlap(self, train: Sequence[ClipRecord], test: Sequence[ClipRecord]) -> None:
        rows = {self.key(record.id): record for record in train}
        shared = [record for record in test if self.key(record.id) in rows]
        if shared:
            first = shared[0]
            raise ValueError(
                f"{len(shared)} clips are in both train and test, e.g. {first.id!r}: "
                f"{rows[self.key(first.id)].source} and {first.source}. Test clips must not be trained on."
            )

    def _add_dataset(self, name: str, records: list[ClipRecord]) -> None:
        """Limit, report and keep the records of one dataset (`train`, `validation`, `test` or `predict`)."""
        if name in self.datasets:
            return
        if self.limit is not None and len(records) > self.limit:
            chosen = random.Random(f"{self.seed}/{name}").sample(range(len(records)), self.limit)
            records = [records[position] for position in sorted(chosen)]
        missing = [record for record in records if record.media is None]
        if len(missing) == len(records):
            raise ValueError(
                f"{type(self).__name__} {name}: none of the {len(missing)} listed clips has a file under {self.root}; "
                f"the first is {missing[0].id} ({missing[0].source})."
            )
        if missing:
            self._report_missing(name, missing)
            if name == "train":
                records = [record for record in records if record.media is not None]
        self.datasets[name] = ClipDataset(
            records,
            self.media,
            self.instruction,
            self.on_undecodable if name == "train" else "skip",
            self.cache_in_memory,
        )
        counts = Counter(record.target for record in records)
        classes = ", ".join(f"{emotion} {counts[emotion]}" for emotion in self.taxonomy.classes if counts[emotion])
        rank_zero_info(f"{type(self).__name__} {name}: {len(records)} clips ({classes or 'no labels'})")

    def _report_missing(self, name: str, missing: Sequence[ClipRecord]) -> None:
        named = ", ".join(f"{record.id} ({record.source})" for record in missing[:_NUM_NAMED])
        message = f"{type(self).__name__} {name}: {len(missing)} listed clips have no file under {self.root}: {named}"
        message += ", ..." if len(missing) > _NUM_NAMED else ""
        if name != "train":
            rank_zero_warn(f"{message}. They are kept and count as wrong answers.")
        elif self.on_undecodable == "error":
            raise MediaError(f"{message}. Restore the files, or set on_undecodable: skip.")
        else:
            rank_zero_warn(f"{message}. They are left out.")

    def train_dataloader(self) -> DataLoader[Clip]:
        """Batches in an order that depends on seed and epoch only; undecodable clips are dropped from their batch."""
        dataset = self.datasets["train"]
        sampler = training_sampler(dataset, self.trainer, self.seed)
        if len(sampler) < self.batch_size:
            raise ValueError(
                f"{type(self).__name__} has {len(sampler)} training clips per device, fewer than "
                f"batch_size={self.batch_size}: no full batch. Lower batch_size."
            )
        return self._loader(dataset, self.batch_size, sampler, training=True)

    def val_dataloader(self) -> DataLoader[Clip] | list:
        """Batches of the held-out part of the training split; none with `validation_fraction` 0."""
        return self._eval_loader("validation") if "validation" in self.datasets else []

    def test_dataloader(self) -> DataLoader[Clip]:
        """Batches of the test split, each clip exactly once."""
        return self._eval_loader("test")

    def predict_dataloader(self) -> DataLoader[Clip]:
        """Batches of the clips to predict."""
        return self._eval_loader("predict")

    def _eval_loader(self, name: str) -> DataLoader[Clip]:
        dataset = self.datasets[name]
        return self._loader(dataset, self.eval_batch_size, evaluation_sampler(dataset, self.trainer), training=False)

    def _loader(
        self, dataset: ClipDataset, batch_size: int, sampler: Sampler | None, training: bool
    ) -> DataLoader[Clip]:
        return DataLoader(
            dataset,
            batch_size=batch_size,
            sampler=sampler,
            drop_last=training,
            collate_fn=partial(collate, drop_failures=training),
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=self.pin_memory,
        )
