"""A run that goes on with other processes or another batch size: Lightning's counters in the new measure."""

import math

from lightning import Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch.optim.lr_scheduler import LambdaLR

from datamodules.loader import ResumableLoader


def steps_per_epoch(trainer: Trainer) -> float:
    """Batches of an epoch that an optimizer step follows; infinite where the epoch's length is unknown."""
    batches = trainer.num_training_batches
    return batches if math.isinf(batches) else math.ceil(batches / trainer.accumulate_grad_batches)


def deal_anew(trainer: Trainer) -> None:
    """Deal out the rest of a resumed epoch as the run now does, and have Lightning count its batches in these.

    The epoch is counted as if all of it had been dealt out so: its last batch is the last one of any epoch, and
    `trainer.val_check_interval` counts from its beginning. Optimizer steps go on being counted from the run's.
    """
    loader, progress = trainer.train_dataloader, trainer.fit_loop.epoch_loop.batch_progress
    if not isinstance(loader, ResumableLoader) or progress.is_last_batch:
        return
    before = loader.deal_anew()
    if before is not None:
        shift = min(before, int(trainer.num_training_batches)) - progress.current.ready
        counts = progress.current.state_dict()
        progress.current.load_state_dict({name: count + shift for name, count in counts.items()})


def keep_place_in_schedule(trainer: Trainer, saved_steps_per_epoch: float) -> None:
    """Have learning rates fall over the epochs as before, where an epoch has another number of optimizer steps now.

    A run that `trainer.max_steps` ends has a schedule over that number of steps, which stays.
    """
    now = steps_per_epoch(trainer)
    if now == saved_steps_per_epoch or math.inf in (now, saved_steps_per_epoch):
        return
    if trainer.estimated_stepping_batches in (math.inf, trainer.max_steps):
        return
    for config in trainer.lr_scheduler_configs:
        scheduler = config.scheduler
        if not isinstance(scheduler, LambdaLR):
            continue
        place = round(scheduler.last_epoch * now / saved_steps_per_epoch)
        if place != scheduler.last_epoch:
            rank_zero_warn(
                f"An epoch had {saved_steps_per_epoch} optimizer steps when the checkpoint was written, and has {now} "
                f"now: the learning-rate schedule, laid out over the epochs, goes on from its step {place} instead of "
                f"{scheduler.last_epoch}."
            )
            scheduler.load_state_dict({**scheduler.state_dict(), "last_epoch": place})
