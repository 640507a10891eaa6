"""AdamW and its schedule as every stage uses them, and AdamW for weights at rest in 16 bits.

A step of AdamW is about the learning rate. At 1e-6, weights of 0.02 in bfloat16 lie 1e-4 apart: plain AdamW rounds such
steps away, and the run learns next to nothing. Kahan's summation keeps what was rounded away for the next step;
stochastic rounding makes a step of a hundredth of the spacing one time in a hundred.
"""

import math
from typing import Any, Literal, get_args

import torch
from lightning import Trainer
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from torch.optim import Optimizer
from transformers import get_scheduler

Schedule = Literal["constant", "linear", "cosine"]

PolicyOptimizer = Literal["adamw", "adamw_8bit", "kahan_adamw"]
"""AdamW; AdamW with moments in 8 bits (arXiv 2110.02861) and stochastic rounding; AdamW with Kahan's summation."""

_MADE_FOR: dict[PolicyOptimizer, tuple[torch.dtype, ...]] = {
    "adamw": (),
    "adamw_8bit": (torch.bfloat16,),
    "kahan_adamw": (torch.bfloat16, torch.float16),
}
"""The 16-bit types of weights that an optimizer is made for."""


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
    _require_finite(options)
    has_scaler = getattr(trainer.precision_plugin, "scaler", None) is not None
    optimizer = torch.optim.AdamW(parameters, **options)
    for group in optimizer.param_groups:
        # Not in the constructor: there, it also says "unscales by itself", and Lightning refuses to clip under any
        # mixed precision, although without a scaler there is nothing to unscale.
        group["fused"] = not has_scaler
    return optimizer


def _require_finite(options: dict[str, Any]) -> None:
    for name, value in options.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"model.{'learning_rate' if name == 'lr' else name} is {value}. Expected a finite number.")


def require_optimizer(name: str) -> None:
    """Refuse an optimizer that is unknown, or whose package is missing.

    Raises:
        ValueError: there is none of this name, or its package is not installed.
    """
    if name not in get_args(PolicyOptimizer):
        raise ValueError(f"model.optimizer is {name!r}. Expected {', '.join(get_args(PolicyOptimizer))}.")
    try:
        if name == "adamw_8bit":
            import torchao.optim  # noqa: F401
        elif name == "kahan_adamw":
            import optimi  # noqa: F401
    except ModuleNotFoundError as error:
        raise ValueError(
            f"model.optimizer={name} needs the package {error.name}: pip install -c constraints.txt -e "
            "'.[optimizers]'. Or set model.optimizer to adamw."
        ) from error


def policy_optimizer(name: PolicyOptimizer, parameters: list[Tensor], trainer: Trainer, **options: Any) -> Optimizer:
    """The optimizer of a policy.

    Args:
        name: which.
        parameters: what is trained.
        trainer: see `adamw`.
        options: `lr` and `weight_decay`.

    Raises:
        ValueError: a number is infinite.
    """
    if name == "adamw":
        return adamw(parameters, trainer, **options)
    _require_finite(options)
    if name == "kahan_adamw":
        from optimi import AdamW

        # Moments in bfloat16 cannot follow β₂ = 0.999: what it takes from them in a step is below half their spacing,
        # so that the second one would never fall again.
        return AdamW(parameters, betas=(0.9, 0.99), eps=1e-8, kahan_sum=True, **options)
    from torchao.optim import AdamW8bit

    optimizer = AdamW8bit(parameters, bf16_stochastic_round=True, **options)
    optimizer.register_state_dict_post_hook(_with_plain_moments)
    optimizer.register_load_state_dict_pre_hook(_with_moments_of_8_bits)
    return optimizer


def _with_plain_moments(_: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """Moments as numbers and scales, for a checkpoint that any reader of plain tensors takes."""
    slots = {
        index: {
            name: {"codes": value.codes, "scale": value.scale} if hasattr(value, "codes") else value
            for name, value in slot.items()
        }
        for index, slot in state["state"].items()
    }
    return {**state, "state": slots}


def _with_moments_of_8_bits(optimizer: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """The inverse of `_with_plain_moments`."""
    from torchao.optim.subclass_8bit import OptimState8bit

    parameters = dict(enumerate(p for group in optimizer.param_groups for p in group["params"]))

    def moment(index: int, name: str, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        codes, scale, parameter = value["codes"], value["scale"], parameters[index]
        own = OptimState8bit.zeros(
            codes.shape, name == "exp_avg", codes.numel() // scale.numel(), parameter.device, parameter.dtype
        )
        own.codes.copy_(codes)
        own.scale.copy_(scale)
        return own

    slots = {
        index: {name: moment(index, name, value) for name, value in slot.items()}
        for index, slot in state["state"].items()
    }
    return {**state, "state": slots}


def refuse_lost_steps(optimizer: Optimizer, name: PolicyOptimizer, learning_rate: float) -> None:
    """Refuse to train weights of 16 bits by an optimizer that rounds its steps away.

    Args:
        optimizer: with the parameters as the strategy has them.
        name: which it is.
        learning_rate: its peak.

    Raises:
        ValueError: says the ways out.
    """
    types = {parameter.dtype for group in optimizer.param_groups for parameter in group["params"]}
    lost = [str(kind).removeprefix("torch.") for kind in types if kind.itemsize == 2 and kind not in _MADE_FOR[name]]
    if lost:
        raise ValueError(
            f"Weights at rest in {lost[0]} lose most steps of a learning rate of {learning_rate:g} with {name}. Train "
            "float32 shards (configs/trainer/fsdp2.yaml), or set model.backbone.dtype to float32 with "
            "trainer.precision bf16-mixed, model.optimizer to kahan_adamw or adamw_8bit (bfloat16), or "
            "model.backbone.lora with model.trainable [language_model], whose adapters are float32."
        )


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
