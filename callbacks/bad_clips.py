"""Clips that cannot be loaded in a long run: each is named and counted, and too many end the run."""

import re
import time
import warnings
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
import torch.distributed
from lightning import Callback, LightningModule, Trainer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from datamodules.batch import BadClip, ClipBatch
from datamodules.files.writing import write_rows

BAD_CLIPS_FILE = "bad_clips.jsonl"

_WRITE_EVERY_SECONDS = 30.0
_NUM_REASONS = 5  # that a summary shows
_NUMBER = re.compile(r"\d+")


class BadClipBudgetError(RuntimeError):
    """More clips could not be loaded than the budget allows."""


@dataclass
class BadClipRecord:
    """A clip that could not be loaded: a line of `bad_clips.jsonl`.

    Args:
        media: path of its file.
        id: the clip's id.
        reason: why, at first.
        stage: Lightning's name of what was running, e.g. `train` or `validate`.
        epoch: when it was first seen, from 0.
        step: optimizer steps at that time.
        count: how often loading it has failed.
    """

    media: str
    id: str
    reason: str
    stage: str
    epoch: int
    step: int
    count: int = 0


class BadClipBudget(Callback):
    """Counts clips that could not be loaded, over all processes, and ends the run when they are too many.

    They are too many when more than `max_share` of all clips seen since the run began have failed, once there are
    `min_clips`; when `min_clips` in a row have failed on one process, as when a mount has vanished; when more than
    `max_clips` different ones have failed; or when a training epoch ends in which no clip could be loaded. Training,
    validation, test and prediction count alike. Rows that never had a file do not count: they are reported before the
    first step.

    Every bad clip is printed when it first fails, and stands in `bad_clips.jsonl` of the run directory. A resumed run
    goes on counting.

    Args:
        max_share: largest share of clips that may fail, in [0, 1]; 1 allows all but long rows of failures.
        min_clips: clips seen before the share is judged, and the length of a row of failures that ends the run.
        max_clips: largest number of different clips that may fail; null: no such limit.

    Raises:
        ValueError: a number is out of its range.
    """

    def __init__(self, max_share: float = 0.05, min_clips: int = 100, max_clips: int | None = None) -> None:
        if not 0 <= max_share <= 1 or min_clips < 1 or (max_clips is not None and max_clips < 0):
            raise ValueError(
                f"Got max_share={max_share}, min_clips={min_clips}, max_clips={max_clips}. Expected max_share in "
                "[0, 1], min_clips >= 1, max_clips >= 0 or null."
            )
        self.max_share = max_share
        self.min_clips = min_clips
        self.max_clips = max_clips
        self._stage = ""
        self._reset()

    def _reset(self) -> None:
        self._num_seen = self._num_failed = 0
        self._records: dict[str, BadClipRecord] = {}
        self._new_seen, self._new_bad = 0, list[BadClip]()  # of this process, since the processes last met
        self._num_in_a_row = 0  # failures without a good clip in between, on this process
        self._num_common_batches = 0.0  # left in the epoch of an evaluation, of those that every process has
        self._written_at = -float("inf")

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._stage = stage
        self._reset()

    def state_dict(self) -> dict[str, Any]:
        return {
            "num_seen": self._num_seen,
            "num_failed": self._num_failed,
            "records": [asdict(record) for record in self._records.values()],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if self._stage != "fit":  # what failed in training is no part of an evaluation
            return
        self._num_seen, self._num_failed = state_dict["num_seen"], state_dict["num_failed"]
        self._records = {record["media"]: BadClipRecord(**record) for record in state_dict["records"]}

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        # Before the step: nothing is sampled for a batch after which the run ends. All processes have as many batches.
        self._see(batch)
        self._merge(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if 0 < self._num_seen == self._num_failed:
            self._stop(trainer, f"None of {self._num_seen} clips could be loaded.")

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        sizes = trainer.num_sanity_val_batches if trainer.sanity_checking else trainer.num_val_batches
        self._num_common_batches = _smallest(sum(sizes), pl_module)

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._num_common_batches = _smallest(sum(trainer.num_test_batches), pl_module)

    def on_predict_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._num_common_batches = _smallest(sum(trainer.num_predict_batches), pl_module)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._see(batch)
        # Evaluation shares the clips without repeats: one process may have a batch more, which waits for the epoch's
        # end, where all meet again.
        if self._num_common_batches > 0:
            self._num_common_batches -= 1
            self._merge(trainer, pl_module)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._merge(trainer, pl_module)

    on_test_batch_end = on_predict_batch_end = on_validation_batch_end
    on_test_epoch_end = on_predict_epoch_end = on_validation_epoch_end

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self._records and trainer.is_global_zero:
            self._print_summary(trainer)
        self._write(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if self._records:  # a process that only launched the others has none, and must not write that
            self._write(trainer)

    def _see(self, batch: Any) -> None:
        """Count a batch of this process, until the processes next meet."""
        if not isinstance(batch, ClipBatch):
            return
        bad = batch.bad_clips
        num_seen = len(batch.skipped) + sum(bool(media) for media in batch.media)
        self._new_seen += num_seen
        self._new_bad += bad
        self._num_in_a_row = self._num_in_a_row + num_seen if len(bad) == num_seen else 0

    def _merge(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add up what all processes have seen: after it they know the same, and stop together or not at all."""
        own = torch.tensor([self._new_seen, len(self._new_bad), self._num_in_a_row], device=pl_module.device)
        seen, failed, in_a_row = pl_module.all_gather(own).view(-1, 3).unbind(dim=1)
        self._num_seen += int(seen.sum())
        self._num_failed += int(failed.sum())
        bad, self._new_seen, self._new_bad = self._new_bad, 0, []
        if failed.any():
            for clip in _gather(bad, trainer):
                self._record(clip, trainer, pl_module)
            if time.monotonic() - self._written_at >= _WRITE_EVERY_SECONDS:
                self._write(trainer)
        if self._num_failed:
            self._check(int(in_a_row.max()), trainer)

    def _record(self, clip: BadClip, trainer: Trainer, module: LightningModule) -> None:
        record = self._records.get(clip.media)
        if record is None:
            stage = trainer.state.stage.value if trainer.state.stage else ""
            record = BadClipRecord(clip.media, clip.id, clip.reason, stage, trainer.current_epoch, trainer.global_step)
            self._records[clip.media] = record
            module.print(f"Bad clip in {stage}, epoch {record.epoch}, step {record.step}: {clip}")
        record.count += 1

    def _check(self, num_in_a_row: int, trainer: Trainer) -> None:
        share = self._num_failed / self._num_seen
        if num_in_a_row >= self.min_clips:
            self._stop(trainer, f"The last {num_in_a_row} clips of one process have all failed.")
        if self._num_seen >= self.min_clips and share > self.max_share:
            counts = f"{self._num_failed} of {self._num_seen} clips seen ({share:.1%})"
            self._stop(trainer, f"{counts} could not be loaded; allowed are {self.max_share:.1%}.")
        if self.max_clips is not None and len(self._records) > self.max_clips:
            self._stop(
                trainer, f"{len(self._records)} different clips could not be loaded; allowed are {self.max_clips}."
            )

    def _stop(self, trainer: Trainer, why: str) -> NoReturn:
        self._write(trainer)
        if trainer.is_global_zero:
            self._print_summary(trainer)
        first = self._by_reason()[0][0]
        raise BadClipBudgetError(
            f"{why} Most frequent: {first.reason}, e.g. {first.media}. All are in "
            f"{Path(trainer.default_root_dir) / BAD_CLIPS_FILE}. Is the file system there? If so, look at the clips "
            "with `python main.py inspect_data`, replace them or take their rows out; or allow more with "
            "--bad_clips.max_share. `--ckpt_path last` goes on from the last checkpoint."
        )

    def _by_reason(self) -> list[list[BadClipRecord]]:
        """The clips of each reason, most frequent first; reasons that differ in their numbers alone are one."""
        reasons: dict[str, list[BadClipRecord]] = defaultdict(list)
        for record in self._records.values():
            reasons[_NUMBER.sub("", record.reason)].append(record)
        return sorted(reasons.values(), key=_num_failures, reverse=True)

    def _print_summary(self, trainer: Trainer) -> None:
        table = Table()
        table.add_column("failures", justify="right")
        table.add_column("clips", justify="right")
        table.add_column("reason and first clip", overflow="fold")
        for records in self._by_reason()[:_NUM_REASONS]:
            first = f"{records[0].reason}\n{records[0].media}"
            table.add_row(str(_num_failures(records)), str(len(records)), escape(first))
        console = Console(stderr=True)
        counts = f"{self._num_failed} failures among {self._num_seen} clips seen"
        console.print(f"Clips that could not be loaded: {len(self._records)} ({counts})", soft_wrap=True)
        console.print(table)
        console.print(f"All: {Path(trainer.default_root_dir) / BAD_CLIPS_FILE}", markup=False, soft_wrap=True)

    def _write(self, trainer: Trainer) -> None:
        if not trainer.is_global_zero or trainer.fast_dev_run:
            return
        self._written_at = time.monotonic()
        path = Path(trainer.default_root_dir) / BAD_CLIPS_FILE
        if self._records or path.exists():  # a file of an earlier run in this directory must not stay
            try:
                write_rows(path, [asdict(record) for record in self._records.values()])
            except OSError as error:  # what they say is on the screen, and in every checkpoint
                warnings.warn(f"{path} cannot be written ({error}): going on without.", stacklevel=2)


def _num_failures(records: list[BadClipRecord]) -> int:
    return sum(record.count for record in records)


def _smallest(num_batches: float, module: LightningModule) -> float:
    """The smallest of the processes' numbers of batches."""
    return module.all_gather(torch.tensor(float(num_batches), device=module.device)).min().item()


def _gather(bad: list[BadClip], trainer: Trainer) -> list[BadClip]:
    """The bad clips of all processes, in the same order on each."""
    if trainer.world_size == 1:
        return bad
    gathered: list[list[BadClip]] = [[] for _ in range(trainer.world_size)]
    torch.distributed.all_gather_object(gathered, bad)
    return [clip for part in gathered for clip in part]
