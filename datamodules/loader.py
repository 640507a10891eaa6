"""A DataLoader whose place in an epoch is part of every checkpoint: a run continues with exactly the next batch.

The order of an epoch is a function of seed and epoch (`samplers.EpochSampler`): its place is a count of batches.
"""

from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader

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
    _num_batches: int = 0  # handed out in that epoch
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
        self._num_batches = 0
        if not isinstance(self.sampler, EpochSampler):
            return
        self._epoch_state = {
            "epoch": self.sampler.epoch,
            "batch_size": self.batch_size,
            **self.sampler.fingerprint(),
        }
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
        self._num_batches = loaded["num_batches"]
        self.sampler.skip(self._num_batches * self.batch_size)

    def state_dict(self) -> dict[str, int]:
        """The place in the epoch, and what its order depends on; empty before the first batch. Lightning calls this."""
        if self._loaded_state is not None:
            return dict(self._loaded_state)
        if self._epoch_state is None:
            return {}
        return {**self._epoch_state, "num_batches": self._num_batches}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Let the next iteration begin where `state` was taken, if it is in the same epoch. Lightning calls this.

        That iteration raises ValueError where the batches or their order have changed since: another batch size, number
        of items or processes, seed or shares.
        """
        self._loaded_state = dict(state) or None
