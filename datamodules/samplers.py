"""Which clips or sentences a process sees, and in what order; the same code on one device and on several."""

from collections.abc import Sized

from lightning import Trainer
from lightning.pytorch.overrides.distributed import UnrepeatedDistributedSampler
from torch.utils.data import DistributedSampler


def training_sampler(dataset: Sized, trainer: Trainer | None, seed: int) -> DistributedSampler:
    """A shuffle that depends on seed and epoch only: Lightning tells the sampler the epoch, and leaves it in place.

    On several processes the clips are dealt out, and a few are repeated where they do not divide evenly.

    Args:
        dataset: what is sampled from.
        trainer: names the number of processes and the rank; None is a single process.
        seed: of the order.
    """
    num_processes, rank = (trainer.world_size, trainer.global_rank) if trainer else (1, 0)
    return DistributedSampler(dataset, num_processes, rank, shuffle=True, seed=seed)  # type: ignore[arg-type]


def evaluation_sampler(dataset: Sized, trainer: Trainer | None) -> DistributedSampler | None:
    """Dataset order, each item on exactly one process; None (plain order) on a single process.

    Lightning's own choice repeats items to even out the processes, which would count some clips twice.
    """
    if trainer is None or trainer.world_size == 1:
        return None
    return UnrepeatedDistributedSampler(
        dataset, num_replicas=trainer.world_size, rank=trainer.global_rank, shuffle=False
    )
