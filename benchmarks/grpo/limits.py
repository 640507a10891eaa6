"""How much of a GPU's bandwidth and arithmetic a step uses; formulas: tools/estimate/limits.py.

    share of FLOP limit      = FLOP / seconds of the phase / limit
    share of bandwidth limit = bytes / seconds of sampling / limit

What is computed twice, and the towers, lower the share.
"""

from torch import nn

from benchmarks.grpo.geometries import Geometry
from tools.estimate.limits import Limits, Work, step_work
from tools.estimate.shapes import DecoderShape, Workload


def work_of(language_model: nn.Module, geometry: Geometry, prompt_positions: int) -> Work:
    """Least work of a phase.

    Args:
        language_model: a causal LM with a head.
        geometry: B, G and C.
        prompt_positions: P.
    """
    load = Workload(geometry.num_prompts, geometry.group_size, prompt_positions, geometry.new_tokens)
    return step_work(DecoderShape.of(language_model.config), load, next(language_model.parameters()).element_size())


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
