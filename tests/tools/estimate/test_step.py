"""What of a step stands in memory at once."""

from dataclasses import replace

import pytest

from tools.estimate.shapes import DecoderShape, Numerics, Workload
from tools.estimate.step import Plan, step_bytes

pytestmark = pytest.mark.unit

SHAPE = DecoderShape(hidden=10, layers=2, heads=2, queries=8, keys=4, intermediate=20, vocabulary=100)
PLAN = Plan(
    load=Workload(prompts=4, group=6, prompt_positions=5, new_tokens=3),
    rollout_batch_size=3,
    micro_batch_size=2,
    completion_batch_size=4,
    layout="repeated",
    shares_prompts=True,
    trained="weights",
    has_reference=True,
    num_updates=1,
)


def test_batch_sizes_cut_what_stands_in_memory() -> None:
    assert PLAN.rollout.rows == 3 * 6
    assert PLAN.micro_batch.rows == 2 * 6
    assert PLAN.backward.rows == 2 * 4
    assert replace(PLAN, room=120).rollout.new_tokens == 120
    whole = replace(PLAN, rollout_batch_size=None, micro_batch_size=9, completion_batch_size=None)
    assert whole.rollout == whole.micro_batch == whole.backward == PLAN.load


def test_completions_go_backward_in_parts_only_where_prompts_are_shared() -> None:
    packed = replace(PLAN, layout="packed")
    assert packed.backward == PLAN.micro_batch
    assert replace(PLAN, shares_prompts=False).backward == PLAN.micro_batch
    # With attention windows, each completion has a row with a prompt of its own.
    assert replace(packed, shares_prompts=False).backward == replace(PLAN.load, prompts=2 * 6, group=1)


def test_a_step_by_phase() -> None:
    rows = step_bytes(SHAPE, Numerics.of("32-true", "float32"), PLAN, chunk_elements=100, towers=7, projectors=11)
    assert rows["towers"] == {"towers": 4 * 7}, "for all clips together"
    assert rows["projector graph"] == {"update": 2 * 11}, "for those of a backward pass"
    per_position = 2 * 2 * 4 * 4
    assert rows["prompt cache"]["sampling"] == per_position * 3 * 4
    assert rows["completion cache"]["sampling"] == per_position * 18 * 3
    # The reference keeps the prompts, and repeats them for their completions.
    assert rows["prompt cache"]["reference"] == per_position * (2 * 4 + 12 * 4)
    assert rows["completion cache"]["update"] == per_position * 8 * (4 + 3)
    assert rows["logits"]["sampling"] == 18 * 100 * 36
    # One token at a time, 24 tokens' hidden states, the head's gradient; none of the head without gradient.
    assert rows["logits"]["update"] == 100 * 24 + 24 * 40 + 4_000
    assert rows["logits"]["reference"] == 100 * 24 + 36 * 40
    without = step_bytes(SHAPE, Numerics.of("32-true", "float32"), replace(PLAN, has_reference=False), 100, 7, 11)
    assert not any("reference" in row for row in without.values())
