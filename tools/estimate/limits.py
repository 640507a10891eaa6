"""How fast a GRPO step can be at best: the chip's arithmetic and its memory's bandwidth.

The work counted is the least that any engine does: each prompt once per step's phase, weights once per token position,
prompt keys and values once per group. What is computed twice, the towers and what processes send each other come on
top. With N the language model's matrix weights without its head, V·H the head's, L layers, q query and k key-value
channels per layer, b bytes per number, B prompts of P positions with G completions of C tokens:

    FLOP, forward   = 2·N·(B·P + B·G·C) + 2·V·H·B·G·C + 4·L·q·(B·P²/2 + B·G·(C·P + C²/2))
    FLOP, naive     = 2·(N + V·H)·B·G·(P + C) + 4·L·q·B·G·(P + C)²/2, forward with the prompt once per completion
    FLOP, update    = 3 × forward (backward = 2 × forward)
    bytes, sampling = C·b·(N + V·H) + 2·L·k·b·(C·B·P + B·G·C²/2)
"""

from dataclasses import dataclass

from tools.estimate.shapes import DecoderShape, Workload


@dataclass(frozen=True)
class Limits:
    """Of one chip, by its data sheet.

    Args:
        flops: dense bfloat16 FLOP/s.
        bandwidth: of its memory, bytes/s.
        memory_gib: of its memory.
    """

    flops: float
    bandwidth: float
    memory_gib: float


CHIPS = {
    "H200 NVL": Limits(flops=835e12, bandwidth=4.8e12, memory_gib=141),
    "H200": Limits(flops=989e12, bandwidth=4.8e12, memory_gib=141),
    "H100 NVL": Limits(flops=835e12, bandwidth=3.9e12, memory_gib=94),
    "H100 PCIe": Limits(flops=756e12, bandwidth=2.0e12, memory_gib=80),
    "H100": Limits(flops=989e12, bandwidth=3.35e12, memory_gib=80),
}
"""By what `torch.cuda.get_device_name` contains; the first that fits. "H100" and "H200" alone are the SXM modules."""


def limits_of(device_name: str) -> Limits | None:
    """Limits of a chip, None for one that is not in the table."""
    return next((limits for name, limits in CHIPS.items() if name in device_name), None)


@dataclass(frozen=True)
class Work:
    """FLOP of one forward pass of a step's prompts and completions, shared and naive, and bytes that sampling reads."""

    forward_flops: float
    naive_forward_flops: float
    sampling_bytes: float


def step_work(decoder: DecoderShape, load: Workload, width: int) -> Work:
    """Least work of a phase; formulas at the top of this file.

    Args:
        decoder: the language model.
        load: prompts and completions.
        width: bytes per weight, key and value.
    """
    prompts, rows, length, new = load.prompts, load.rows, load.prompt_positions, load.new_tokens
    attention = prompts * length**2 / 2 + rows * (new * length + new**2 / 2)
    flops: float = (
        2 * decoder.matrices * (prompts * length + rows * new)
        + 2 * decoder.head * rows * new
        + 4 * decoder.layers * decoder.queries * attention
    )
    naive: float = 2 * (decoder.matrices + decoder.head) * rows * (length + new)
    naive += 4 * decoder.layers * decoder.queries * rows * (length + new) ** 2 / 2
    cache = 2 * decoder.layers * decoder.keys * width * (new * prompts * length + rows * new**2 / 2)
    return Work(flops, naive, new * width * (decoder.matrices + decoder.head) + cache)


def least_seconds(
    work: Work, limits: Limits, has_reference: bool, num_updates: int, passes_per_update: int
) -> dict[str, float]:
    """What each phase of a step takes at least, in seconds.

    Args:
        work: of the step, on one device.
        limits: of the chip.
        has_reference: whether a reference scores the completions, too.
        num_updates: optimizer steps per rollout.
        passes_per_update: forward passes that an update costs as much as: one forward, two for a backward pass that
            makes gradients of all weights (one where the weights are frozen), one more to recompute activations.
    """
    forward = work.forward_flops / limits.flops
    return {
        "sample": max(work.sampling_bytes / limits.bandwidth, forward),
        "reference": forward if has_reference else 0.0,
        "update": num_updates * passes_per_update * forward,
    }
