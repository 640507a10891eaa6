"""Work and least time of a step, against hand-computed numbers."""

import pytest

from tools.estimate.limits import CHIPS, Limits, least_seconds, limits_of, step_work
from tools.estimate.shapes import DecoderShape, Workload

pytestmark = pytest.mark.unit

SHAPE = DecoderShape(hidden=10, layers=2, heads=2, queries=8, keys=4, intermediate=20, vocabulary=100)
"""N = 2·10·(16 + 8 + 60) = 1,680 and V·H = 1,000."""


def test_work_of_two_prompts_with_three_completions() -> None:
    work = step_work(SHAPE, Workload(prompts=2, group=3, prompt_positions=5, new_tokens=4), width=2)
    # Positions: 2·5 of prompts, 6·4 of completions. Pairs that attend: 2·25/2 + 6·(4·5 + 16/2) = 193.
    assert work.forward_flops == 2 * 1_680 * 34 + 2 * 1_000 * 24 + 4 * 2 * 8 * 193
    assert work.naive_forward_flops == 2 * 2_680 * 6 * 9 + 4 * 2 * 8 * 6 * 81 / 2
    assert work.sampling_bytes == 4 * 2 * 2_680 + 2 * 2 * 4 * 2 * (4 * 2 * 5 + 6 * 16 / 2)


def test_least_time_is_what_the_tighter_limit_asks_for() -> None:
    work = step_work(SHAPE, Workload(prompts=2, group=3, prompt_positions=5, new_tokens=4), width=2)
    slow_memory = least_seconds(work, Limits(1e6, 1e3, 80), has_reference=True, num_updates=2, passes_per_update=3)
    assert slow_memory["sample"] == work.sampling_bytes / 1e3
    assert slow_memory["reference"] == work.forward_flops / 1e6
    assert slow_memory["update"] == 2 * 3 * work.forward_flops / 1e6
    fast_memory = least_seconds(work, Limits(1e3, 1e9, 80), has_reference=False, num_updates=1, passes_per_update=3)
    assert fast_memory["sample"] == work.forward_flops / 1e3
    assert fast_memory["reference"] == 0


def test_limits_of_named_chips() -> None:
    assert limits_of("NVIDIA H100 80GB HBM3") == CHIPS["H100"]
    assert limits_of("NVIDIA H200") == CHIPS["H200"]
    assert limits_of("NVIDIA H100 PCIe") == CHIPS["H100 PCIe"]
    assert limits_of("Another") is None
