"""What all clip corpora share: splits, checks, decoding, skipping, loaders. A corpus adds only how its labels are read.

Validation is a seeded, class-stratified part of the training split, never of the test split (decision 5); a clip that
cannot be decoded is left out of training (or fatal, by choice), and in evaluation it is kept and counts as a wrong
answer (decision 7); duplicates and overlaps between the splits are errors that name the rows (decision 6).
"""

import random
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal

import torch
from lightning import LightningDataModule
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn
from torch.utils.data import DataLoader, Sampler

from datamodules.batch import Clip, collate
from datamodules.clip_cache import ClipCache
from datamodules.clip_dataset import ClipDataset, ClipRecord, split_validation
from datamodules.emotions import Taxonomy
from datamodules.files.printable import printable
from datamodules.files.tables import refuse_row
from datamodules.loader import ResumableLoader
from datamodules.media import MediaError, MediaSettings
from datamodules.samplers import balanced_shares, evaluation_sampler, training_sampler

Split = Literal["train", "test", "predict"]

BASE_QUESTION = (
    "As an emotional recognition expert; throughout the video, "
    "which emotion conveyed by the characters is the most obvious to you?"
)
OUTPUT_FORMAT = "Output the thinking process in <think> </think> and final emotion in <answer> </answer> tags."
INSTRUCTION = f"{BASE_QUESTION}  {OUTPUT_FORMAT}"
"""The paper's instruction for stages 1 and 3 and for evaluation, with its two spaces (decision 3)."""

_STAGE_SPLIT: dict[str, Split] = {"fit": "train", "validate": "train", "test": "test", "predict": "predict"}

_NUM_NAMED = 3  # rows that a summary warning names; the count says how many more there are


class ClipDataModule(LightningDataModule, ABC):
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
    """

    taxonomy: Taxonomy | None
    """The classes of the targets; None for clips without labels. Of the class, or set at construction."""
    overlaps: ClassVar[Mapping[str, str]] = {}
    """Other corpora, by class name, that share clips with this one → what is known of it."""

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
    ) -> None:
        super().__init__()
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
        self.pin_memory = torch.cuda.is_available() if pin_memory is None else pin_memory
        self.balance_classes = balance_classes
        self.cache = None if cache_dir is None else ClipCache(cache_dir, cache_gigabytes)
        self.timeout_seconds = timeout_seconds
        self.follow_links = follow_links
        self.problems: list[str] | None = None
        self.datasets: dict[str, ClipDataset] = {}
        self._rows: dict[Split, list[ClipRecord]] = {}

    @property
    def name(self) -> str:
        """What messages and prediction files call the corpus."""
        return type(self).__name__

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

    def prepare_data(self) -> None:
        """Make room in the cache where clips decoded in other ways fill it. Lightning calls this on one process."""
        if self.cache is not None:
            self.cache.prune(self.media)

    def setup(self, stage: str) -> None:
        """Read and check the label files once; `stage` is Lightning's.

        Raises:
            FileNotFoundError, ValueError: see `records`; also for a clip listed twice or in both train and test.
        """
        needed = _STAGE_SPLIT[stage]
        if needed not in self.splits:
            raise ValueError(f"{self.name} at {self.root} has no {needed} split; it has {', '.join(self.splits)}.")
        rows = self.read_splits()
        if needed != "train":
            self._add_dataset(needed, rows[needed])
            return
        training, validation = split_validation(rows["train"], self.validation_fraction, self.seed)
        if stage == "fit":
            self._add_dataset("train", training)
        if validation:
            self._add_dataset("validation", validation)

    def read_splits(self) -> dict[Split, list[ClipRecord]]:
        """The rows of every split, read and checked once."""
        if not self._rows:
            self._rows = {split: self._read(split) for split in self.splits}
            # `inspect_data` lists every clip of an overlap itself.
            if self.problems is None and "train" in self._rows and "test" in self._rows:
                self._check_overlap(self._rows["train"], self._rows["test"])
        return self._rows

    def _read(self, split: Split) -> list[ClipRecord]:
        records = [
            replace(record, id=printable(record.id), dataset=record.dataset or self.name)
            for record in self.records(split)
        ]
        if not records:
            self.refuse(f"{self.name} at {self.root}: the {split} split lists no clips.")
        rows: dict[str, ClipRecord] = {}
        for record in records:
            first = rows.setdefault(self.key(record.id), record)
            if first is not record:
                self.refuse(
                    f"Clip {record.id!r} is listed twice: {first.source} and {record.source}. Remove one of the rows."
                )
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
                f"{self.name} {name}: none of the {len(missing)} listed clips has a file under {self.root}; "
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
            self.cache,
            self.timeout_seconds,
        )
        counts = Counter(record.target for record in records if record.target is not None)
        order = {emotion: position for position, emotion in enumerate(self.taxonomy.classes if self.taxonomy else ())}
        ordered = sorted(counts.items(), key=lambda item: order.get(item[0], len(order)))
        classes = ", ".join(f"{emotion} {count}" for emotion, count in ordered)
        rank_zero_info(f"{self.name} {name}: {len(records)} clips ({classes or 'no labels'})")

    def _report_missing(self, name: str, missing: Sequence[ClipRecord]) -> None:
        named = ", ".join(f"{record.id} ({record.source})" for record in missing[:_NUM_NAMED])
        message = f"{self.name} {name}: {len(missing)} listed clips have no file under {self.root}: {named}"
        message += ", ..." if len(missing) > _NUM_NAMED else ""
        if name != "train":
            rank_zero_warn(f"{message}. They are kept and count as wrong answers.")
        elif self.on_undecodable == "error":
            raise MediaError(f"{message}. Restore the files, or set on_undecodable: skip.")
        else:
            rank_zero_warn(f"{message}. They are left out.")

    def sampling_groups(self, records: Sequence[ClipRecord]) -> tuple[list[Hashable], Mapping[Hashable, float]] | None:
        """A group per training clip and the share of draws of each group; None draws every clip once per epoch."""
        if not self.balance_classes:
            return None
        groups: list[Hashable] = [record.target for record in records]
        return groups, balanced_shares(groups)

    def train_dataloader(self) -> DataLoader[Clip]:
        """Batches in an order that depends on seed and epoch only; undecodable clips are dropped from their batch."""
        dataset = self.datasets["train"]
        groups, shares = self.sampling_groups(dataset.records) or (None, None)
        sampler = training_sampler(dataset, self.trainer, self.seed, groups, shares)
        if len(sampler) < self.batch_size:
            raise ValueError(
                f"{self.name} has {len(sampler)} training clips per device, fewer than batch_size={self.batch_size}: "
                "no full batch. Lower batch_size."
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
        return ResumableLoader(
            dataset,
            batch_size=batch_size,
            sampler=sampler,
            drop_last=training,
            collate_fn=partial(collate, drop_failures=training),
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=self.pin_memory,
        )
