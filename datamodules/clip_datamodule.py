"""Batches of a corpus: its validation part, decoding, skipping, loaders.

Validation is a seeded, class-stratified part of the training split, never of the test split (decision 5); a clip that
cannot be decoded is left out of training (or fatal, by choice), and in evaluation it is kept and counts as a wrong
answer (decision 7).
"""

import random
from collections import Counter
from collections.abc import Sequence
from functools import partial

import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader, Sampler

from datamodules.batch import Clip, collate
from datamodules.clip_cache import ClipCache
from datamodules.clip_dataset import ClipDataset, split_validation
from datamodules.clip_source import ClipRecord, ClipSource, Split
from datamodules.containers import MediaError
from datamodules.loader import ResumableLoader, say_num_workers
from datamodules.notices import inform, warn
from datamodules.samplers import evaluation_sampler, training_sampler

_STAGE_SPLIT: dict[str, Split] = {"fit": "train", "validate": "train", "test": "test", "predict": "predict"}

_NUM_NAMED = 3  # rows that a summary warning names; the count says how many more there are


class ClipDataModule(LightningDataModule):
    """A corpus as batches, for a Trainer.

    Args:
        corpus: what is read, and the options for it.

    Raises:
        ValueError, OSError: see `ClipCache`.
    """

    def __init__(self, corpus: ClipSource) -> None:
        super().__init__()
        self.corpus = corpus
        self.taxonomy = corpus.taxonomy
        self.batch_size = corpus.batch_size
        self.cache = None if corpus.cache_dir is None else ClipCache(corpus.cache_dir, corpus.cache_gigabytes)
        self.datasets: dict[str, ClipDataset] = {}

    def prepare_data(self) -> None:
        """Make room in the cache where clips decoded in other ways fill it. Lightning calls this on one process."""
        if self.cache is not None:
            self.cache.prune(self.corpus.media)

    def setup(self, stage: str) -> None:
        """Read and check the label files once; `stage` is Lightning's.

        Raises:
            FileNotFoundError, ValueError: see `ClipSource.records`; also for a clip listed twice, or in both train and
                test.
        """
        needed = _STAGE_SPLIT[stage]
        if needed not in self.corpus.splits:
            has = ", ".join(self.corpus.splits)
            raise ValueError(
                f"{self.corpus.name} at {self.corpus.root} has no {needed} split; it has {has}."
                + self.corpus.why_without(needed)
            )
        say_num_workers(self.corpus.name, self.corpus.num_workers, self.trainer)
        rows = self.corpus.read_splits()
        if needed != "train":
            self._add_dataset(needed, rows[needed])
            return
        training, validation = split_validation(rows["train"], self.corpus.validation_fraction, self.corpus.seed)
        if stage == "validate" and not validation:
            raise ValueError(
                f"{self.corpus.name} at {self.corpus.root} has {len(training)} training clips, of which none is held "
                f"out for validation: data.validation_fraction is {self.corpus.validation_fraction:g}."
            )
        if stage == "fit":
            self._add_dataset("train", training)
            for caveat in self.corpus.caveats:
                warn(caveat)
        if validation:
            self._add_dataset("validation", validation)

    def _add_dataset(self, name: str, records: list[ClipRecord]) -> None:
        """Limit, report and keep the records of one dataset (`train`, `validation`, `test` or `predict`)."""
        if name in self.datasets:
            return
        if self.corpus.limit is not None and len(records) > self.corpus.limit:
            chosen = random.Random(f"{self.corpus.seed}/{name}").sample(range(len(records)), self.corpus.limit)
            records = [records[position] for position in sorted(chosen)]
        missing = [record for record in records if record.media is None]
        if len(missing) == len(records):
            raise ValueError(
                f"{self.corpus.name} {name}: none of the {len(missing)} listed clips has a file under "
                f"{self.corpus.root}; the first is {missing[0].id} ({missing[0].source})."
            )
        if missing:
            self._report_missing(name, missing)
            if name == "train":
                records = [record for record in records if record.media is not None]
        self.datasets[name] = ClipDataset(
            records,
            self.corpus.media,
            self.corpus.instruction,
            self.corpus.on_undecodable if name == "train" else "skip",
            self.corpus.cache_in_memory,
            self.cache,
            self.corpus.timeout_seconds,
            self.corpus.transcript_template,
        )
        counts = Counter(record.target for record in records if record.target is not None)
        order = {emotion: position for position, emotion in enumerate(self.taxonomy.classes if self.taxonomy else ())}
        ordered = sorted(counts.items(), key=lambda item: order.get(item[0], len(order)))
        classes = ", ".join(f"{emotion} {count}" for emotion, count in ordered)
        inform(f"{self.corpus.name} {name}: {len(records)} clips ({classes or 'no labels'})")

    def _report_missing(self, name: str, missing: Sequence[ClipRecord]) -> None:
        named = ", ".join(f"{record.id} ({record.source})" for record in missing[:_NUM_NAMED])
        message = (
            f"{self.corpus.name} {name}: {len(missing)} listed clips have no file under {self.corpus.root}: {named}"
        )
        message += ", ..." if len(missing) > _NUM_NAMED else ""
        if name != "train":
            warn(f"{message}. They are kept and count as wrong answers.")
        elif self.corpus.on_undecodable == "error":
            raise MediaError(f"{message}. Restore the files, or set on_undecodable: skip.")
        else:
            warn(f"{message}. They are left out.")

    def train_dataloader(self) -> DataLoader[Clip]:
        """Batches in an order that depends on seed and epoch only; undecodable clips are dropped from their batch."""
        dataset = self.datasets["train"]
        groups, shares = self.corpus.sampling_groups(dataset.records) or (None, None)
        sampler = training_sampler(dataset, self.trainer, self.corpus.seed, groups, shares)
        if len(sampler) < self.batch_size:
            raise ValueError(
                f"{self.corpus.name} has {len(sampler)} training clips per device, fewer than "
                f"batch_size={self.batch_size}: no full batch. Lower batch_size, or model.global_batch, which sets it "
                "in stage 3."
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
        return self._loader(
            dataset, self.corpus.eval_batch_size, evaluation_sampler(dataset, self.trainer), training=False
        )

    def _loader(
        self, dataset: ClipDataset, batch_size: int, sampler: Sampler | None, training: bool
    ) -> DataLoader[Clip]:
        return ResumableLoader(
            dataset,
            batch_size=batch_size,
            sampler=sampler,
            drop_last=training,
            collate_fn=partial(collate, drop_failures=training),
            num_workers=self.corpus.num_workers,
            persistent_workers=self.corpus.num_workers > 0,
            pin_memory=torch.cuda.is_available() if self.corpus.pin_memory is None else self.corpus.pin_memory,
        )
