"""A DataLoader whose place in an epoch is part of every checkpoint: a run continues with exactly the next batch.

The order of an epoch is a function of seed and epoch (`samplers.EpochSampler`), and a place in it how many items
all processes together have taken.
"""

import os
from collections.abc import Iterator
from typing import Any

from lightning import Trainer
from torch.utils.data import DataLoader

from datamodules.notices import inform, warn
from datamodules.samplers import EpochSampler


class ResumableLoader(DataLoader):
    """A DataLoader that Lightning saves to, and restores from, checkpoints written in the middle of an epoch.

    Counted are the batches handed out, not those that workers prefetched; batches before the place of the checkpoint
    are skipped by index, without decoding. `len` stays that of the whole epoch, as Lightning's own counters expect.
    The state is that of the process that writes the checkpoint, and holds for all. With another sampler than
    `EpochSampler` there is nothing to resume: every iteration begins at the beginning.

    A checkpoint written inside a training step (`ModelCheckpoint(save_on_exception=True)`) counts the batch of that
    step as trained on.
    """

    # Class attributes, because Lightning re-creates a loader from the arguments of DataLoader's own constructor.
    _epoch_state: dict[str, int] | None = None  # the epoch that batches were last taken from, and what its order needs
    _num_before: int = 0  # items of that epoch that were taken before they were dealt out as they are now
    _num_batches: int = 0  # handed out since, on each process
    _loaded_state: dict[str, int] | None = None  # until the first batch is asked for

    def __iter__(self) -> Iterator[Any]:
        # A generator: nothing starts before the first batch is asked for. Lightning makes the first iterator before it
        # tells the sampler the epoch; workers would prefetch from the order of epoch 0.
        self._begin()
        for batch in super().__iter__():
            self._num_batches += 1
            yield batch

    def _begin(self) -> None:
        """Find the place to begin at: the loaded one if the epoch is still that of the checkpoint."""
        loaded, self._loaded_state = self._loaded_state, None
        self._num_before = self._num_batches = 0
        if not isinstance(self.sampler, EpochSampler):
            return
        self._epoch_state = {"epoch": self.sampler.epoch, **self._dealing(), **self.sampler.fingerprint()}
        if loaded is None or loaded["epoch"] != self.sampler.epoch:
            return
        changed = [
            f"{name}={loaded.get(name)} (now {value})"
            for name, value in self._epoch_state.items()
            if loaded.get(name) != value
        ]
        if changed:
            raise ValueError(
                f"The checkpoint was written after {loaded['num_batches']} batches of epoch {loaded['epoch']} with "
                f"{', '.join(changed)}: the rest of that epoch cannot be told. Restore the settings and the data, or "
                "go on from a checkpoint written at the end of an epoch."
            )
        self._num_before, self._num_batches = loaded.get("num_before", 0), loaded["num_batches"]
        self.sampler.skip(_num_taken(loaded))

    def _dealing(self) -> dict[str, int]:
        """How many items each step of all processes takes, and from how many shares."""
        return {"batch_size": self.batch_size, "num_processes": self.sampler.num_replicas}

    def deal_anew(self) -> int | None:
        """Deal out what a loaded state leaves of its epoch to the processes and in the batches that there are now.

        Returns:
            How many batches come before it, counting backwards from `len`; None where processes and batch size are
            those of the state, or there is none.
        """
        loaded = self._loaded_state
        if not loaded or not isinstance(self.sampler, EpochSampler):
            return None
        dealing = self._dealing()
        if all(loaded[name] == value for name, value in dealing.items()):
            return None
        taken = _num_taken(loaded)
        own = self.sampler.num_left(taken)
        left = own // self.batch_size if self.drop_last else -(-own // self.batch_size)
        warn(
            f"The checkpoint was written after {taken} of the {loaded['num_items']} items of epoch {loaded['epoch']}, "
            f"dealt out in batches of {loaded['batch_size']} to {loaded['num_processes']} process(es). What is left is "
            f"dealt out anew: {left} batch(es) of {dealing['batch_size']} to each of {dealing['num_processes']}."
        )
        self._loaded_state = {**loaded, **dealing, "num_before": taken, "num_batches": 0}
        return len(self) - left

    def state_dict(self) -> dict[str, int]:
        """The place in the epoch, and what its order depends on; empty before the first batch. Lightning calls this."""
        if self._loaded_state is not None:
            return dict(self._loaded_state)
        if self._epoch_state is None:
            return {}
        return {**self._epoch_state, "num_before": self._num_before, "num_batches": self._num_batches}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Let the next iteration begin where `state` was taken, if it is in the same epoch. Lightning calls this.

        That iteration raises ValueError where the order has changed since (another number of items, seed or shares), or
        the batches have (their size, the number of processes) and `deal_anew` was not called.
        """
        self._loaded_state = dict(state) or None


def _num_taken(state: dict[str, int]) -> int:
    """Items of the epoch that all processes together have taken."""
    return state.get("num_before", 0) + state["num_batches"] * state["batch_size"] * state["num_processes"]


def say_num_workers(name: str, num_workers: int, trainer: Trainer | None) -> None:
    """Say how many loading processes a node will have, and warn where they are more than its CPUs.

    Args:
        name: of the data.
        num_workers: of one loader.
        trainer: knows how many processes of a node have such a loader; None is a single process.
    """
    num_processes = trainer.num_devices if trainer else 1
    own = os.environ.get("SLURM_CPUS_PER_TASK")  # srun binds each process to its own CPUs
    num_cpus = int(own) * num_processes if own else len(os.sched_getaffinity(0))
    total = num_workers * num_processes
    if total > num_cpus:
        warn(
            f"{name}: num_workers={num_workers} for each of {num_processes} processes makes {total} loading processes "
            f"on a node with {num_cpus} CPUs, where they wait for each other. Set data.num_workers to "
            f"{num_cpus // num_processes}."
        )
    elif total:
        inform(f"{name}: {total} loading processes per node, {num_workers} for each of {num_processes} devices")
