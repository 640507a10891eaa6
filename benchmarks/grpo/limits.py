"""How much of a GPU's bandwidth and arithmetic a step uses.

The work counted is the least that any engine does: each prompt once per step's phase, weights once per token position,
prompt keys and values once per group. What is computed twice, and the towers, lower the share. With N the language
model's matrix weights without its head, V·H the head's, L layers, q query and k key-value channels per layer, b bytes
per number, B prompts of P positions with G completions of C tokens:

    FLOP, forward   = 2·N·(B·P + B·G·C) + 2·V·H·B·G·C + 4·L·q·(B·P²/2 + B·G·(C·P + C²/2))
    FLOP, naive     = 2·(N + V·H)·B·G·(P + C) + 4·L·q·B·G·(P + C)²/2, forward with the prompt once per completion
    FLOP, update    = 3 × forward (backward = 2 × forward)
    bytes, sampling = C·b·(N + V·H) + 2·L·k·b·(C·B·P + B·G·C²/2)

    share of FLOP limit      = FLOP / seconds of the phase / limit
    share of bandwidth limit = bytes / seconds of sampling / limit
"""

from dataclasses import dataclass
from typing import Any

from torch import nn

from benchmarks.grpo.geometries import Geometry


@dataclass(frozen=True)
class Limits:
    """Of one chip, by its data sheet: dense bfloat16 FLOP/s, and bytes/s of its memory."""

    flops: float
    bandwidth: float


CHIPS = {
    "H200 NVL": Limits(flops=835e12, bandwidth=4.8e12),
    "H200": Limits(flops=989e12, bandwidth=4.8e12),
    "H100 NVL": Limits(flops=835e12, bandwidth=3.9e12),
    "H100 PCIe": Limits(flops=756e12, bandwidth=2.0e12),
    "H100": Limits(flops=989e12, bandwidth=3.35e12),
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


def work_of(language_model: nn.Module, geometry: Geometry, prompt_positions: int) -> Work:
    """Least work of a phase; formulas at the top of this file.

    Args:
        language_model: a causal LM with a head.
        geometry: B, G and C.
        prompt_positions: P.
    """
    config: Any = language_model.config
    head = config.vocab_size * config.hidden_size
    layers = config.num_hidden_layers
    head_width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    queries, keys = config.num_attention_heads * head_width, config.num_key_value_heads * head_width
    matrices = layers * config.hidden_size * (2 * queries + 2 * keys + 3 * config.intermediate_size)
    width = next(language_model.parameters()).element_size()
    prompts, group, new, length = geometry.num_prompts, geometry.group_size, geometry.new_tokens, prompt_positions
    attention = prompts * length**2 / 2 + prompts * group * (new * length + new**2 / 2)
    flops = (
        2 * matrices * (prompts * length + prompts * group * new)
        + 2 * head * prompts * group * new
        + 4 * layers * queries * attention
    )
    rows = prompts * group
    naive = 2 * (matrices + head) * rows * (length + new) + 4 * layers * queries * rows * (length + new) ** 2 / 2
    cache = 2 * layers * keys * width * (new * prompts * length + prompts * group * new**2 / 2)
    return Work(flops, naive, new * width * (matrices + head) + cache)


def shares(work: Work, limits: Limits, seconds: dict[str, float]) -> dict[str, float]:
    """Shares of the limits reached, by phase.

    Args:
        work: what the step has to do.
        limits: of the chip.
        seconds: of the phases "sample", "reference" and "update".
    """
    return {
        "sample_bandwidth": work.sampling_bytes / seconds["sample"] / limits.bandwidth,
        "sample_flops": work.forward_flops / seconds["sample"] / limits.flops,
        "reference_flops": work.forward_flops / seconds["reference"] / limits.flops,
        "update_flops": 3 * work.forward_flops / seconds["update"] / limits.flops,
    }
