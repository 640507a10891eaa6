"""What stage 3 samples, on disk: every completion of every step, with what it earned and what was read in it."""

import gzip
import warnings
from pathlib import Path

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from callbacks.run_directory import next_earlier
from datamodules.batch import ClipBatch
from datamodules.emotions import Taxonomy
from datamodules.files.printable import readable_name
from datamodules.files.writing import json_line
from lightning_modules.grpo import GRPOModule
from lightning_modules.metrics.predictions import PredictedSentence
from lightning_modules.metrics.rollouts import (
    ROLLOUTS_DIRECTORY,
    Group,
    RolloutFile,
    SampledCompletion,
    rollout_files,
)
from lightning_modules.rl.experience import Experience, experience_of

_FILES = 16
"""Into which all that is kept is divided: what a full record loses at a time."""


def rollout_groups(experience: Experience, step: int) -> list[Group]:
    """The groups of a step.

    Args:
        experience: what it sampled, and what that earned.
        step: rollouts of the run before it.
    """
    batch, size = experience.rollout.batch, experience.rollout.group_size
    completions = _completions(experience)
    return [
        Group(
            step,
            batch.ids[prompt],
            experience.rollout.targets[prompt * size],
            batch.datasets[prompt],
            readable_name(batch.media[prompt]),
            batch.transcripts[prompt],
            tuple(completions[prompt * size : (prompt + 1) * size]),
        )
        for prompt in range(len(batch))
    ]


def _completions(experience: Experience) -> list[SampledCompletion]:
    rollout, readings = experience.rollout, experience.readings
    rewards = {name: values.tolist() for name, values in experience.rewards.items()}
    totals, advantages = experience.total.tolist(), experience.advantages.tolist()
    lengths, finished = rollout.completions.lengths.tolist(), rollout.completions.finished.tolist()
    return [
        SampledCompletion(
            response.completion,
            response.prediction,
            {name: values[row] for name, values in rewards.items()},
            totals[row],
            advantages[row],
            lengths[row],
            not finished[row],
            tuple(PredictedSentence(sentence) for sentence in response.sentences)
            if readings is None
            else tuple(PredictedSentence(reading.text, reading.emotions) for reading in readings[row]),
        )
        for row, response in enumerate(rollout.responses)
    ]


class RolloutLog:
    """The files of one process in one start of a run.

    A step is one gzip member at the end of a file: a kill costs at most the step that is being written. A file that
    has grown to its share of the bound ends, and the next begins. Beyond the bound, the oldest file goes, but never
    the first of all, so that one sees where training began.

    Args:
        directory: of the files.
        file: the first to write.
        max_bytes: of all files of this process together, those of earlier starts among them.
    """

    def __init__(self, directory: Path, file: RolloutFile, max_bytes: float) -> None:
        self.directory, self.file = directory, file
        self.max_bytes = max_bytes
        self.dropped = 0

    def append(self, groups: list[Group], taxonomy: Taxonomy) -> None:
        """Write a step.

        Raises:
            OSError: it cannot be written.
        """
        text = "".join(f"{json_line(group.row(taxonomy))}\n" for group in groups)
        self.directory.mkdir(parents=True, exist_ok=True)
        path = self.directory / self.file.name
        with path.open("ab") as file:
            file.write(gzip.compress(text.encode(), compresslevel=6, mtime=0))
            is_full = file.tell() >= self.max_bytes / _FILES
        if is_full:
            self._next()

    def _next(self) -> None:
        own = self.file
        self.file = RolloutFile(own.start, own.first_step, own.rank, own.number + 1)
        paths = [path for file, path in rollout_files(self.directory).items() if file.rank == own.rank]
        sizes = [path.stat().st_size for path in paths]
        for place in range(1, len(paths) - 1):
            if sum(sizes) <= self.max_bytes * (1 - 1 / _FILES):  # the next file has room, too
                break
            paths[place].unlink()
            sizes[place] = 0
            if not self.dropped:
                rank_zero_info(
                    f"{self.directory} is full (--rollouts.max_megabytes): the oldest files after the first go from "
                    "now on."
                )
            self.dropped += 1


class RolloutWriter(Callback):
    """Writes `rollouts/` of the run directory in stage 3, which `report --rollouts` shows.

    Each process writes files of its own: nothing is exchanged, and no process waits for another. A resumed run begins
    new files, whose name says at which step: readers leave what it made again out. A run that starts anew in the same
    directory sets the files there aside. On a disk that refuses, the record ends, and the run goes on.

    Args:
        max_megabytes: of all files together, compressed; 0 writes none.

    Raises:
        ValueError: a negative bound.
    """

    def __init__(self, max_megabytes: float = 256.0) -> None:
        if max_megabytes < 0:
            raise ValueError(f"Expected rollouts.max_megabytes >= 0 (0 writes no rollouts), got {max_megabytes}.")
        self.max_megabytes = max_megabytes
        self._log: RolloutLog | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._log = None
        if not isinstance(pl_module, GRPOModule) or trainer.fast_dev_run:
            return
        # Every process looks before any writes: the first step, in which they meet, is still to come.
        run, step = Path(trainer.default_root_dir), trainer.global_step // pl_module.num_updates
        directory = run / ROLLOUTS_DIRECTORY
        start = 1
        if trainer.global_step:
            start += max((file.start for file in rollout_files(directory)), default=0)
        elif trainer.is_global_zero and rollout_files(directory):
            earlier = next_earlier(run)
            directory.rename(earlier / ROLLOUTS_DIRECTORY)
            rank_zero_info(f"Rollouts of an earlier run are now in {earlier}.")
        if self.max_megabytes:
            file = RolloutFile(start, step, trainer.global_rank, 1)
            self._log = RolloutLog(directory, file, self.max_megabytes * 1e6 / trainer.world_size)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: ClipBatch, batch_idx: int
    ) -> None:
        experience = experience_of(outputs)
        if self._log is None or experience is None or not isinstance(pl_module, GRPOModule):
            return
        step = (trainer.global_step - 1) // pl_module.num_updates
        try:
            self._log.append(rollout_groups(experience, step), pl_module.taxonomy)
        except OSError as error:
            warnings.warn(
                f"The rollouts in {self._log.directory} cannot be written ({error}): they end before step {step}, the "
                "run goes on.",
                stacklevel=2,
            )
            self._log = None
