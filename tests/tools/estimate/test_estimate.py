"""Estimates from the configuration of a run: totals, facts, verdicts, errors."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from lightning_modules.backbones.composed import ComposedBackbone
from tools.estimate.estimate import GRPO, estimate, show
from tools.estimate.limits import CHIPS, Limits

pytestmark = pytest.mark.unit

H100 = CHIPS["H100"]


@pytest.fixture
def make_config(tiny_models: Path) -> Callable[..., dict[str, Any]]:
    """Configuration of `fit` on the tiny backbone: 2 prompts of 3 completions; options of the model and the Trainer."""
    parts = {name: str(tiny_models / name) for name in ("vision", "audio", "language_model")}
    backbone = {
        **{"dtype": "float32", "num_frames": 2, "video_grid": 2, "audio_pool": 10, **parts},
        "recipes": {"grpo": {"trainable": ["language_model"], "learning_rate": 1e-6}},
    }
    model = {
        "trainable": None,
        "verifier": str(tiny_models / "verifier"),
        "judge": None,
        "rollout_sampling": {"max_new_tokens": 8, "compiled": False},
        "group_size": 3,
        "beta": 0.04,
        "num_updates": 1,
        "optimizer": "adamw",
        **dict.fromkeys(("global_batch", "rollout_batch_size", "micro_batch_size", "completion_batch_size")),
    }

    def make(of_backbone: dict[str, Any] | None = None, **options: Any) -> dict[str, Any]:
        trainer = {"accelerator": "gpu", "devices": 1, "num_nodes": 1, "strategy": "auto", "precision": None}
        class_path = f"{ComposedBackbone.__module__}.{ComposedBackbone.__name__}"
        init_args = {**backbone, **(of_backbone or {})}
        return {
            "model": {
                "class_path": GRPO,
                "init_args": model
                | {"backbone": {"class_path": class_path, "init_args": init_args}}
                | {name: value for name, value in options.items() if name in model},
            },
            "data": {"class_path": "datamodules.clips.Clips", "init_args": {"batch_size": 2}},
            "trainer": trainer | {name: value for name, value in options.items() if name in trainer},
        }

    return make


def test_parts_are_those_of_the_real_backbone(
    make_config: Callable[..., dict[str, Any]], backbone: ComposedBackbone
) -> None:
    result = estimate(make_config(), H100)
    real = {name: sum(p.numel() for p in part.parameters()) for name, part in backbone.parts.items()}
    assert {name: part.numbers for name, part in result.parts.items()} == real
    assert {name: part.trained for name, part in result.parts.items() if part.trained} == {
        "language_model": real["language_model"]
    }
    trained = real["language_model"]
    assert result.memory["gradients"]["update"] == result.memory["reference"]["update"] == 4 * trained
    assert result.memory["optimizer state"]["update"] == 8 * trained
    assert result.checkpoint == pytest.approx(12 * trained, rel=0.1)


def test_a_global_batch_is_dealt_out(make_config: Callable[..., dict[str, Any]]) -> None:
    """8 prompts on 2 devices: each samples 4, and sends 2 at a time (`data.batch_size`) backward."""
    dealt = estimate(make_config(global_batch=8, devices=2, strategy="ddp"), H100)
    given = make_config(micro_batch_size=2, devices=2, strategy="ddp")
    given["data"]["init_args"]["batch_size"] = 4
    assert dealt.memory == estimate(given, H100).memory and dealt.num_prompts == 4


def test_what_fit_refuses_is_said(make_config: Callable[..., dict[str, Any]]) -> None:
    def refused(**options: Any) -> bool:
        return any("refuses" in note for note in estimate(make_config({"dtype": "bfloat16"}, **options), H100).notes)

    assert refused() and not refused(optimizer="kahan_adamw")
    assert not refused(devices=2, strategy={"class_path": "lightning_modules.sharding.FSDP2Strategy"})


def test_total_of_a_phase_is_the_sum_of_what_stands_in_it(make_config: Callable[..., dict[str, Any]]) -> None:
    result = estimate(make_config(), H100)
    assert result.totals["update"] == sum(row.get("update", 0) for row in result.memory.values())
    assert result.peak == max(result.totals.values()) > 0


def test_adapters_need_no_reference_of_their_own(make_config: Callable[..., dict[str, Any]]) -> None:
    result = estimate(make_config({"lora": {"rank": 2}}), H100)
    assert "reference" not in result.memory
    assert 0 < result.parts["language_model"].trained < result.parts["language_model"].numbers / 5
    assert result.facts["trained in the language model"] == "adapters"


def test_without_a_kl_penalty_there_is_no_reference(make_config: Callable[..., dict[str, Any]]) -> None:
    result = estimate(make_config(beta=0.0), H100)
    assert "reference" not in result.memory and result.seconds["reference"] == 0


def test_gradient_checkpointing_and_small_batches_need_less(make_config: Callable[..., dict[str, Any]]) -> None:
    whole = estimate(make_config(), H100)
    packed = estimate(make_config({"gradient_checkpointing": True}), H100)
    parts = estimate(make_config(micro_batch_size=1, completion_batch_size=1), H100)

    def graph(result: Any) -> float:
        names = ("prompt graph", "completion graph", "layer again")
        return sum(result.memory.get(name, {}).get("update", 0) for name in names)

    assert graph(packed) < graph(whole)
    assert parts.memory["prompt graph"]["update"] == whole.memory["prompt graph"]["update"] / 2
    assert parts.memory["completion graph"]["update"] == whole.memory["completion graph"]["update"] / 6
    assert packed.seconds["update"] == pytest.approx(whole.seconds["update"] * 4 / 3)


def test_shards_are_a_part_of_the_whole(make_config: Callable[..., dict[str, Any]]) -> None:
    alone = estimate(make_config(), H100)
    strategy = {"class_path": "lightning_modules.sharding.FSDP2Strategy", "init_args": {}}
    sharded = estimate(make_config(devices=4, strategy=strategy), H100)
    assert sharded.memory["optimizer state"]["update"] == alone.memory["optimizer state"]["update"] / 4
    assert sharded.checkpoint == alone.checkpoint
    assert sharded.facts["devices"].startswith("4, fsdp2")


def test_prompts_can_be_given_and_rollouts_be_cut(make_config: Callable[..., dict[str, Any]]) -> None:
    result = estimate(make_config(), H100, prompt_tokens=101)
    halves = estimate(make_config(rollout_batch_size=1), H100, prompt_tokens=101)
    assert result.facts["prompt"] == "101 positions"
    # 2 layers, 2 tensors, prompts × 100 positions in float32.
    per_position = result.memory["prompt cache"]["sampling"] / (2 * 100)
    assert halves.memory["prompt cache"]["sampling"] == 100 * per_position
    compiled = make_config()
    compiled["model"]["init_args"]["rollout_sampling"]["compiled"] = True
    cache = estimate(compiled, H100).memory["completion cache"]["sampling"]
    assert cache == result.memory["completion cache"]["sampling"] * 120 / 8, "room for 120 tokens, of which 8 are used"
    assert halves.seconds["sample"] > result.seconds["sample"], "the weights are read twice"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda config: config["model"].update(class_path="Other"), "estimates are for stage 3"),
        (lambda config: config["model"]["init_args"].update(backbone=None), "no backbone. Stack one of"),
        (lambda config: config["model"]["init_args"]["backbone"]["init_args"].update(recipes=None), "What is trained"),
        (
            lambda config: config["model"]["init_args"]["backbone"]["init_args"].update(vision="/nowhere"),
            "vision: .*nowhere",
        ),
    ],
)
def test_what_cannot_be_estimated_is_refused(
    change: Callable[[dict[str, Any]], None], message: str, make_config: Callable[..., dict[str, Any]]
) -> None:
    config = make_config()
    change(config)
    with pytest.raises(ValueError, match=message):
        estimate(config, H100)


def test_geometries_are_of_humanomni(make_config: Callable[..., dict[str, Any]]) -> None:
    with pytest.raises(ValueError, match="sizes of HumanOmni models, and the backbone is .*ComposedBackbone"):
        estimate(make_config(), H100, geometry="7b")


@pytest.mark.parametrize(
    ("share", "verdict"), [(0.5, "It fits: "), (0.95, "It may not fit: "), (1.5, "It does not fit: ")]
)
def test_verdict(share: float, verdict: str, make_config: Callable[..., dict[str, Any]]) -> None:
    result = estimate(make_config(), H100)
    console = Console(file=io.StringIO(), width=200)
    show(console, result, Limits(1e12, 1e12, memory_gib=result.peak / 2**30 / share))
    text = console.file.getvalue()
    assert f"{verdict}{result.peak / 2**30:.1f} GiB are needed, {share:.0%} of" in text
    for name in result.memory:
        assert name in text
