"""A recorded training step, recomputed clip by clip and completion by completion: where its numbers cease to be finite.

Each part's share of the loss goes backward alone; shares and gradients sum to those of the step.
"""

import math
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import numpy as np
import torch
from lightning.pytorch.plugins import Precision
from rich.progress import track
from torch import Tensor, nn

from datamodules.batch import ClipBatch
from lightning_modules.backbones.interface import Backbone, Completions
from lightning_modules.grpo import GRPOModule
from lightning_modules.step_record import LearnedRollout, StepRecord
from lightning_modules.step_seed import step_seed
from lightning_modules.trainable_policy import TrainablePolicyModule


@dataclass(frozen=True)
class Part:
    """A clip of stage 1, or a completion of stage 3, alone.

    Args:
        clip: the clip's id.
        completion: place in the clip's group, from 0; None in stage 1.
        text: the response that is learnt, or the completion.
        num_tokens: of it.
        loss: its share of the step's loss.
        gradient_norm: of its share of the gradient.
        findings: what is not finite, in the order in which it is computed; empty where all is.
    """

    clip: str
    completion: int | None
    text: str
    num_tokens: int
    loss: float
    gradient_norm: float
    findings: list[str]


@dataclass(frozen=True)
class Recomputation:
    """A step recomputed.

    Args:
        parts: of it, in order.
        broken_weights: names of the weights, trained or frozen, that hold a number that is not finite.
        loss: the sum of the parts'.
        gradient_norm: of the sum of their gradients.
    """

    parts: list[Part]
    broken_weights: list[str]
    loss: float
    gradient_norm: float

    @property
    def is_finite(self) -> bool:
        """Whether the step's loss and gradient are."""
        return bool(np.isfinite([self.loss, self.gradient_norm]).all())


@dataclass(frozen=True)
class _Piece:
    """One part before it is computed; `loss` makes its log-probabilities `[1, C]` and its share of the loss."""

    clip: str
    completion: int | None
    completions: Completions
    inputs: dict[str, Tensor]
    loss: Callable[[], tuple[Tensor, Tensor]]


def recompute(module: TrainablePolicyModule, record: StepRecord, precision: Precision) -> Recomputation:
    """Recompute a step in parts.

    Args:
        module: with the weights before the step, on the device to compute on.
        record: the step.
        precision: the arithmetic of the run.
    """
    place, backbone = record.place, module.backbone
    trained = {name: p for name, p in backbone.named_parameters() if p.requires_grad}
    sums = {name: torch.zeros_like(p, dtype=torch.float32) for name, p in trained.items()}
    _seed(step_seed(place.run_seed, place.epoch, place.batch_indices[0], place.rank))
    parts = []
    for piece in track(list(_pieces(module, record)), description="Recomputing the step"):
        part, gradients = _recompute_piece(piece, backbone, trained, precision, place.loss_scale)
        parts.append(part)
        for name, gradient in gradients.items():
            sums[name] += gradient
    broken = [name for name, parameter in backbone.named_parameters() if not _is_finite(parameter)]
    return Recomputation(parts, broken, sum(part.loss for part in parts), _norm(sums.values()))


def _recompute_piece(
    piece: _Piece, backbone: Backbone, trained: dict[str, nn.Parameter], precision: Precision, loss_scale: float
) -> tuple[Part, dict[str, Tensor]]:
    """A part and its share of the gradient, by the names of the weights that it reaches."""
    with _watch(backbone, trained) as findings:
        with precision.train_step_context():
            logprobs, loss = piece.loss()
        logprobs.retain_grad()
        outputs = list(findings)
        findings.clear()
        (loss * loss_scale).backward()
    gradients = {name: p.grad.float() / loss_scale for name, p in trained.items() if p.grad is not None}
    backbone.zero_grad()
    norm = _norm(gradients.values())
    steps = [*outputs, *_found(piece, backbone, logprobs, loss), *findings]
    if not steps and not math.isfinite(norm):
        steps = ["norm of the gradient, each of whose numbers is finite"]
    text, num_tokens = backbone.texts(piece.completions)[0], int(piece.completions.mask.sum())
    return Part(piece.clip, piece.completion, text, num_tokens, float(loss.detach()), norm, steps), gradients


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def _norm(gradients: Any) -> float:
    return float(nn.utils.get_total_norm(list(gradients)))


def _pieces(module: TrainablePolicyModule, record: StepRecord) -> Iterator[_Piece]:
    for batch in record.batches:
        moved = batch.to(module.device)
        for b in range(len(batch)):
            clip = moved.rows(b, b + 1)
            if record.rollout is None:
                yield _cold_start_piece(module, clip, record.place.totals)
            else:
                group_size = len(record.rollout.completions) // len(batch)
                for g in range(group_size):
                    yield _grpo_piece(module, clip, g, b * group_size + g, record.rollout, record.place.totals)


def _cold_start_piece(module: TrainablePolicyModule, clip: ClipBatch, totals: dict[str, int]) -> _Piece:
    completions = module.backbone.completion_ids([response or "" for response in clip.responses])

    def loss() -> tuple[Tensor, Tensor]:
        prompt = module.backbone.encode(clip, module.backbone.perceive(clip))
        logprobs = module.backbone.logprobs(prompt, completions)
        return logprobs, -logprobs.sum() / totals["num_tokens_total"]

    return _Piece(clip.ids[0], None, completions, {}, loss)


def _grpo_piece(
    module: TrainablePolicyModule,
    clip: ClipBatch,
    member: int,
    row: int,
    rollout: LearnedRollout,
    totals: dict[str, int],
) -> _Piece:
    if not isinstance(module, GRPOModule):
        raise ValueError(f"The step is one of stage 3, and the run's configuration names {type(module).__name__}.")
    own = slice(row, row + 1)
    completions = rollout.completions.rows(row, row + 1)
    cut = (own, slice(completions.token_ids.shape[1]))
    optional = {"reference": rollout.reference_logprobs, "old": rollout.old_logprobs}
    given = {name: None if values is None else values[cut].to(module.device) for name, values in optional.items()}
    inputs = {f"{name} log-probability": values for name, values in given.items() if values is not None}
    moved = Completions(**{f.name: getattr(completions, f.name).to(module.device) for f in fields(completions)})

    def loss() -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            percept = module.backbone.perceive(clip)
        prompt = module.backbone.encode(clip, percept)
        logprobs = module.backbone.logprobs(prompt, moved, module.rollout_sampling.temperature)
        result = module.loss(
            logprobs,
            given["old"],
            rollout.advantages[own].to(module.device),
            rollout.loss_mask[cut].to(module.device),
            reference_logprobs=given["reference"],
            constant_tokens=module.rollout_sampling.max_new_tokens,
            **totals,
        )
        return logprobs, result.loss

    return _Piece(clip.ids[0], member, moved, {"advantage": rollout.advantages[own], **inputs}, loss)


@contextmanager
def _watch(backbone: Backbone, trained: dict[str, nn.Parameter]) -> Iterator[list[str]]:
    """Note the first module whose output, and the first weight whose gradient, is not finite."""
    findings: list[str] = []

    def see(name: str, module: nn.Module, arguments: Any, output: Any) -> None:
        if not findings and not all(map(_is_finite, _tensors(output))):
            findings.append(f"output of {name}")

    def see_gradient(name: str, parameter: Tensor) -> None:
        if not findings and not _is_finite(parameter.grad):
            findings.append(f"gradient of {name}")

    handles = [m.register_forward_hook(partial(see, name)) for name, m in backbone.named_modules() if name]
    handles += [p.register_post_accumulate_grad_hook(partial(see_gradient, name)) for name, p in trained.items()]
    try:
        yield findings
    finally:
        for handle in handles:
            handle.remove()


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for entry in value.values():
            yield from _tensors(entry)
    elif isinstance(value, list | tuple):
        for entry in value:
            yield from _tensors(entry)


def _is_finite(value: Tensor) -> bool:
    return not value.is_floating_point() or bool(torch.isfinite(value).all())


def _found(piece: _Piece, backbone: Backbone, logprobs: Tensor, loss: Tensor) -> list[str]:
    """What is not finite of a part's log-probabilities, of what meets them in the loss, of it, and of its gradient."""
    ids = piece.completions.token_ids[0]

    def first(what: str, values: Tensor | None) -> list[str]:
        """Of one value per token `[1, C]`, or of one in all `[1]`."""
        if values is None or _is_finite(values):
            return []
        own = values.detach()[0]
        if own.ndim == 0:
            return [f"{what}: {float(own)}"]
        token = int((~torch.isfinite(own)).nonzero()[0])
        return [f"{what} of token {token} {backbone.tokenizer.decode(ids[token])!r}: {float(own[token])}"]

    found = first("log-probability", logprobs)
    for name, values in piece.inputs.items():
        found += first(name, values)
    return [*found, *first("loss", loss[None]), *first("gradient at the log-probability", logprobs.grad)]
