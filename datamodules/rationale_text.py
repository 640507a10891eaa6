"""Batches of sentences with GoEmotions labels, for stage 2 (the verifier).

Shape legend: B sentences, 28 GoEmotions labels.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from datamodules.clip_source import DataSource
from datamodules.emotions import GO_EMOTIONS
from datamodules.labelled_sentences import LabelledSentence, read_sentences, split_by_text
from datamodules.loader import ResumableLoader, say_num_workers
from datamodules.notices import inform, warn
from datamodules.samplers import evaluation_sampler, training_sampler


@dataclass
class SentenceBatch:
    """A batch of sentences.

    Args:
        texts: B sentences.
        labels: float32 `[B, 28]`, 1 where the sentence has the label.
    """

    texts: list[str]
    labels: Tensor

    def __len__(self) -> int:
        return len(self.texts)

    def to(self, device: torch.device | str, **kwargs: Any) -> Self:
        """The batch with its labels on `device`. Lightning calls this."""
        return replace(self, labels=self.labels.to(device, **kwargs))


def collate_sentences(sentences: Sequence[LabelledSentence]) -> SentenceBatch:
    """Stack sentences into a batch of multi-hot labels."""
    labels = torch.tensor([[float(label in sentence.emotions) for label in GO_EMOTIONS] for sentence in sentences])
    return SentenceBatch([sentence.text for sentence in sentences], labels)


class RationaleText(DataSource, LightningDataModule):
    """Sentences of rationales with their emotions, in `.jsonl` or `.tsv` files.

    Args:
        train: file of training sentences.
        validation: file of validation sentences; null holds out a part of `train`.
        test: file of test sentences; null for none.
        batch_size: sentences per batch and device (the paper's verifier: 64).
        num_workers: loading processes; the texts are in memory, so 0 is usually fastest.
        validation_fraction: share of the distinct training texts held out where there is no `validation`, in [0, 1).
        seed: of the validation draw, the order of training sentences and the choice under `limit`.
        limit: at most this many sentences per split, drawn by `seed`; null takes all.
    """

    labels: tuple[str, ...] = GO_EMOTIONS

    def __init__(
        self,
        train: str,
        validation: str | None = None,
        test: str | None = None,
        batch_size: int = 64,
        num_workers: int = 0,
        validation_fraction: float = 0.1,
        seed: int = 0,
        limit: int | None = None,
    ) -> None:
        super().__init__()
        if batch_size < 1 or num_workers < 0:
            raise ValueError(
                f"Got batch_size={batch_size}, num_workers={num_workers}. Expected batch_size >= 1, num_workers >= 0."
            )
        if not 0 <= validation_fraction < 1:
            raise ValueError(f"validation_fraction must be in [0, 1), got {validation_fraction}.")
        if limit is not None and limit < 1:
            raise ValueError(f"limit must be at least 1, or null for all sentences; got {limit}.")
        self.train = train
        self.validation = validation
        self.test = test
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.validation_fraction = validation_fraction
        self.seed = seed
        self.limit = limit
        self.sentences: dict[str, list[LabelledSentence]] = {}

    def setup(self, stage: str) -> None:
        """Read the files that a stage needs, once.

        Raises:
            FileNotFoundError, ValueError: see `read_sentences`.
        """
        say_num_workers("RationaleText", self.num_workers, self.trainer)
        if stage in ("fit", "validate") and "train" not in self.sentences:
            training = read_sentences(self.train)
            if self.validation is None:
                training, validation = split_by_text(training, self.validation_fraction, self.seed)
            else:
                validation = read_sentences(self.validation)
                texts = {sentence.text for sentence in training}
                shared = sum(sentence.text in texts for sentence in validation)
                if shared:
                    warn(f"{self.validation}: {shared} of {len(validation)} sentences are also in {self.train}.")
            self._add("train", training)
            self._add("validation", validation)
        if stage == "validate" and not self.sentences["validation"]:
            raise ValueError(
                "There are no validation sentences: set `validation` to a file, or a larger `validation_fraction` than "
                f"{self.validation_fraction:g}."
            )
        if stage == "test" and "test" not in self.sentences:
            if self.test is None:
                raise ValueError("There are no test sentences: set `test` to a .jsonl or .tsv file.")
            self._add("test", read_sentences(self.test))

    def _add(self, name: str, sentences: list[LabelledSentence]) -> None:
        if self.limit is not None and len(sentences) > self.limit:
            chosen = random.Random(f"{self.seed}/{name}").sample(range(len(sentences)), self.limit)
            sentences = [sentences[position] for position in sorted(chosen)]
        self.sentences[name] = sentences
        num_texts = len({sentence.text for sentence in sentences})
        inform(f"RationaleText {name}: {len(sentences)} sentences, {num_texts} distinct")

    def train_dataloader(self) -> DataLoader[LabelledSentence]:
        """Batches in an order that depends on seed and epoch only; the last one may be smaller."""
        sentences = self.sentences["train"]
        return self._loader(sentences, training_sampler(sentences, self.trainer, self.seed))

    def val_dataloader(self) -> DataLoader[LabelledSentence] | list:
        """Batches of held-out sentences; none with `validation_fraction` 0 and no `validation` file."""
        return self._eval_loader("validation") if self.sentences["validation"] else []

    def test_dataloader(self) -> DataLoader[LabelledSentence]:
        """Batches of the test sentences."""
        return self._eval_loader("test")

    def _eval_loader(self, name: str) -> DataLoader[LabelledSentence]:
        sentences = self.sentences[name]
        return self._loader(sentences, evaluation_sampler(sentences, self.trainer))

    def _loader(self, sentences: list[LabelledSentence], sampler: Sampler | None) -> DataLoader[LabelledSentence]:
        return ResumableLoader(
            sentences,  # type: ignore[arg-type]  # a list serves as a dataset
            batch_size=self.batch_size,
            sampler=sampler,
            collate_fn=collate_sentences,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
        )
