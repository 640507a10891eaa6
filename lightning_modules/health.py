"""Numerical health of training: what happens to a step whose loss or gradient is not a finite number.

All processes decide together, once per optimizer step, between the backward pass and the step: one that stopped earlier
would leave the others waiting in a collective operation (decision 41).
"""

import math
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from lightning import LightningModule
from lightning.pytorch.strategies import DeepSpeedStrategy
from torch import Tensor
from torch.optim import Optimizer

from datamodules.batch import ClipBatch
from lightning_modules.step_record import LearnedRollout, StepPlace, StepRecord

OnNonFinite = Literal["stop", "skip"]
"""What becomes of a step whose loss or gradient is not finite."""

DIRECTORY = "non_finite"
"""Within the run directory."""

_SMALL_BYTES = 2**30
"""Trained weights up to this size are saved beside a skipped step, too; a run that stops saves them in any case."""


class NonFiniteError(ValueError):
    """A loss or gradient is not finite, and the run stops before it reaches the weights."""


@dataclass
class _Seen:
    """What has been computed since the last optimizer step."""

    batches: list[ClipBatch] = field(default_factory=list)
    batch_indices: list[int] = field(default_factory=list)
    totals: Counter[str] = field(default_factory=Counter)
    rollout: LearnedRollout | None = None
    losses: list[tuple[Tensor, list[str]]] = field(default_factory=list)  # with the ids of its clips

    @property
    def bad_loss(self) -> tuple[float, list[str]] | None:
        """The first loss that is not finite, and whose it is."""
        # One transfer from the device per step, however many micro-batches there were.
        values = torch.stack([loss for loss, _ in self.losses]).tolist() if self.losses else []
        return next(((v, ids) for v, (_, ids) in zip(values, self.losses, strict=True) if not math.isfinite(v)), None)


class StepHealth:
    """Judges each optimizer step before it is made.

    A step whose loss or gradient is not finite is not made: weights and optimizer stay as they were, the schedule goes
    on, and `non_finite/` of the run directory keeps what the step was computed from, for `python main.py replay`.

    In float16, the gradient scaler leaves out a step whose scaled gradient overflows, and lowers the scale: such steps
    are only counted. At a scale of 1 or less, scaling is not the cause.

    Args:
        on_non_finite: whether the run then stops or goes on.
        max_non_finite: how many steps of the whole run may be skipped; one more stops it.

    Raises:
        ValueError: an unknown value, or fewer than one step.
    """

    def __init__(self, on_non_finite: OnNonFinite = "stop", max_non_finite: int = 10) -> None:
        if on_non_finite not in get_args(OnNonFinite) or max_non_finite < 1:
            raise ValueError(
                f"Got on_non_finite={on_non_finite!r}, max_non_finite={max_non_finite}. Expected "
                f"{' or '.join(get_args(OnNonFinite))}, and 1 or more."
            )
        self.on_non_finite = on_non_finite
        self.max_non_finite = max_non_finite
        self.num_steps = 0
        """Steps that were not finite so far."""
        self.num_scaler_skips = 0
        """Steps that the gradient scaler left out so far."""
        self._seen = _Seen()

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run goes on counting from."""
        return {"num_steps": self.num_steps, "num_scaler_skips": self.num_scaler_skips}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on counting."""
        self.num_steps, self.num_scaler_skips = state["num_steps"], state["num_scaler_skips"]

    def check_strategy(self, strategy: Any) -> None:
        """Refuse what cannot skip.

        Raises:
            ValueError: steps are to be skipped under DeepSpeed, which keeps the gradients to itself.
        """
        if self.on_non_finite == "skip" and isinstance(strategy, DeepSpeedStrategy):
            raise ValueError(
                "DeepSpeed keeps the gradients to itself, so that a step cannot be skipped for what they are. Set "
                "model.on_non_finite to stop, or use another strategy."
            )

    def see_batch(
        self, batch: ClipBatch, batch_idx: int, totals: Mapping[str, int], rollout: LearnedRollout | None = None
    ) -> None:
        """Note what the coming optimizer step is computed from; arguments as in `StepRecord`, for one batch."""
        self._seen.batches.append(batch)
        self._seen.batch_indices.append(batch_idx)
        self._seen.totals.update(totals)
        self._seen.rollout = rollout

    def see_loss(self, loss: Tensor, ids: list[str]) -> None:
        """Note the loss of a micro-batch, before its backward pass.

        Args:
            loss: a scalar.
            ids: of its clips.
        """
        self._seen.losses.append((loss.detach().float(), ids))

    def judge(self, module: LightningModule, optimizer: Optimizer, gradient_norm: Tensor) -> None:
        """Let the optimizer step, or keep it from changing anything.

        Args:
            module: in training; this is its `health`.
            optimizer: about to step.
            gradient_norm: of the unscaled gradient, before it is clipped.

        Raises:
            NonFiniteError: the step is not finite, and steps are not skipped, or have been too often.
        """
        seen, self._seen = self._seen, _Seen()
        norm, bad_loss = float(gradient_norm), seen.bad_loss
        scale = _loss_scale(module)
        overflows = bad_loss is None and not math.isfinite(norm) and scale > 1
        faulty = bad_loss is not None or (not math.isfinite(norm) and not overflows)
        if not module.trainer.strategy.reduce_boolean_decision(faulty, all=False):
            self.num_scaler_skips += overflows
            return
        self.num_steps += 1
        stop = self.on_non_finite == "stop" or self.num_steps > self.max_non_finite
        message = f"{_what(module, seen, bad_loss, norm)} The weights were not updated."
        if not module.trainer.fast_dev_run:  # a trial leaves the run directory as it is
            message += self._save(module, seen, norm, scale, stop)
        if stop:
            skipped = self.num_steps - 1
            limit = f" Steps skipped before: {skipped}, as model.max_non_finite allows." if skipped else ""
            raise NonFiniteError(f"{message}{limit} Lower model.learning_rate, clip gradients, or inspect these clips.")
        warnings.warn(f"{message} Skipped ({self.num_steps} of at most {self.max_non_finite}).", stacklevel=2)
        # Without gradients the optimizer has nothing to step on: neither weights nor its own state move.
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    def _save(self, module: LightningModule, seen: _Seen, norm: float, scale: float, stop: bool) -> str:
        """Save the step of this process and, in common, the trained weights; returns what to say of it."""
        trainer = module.trainer
        run = Path(trainer.default_root_dir)
        name = f"{DIRECTORY}/step={module.global_step:08d}"
        weights = f"{name}.weights" if stop or _trained_bytes(module) <= _SMALL_BYTES else None
        place = StepPlace(
            stage=module.stage,
            step=module.global_step,
            epoch=trainer.current_epoch,
            batch_indices=seen.batch_indices,
            run_seed=module.run_seed,
            rank=trainer.global_rank,
            num_processes=trainer.world_size,
            precision=str(trainer.precision),
            loss_scale=scale,
            losses=[float(loss) for loss, _ in seen.losses],
            gradient_norm=norm,
            totals=dict(seen.totals),
            weights=weights,
        )
        file = run / f"{name}{f'.rank={trainer.global_rank}' if trainer.world_size > 1 else ''}.safetensors"
        said = ""
        if seen.batches:  # a process may have had nothing to learn from
            try:
                StepRecord(place, seen.batches, seen.rollout).write(file)
                said = f" See where it comes from: python main.py replay {file}."
            except OSError as error:
                said = f" It could not be saved for replay: {error}."
        if weights is not None:
            said += _save_weights(module, run / weights)
        return said


def _what(module: LightningModule, seen: _Seen, bad_loss: tuple[float, list[str]] | None, norm: float) -> str:
    step, ids = module.global_step, ", ".join(i for batch in seen.batches for i in batch.ids) or "none"
    place = f"(epoch {module.current_epoch}, batch {', '.join(map(str, seen.batch_indices)) or 'none'})"
    if bad_loss is not None:
        return f"Loss is {bad_loss[0]} at step {step}, on clips {', '.join(bad_loss[1])} {place}."
    if not math.isfinite(norm):
        return f"The gradient's norm is {norm} at step {step}, with a finite loss, on clips {ids} {place}."
    return f"Another process' loss or gradient is not finite at step {step}; this one learnt from clips {ids} {place}."


def _loss_scale(module: LightningModule) -> float:
    scaler = getattr(module.trainer.precision_plugin, "scaler", None)
    return 1.0 if scaler is None else float(scaler.get_scale())


def _trained_bytes(module: LightningModule) -> int:
    return sum(p.numel() * p.element_size() for p in module.parameters() if p.requires_grad)


def _save_weights(module: LightningModule, path: Path) -> str:
    """Save the trained weights as a checkpoint without the optimizer, of a name that no run goes on from.

    Returns:
        What to say of it: nothing, or why it failed. Where other processes wait, a failure is an error.
    """
    trainer, partial = module.trainer, path.with_name(f".partial-{path.name}")
    try:
        trainer.save_checkpoint(partial, weights_only=True)
        if trainer.is_global_zero:
            partial.replace(path)
    except (OSError, RuntimeError) as error:
        if trainer.world_size > 1:
            raise
        return f" The weights could not be saved: {error}"
    return ""
