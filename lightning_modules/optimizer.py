"""AdamW and its schedule as every stage uses them."""

import math
from typing import Any, Literal

import torch
from lightning import Trainer
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch.optim import Optimizer
from transformers import get_scheduler

Schedule = Literal["constant", "linear", "cosine"]


def adamw(parameters: Any, trainer: Trainer, **options: Any) -> torch.optim.AdamW:
    """AdamW whose step is one pass over all weights (fused), which is several times as fast.

    Not with a gradient scaler: a fused step unscales gradients by itself, and they have to be clipped after that.

    Args:
        parameters: what is trained, or groups of it.
        trainer: whose precision says whether there is a scaler.
        options: of `torch.optim.AdamW`.

    Raises:
        ValueError: a number is infinite.
    """
    for name, value in options.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"model.{'learning_rate' if name == 'lr' else name} is {value}. Expected a finite number.")
    has_scaler = getattr(trainer.precision_plugin, "scaler", None) is not None
    optimizer = torch.optim.AdamW(parameters, **options)
    for group in optimizer.param_groups:
        # Not in the constructor: there, it also says "unscales by itself", and Lightning refuses to clip under any
        # mixed precision, although without a scaler there is nothing to unscale.
        group["fused"] = not has_scaler
    return optimizer


def scheduled(
    optimizer: Optimizer, schedule: Schedule, warmup_ratio: float, num_steps: float
) -> OptimizerLRSchedulerConfig:
    """An optimizer with its learning rate, step by step: a linear rise from 0, then a schedule.

    Args:
        optimizer: at its peak learning rate.
        schedule: what follows the rise.
        warmup_ratio: share of the steps in which the learning rate rises.
        num_steps: of the whole run; infinite where only time, or a callback, ends it.

    Raises:
        ValueError: the learning rate depends on the number of steps, and there is none.
    """
    if math.isinf(num_steps):
        if schedule != "constant" or warmup_ratio:
            raise ValueError(
                f"A {schedule} schedule with a warm-up of {warmup_ratio:.0%} is laid out over the run's steps, and "
                "this run has no end in steps: set trainer.max_steps or trainer.max_epochs (trainer.max_time may end "
                "it earlier), or, in stages 1 and 3, model.schedule to constant and model.warmup_ratio to 0."
            )
        num_steps = 0  # that schedule does not look at it
    scheduler = get_scheduler(
        "constant_with_warmup" if schedule == "constant" else schedule,
        optimizer,
        num_warmup_steps=round(warmup_ratio * num_steps),
        num_training_steps=int(num_steps),
    )
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
