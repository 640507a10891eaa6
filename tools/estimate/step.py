"""What a GRPO step needs beside its states: caches, activations, logits, towers; and how long it takes at least."""

import math
from dataclasses import dataclass, replace

from lightning_modules.rl.rows import spans
from tools.estimate.limits import Limits, least_seconds, step_work
from tools.estimate.memory import (
    Layout,
    activation_bytes,
    cache_bytes,
    cast_bytes,
    logits_bytes,
    sampling_logits_bytes,
)
from tools.estimate.shapes import DecoderShape, Numerics, Trained, Workload
from tools.estimate.states import ByPhase


@dataclass(frozen=True)
class Plan:
    """A step as one device runs it.

    Args:
        load: the prompts of a step and all of their completions.
        rollout_batch_size: prompts that are sampled at once; None: all.
        micro_batch_size: prompts of a backward pass; None: all.
        completion_batch_size: completions of each prompt in a backward pass; None: all.
        layout: how completions are scored with gradient.
        shares_prompts: whether a prompt's keys and values exist once while its completions are sampled.
        trained: what of the language model is trained.
        has_reference: whether there is one.
        num_updates: optimizer steps per rollout.
        room: completion tokens by which the memory of sampling grows; more than 1 where it is compiled.
    """

    load: Workload
    rollout_batch_size: int | None
    micro_batch_size: int | None
    completion_batch_size: int | None
    layout: Layout
    shares_prompts: bool
    trained: Trained
    has_reference: bool
    num_updates: int
    room: int = 1

    def _prompts(self, batch_size: int | None) -> Workload:
        return replace(self.load, prompts=min(batch_size or self.load.prompts, self.load.prompts))

    @property
    def rollout(self) -> Workload:
        """What is sampled at once, with the room that is left unused."""
        new_tokens = math.ceil(self.load.new_tokens / self.room) * self.room
        return replace(self._prompts(self.rollout_batch_size), new_tokens=new_tokens)

    @property
    def micro_batch(self) -> Workload:
        """What the reference scores at once."""
        return self._prompts(self.micro_batch_size)

    @property
    def backward(self) -> Workload:
        """What is sent backward at once."""
        if self.layout == "packed" and not self.shares_prompts:
            return replace(self.micro_batch, prompts=self.micro_batch.rows, group=1)
        part = self.completion_batch_size
        in_parts = part is not None and self.layout != "packed" and self.shares_prompts
        group = min(part, self.load.group) if part is not None and in_parts else self.load.group
        return replace(self.micro_batch, group=group)


def step_bytes(
    decoder: DecoderShape, numerics: Numerics, plan: Plan, chunk_elements: int, towers: int, projectors: int
) -> dict[str, ByPhase]:
    """What a step needs at its largest, beside weights and states: bytes by part and phase.

    Args:
        decoder: the language model.
        numerics: bytes per number.
        plan: the step.
        chunk_elements: logits that stand in memory at once when completions are scored.
        towers: bytes that the frozen towers need per clip while they run, which they do for all clips together.
        projectors: bytes that autograd saves of the projectors per clip.
    """
    sampled = cache_bytes(decoder, numerics.compute, plan.rollout, plan.shares_prompts)
    kept = activation_bytes(decoder, numerics, plan.trained, plan.backward, plan.layout)
    trains_head = plan.trained == "weights"

    def logits(load: Workload, with_gradient: bool) -> int:
        num_tokens = load.rows * load.new_tokens
        return logits_bytes(decoder, numerics, num_tokens, chunk_elements, trains_head and with_gradient)

    rows: dict[str, ByPhase] = {
        "towers": {"towers": plan.load.prompts * towers},
        "autocast copies": cast_bytes(decoder, numerics, plan.layout),
        "prompt cache": {"sampling": sampled.prompts},
        "completion cache": {"sampling": sampled.completions},
        "prompt graph": {"update": kept.prompts},
        "completion graph": {"update": kept.completions},
        "layer again": {"update": kept.layer},
        "projector graph": {"update": plan.micro_batch.prompts * projectors},
        "logits": {
            "sampling": sampling_logits_bytes(decoder, numerics, plan.rollout.rows),
            "update": logits(plan.backward, with_gradient=True),
        },
    }
    if plan.layout == "repeated":
        # Until the last layer is through. Attention saves copies of its own, which the graph has.
        own = cache_bytes(decoder, numerics.weight, plan.backward, shared=False)
        rows["completion cache"]["update"] = own.prompts + own.completions
    if plan.has_reference:
        scored = cache_bytes(decoder, numerics.weight, plan.micro_batch)
        # Where keys and values are repeated for the completions, the prompts' own are still there.
        repeated = cache_bytes(decoder, numerics.weight, plan.micro_batch, shared=False).prompts
        rows["prompt cache"]["reference"] = scored.prompts + (0 if plan.layout == "grouped" else repeated)
        rows["completion cache"]["reference"] = scored.completions
        rows["logits"]["reference"] = logits(plan.micro_batch, with_gradient=False)
    return rows


def step_seconds(decoder: DecoderShape, numerics: Numerics, plan: Plan, limits: Limits) -> dict[str, float]:
    """What the phases of a step take at least, in seconds; see `least_seconds`."""
    # Backward: gradients of the activations, and of the weights where they are trained.
    passes = 1 + (2 if plan.trained == "weights" else 1) + (plan.layout == "packed")
    whole = least_seconds(
        step_work(decoder, plan.load, numerics.compute), limits, plan.has_reference, plan.num_updates, passes
    )
    sampled = [
        step_work(decoder, replace(plan.load, prompts=stop - start), numerics.compute)
        for start, stop in spans(plan.load.prompts, plan.rollout_batch_size)
    ]
    seconds = [least_seconds(work, limits, False, 0, 0)["sample"] for work in sampled]
    return whole | {"sample": sum(seconds)}
