"""Weights, gradients and optimizer states per device, against hand-computed numbers."""

from dataclasses import replace

import pytest

from tools.estimate.shapes import Numerics
from tools.estimate.states import PHASES, Numbers, Strategy, state_bytes

pytestmark = pytest.mark.unit

NUMBERS = Numbers(trained=100, adapters=0, frozen=40, copied=100, verifier=7)
FLOAT32, BFLOAT16 = Numerics.of("32-true", "float32"), Numerics.of("bf16-true", "float32")


def total(numerics: Numerics, strategy: Strategy, phase: str, numbers: Numbers = NUMBERS) -> float:
    return sum(row.get(phase, 0) for row in state_bytes(numbers, numerics, strategy).values())


def test_one_device_holds_everything() -> None:
    # Weights 400, frozen 160, reference 400, verifier 28, gradients 400, moments 800.
    alone = Strategy("one device", 1)
    assert {total(FLOAT32, alone, phase) for phase in PHASES} == {2_188}
    scaled = Numerics.of("16-mixed", "float32")
    assert total(scaled, alone, "optimizer step") == total(scaled, alone, "update") + 400, "AdamW is not fused"


def test_half_precision_halves_all_but_the_verifier() -> None:
    assert total(BFLOAT16, Strategy("one device", 1), "update") == (2_188 - 28) / 2 + 28


def test_autocast_keeps_weights() -> None:
    assert total(Numerics.of("bf16-mixed", "float32"), Strategy("one device", 1), "update") == 2_188
    assert total(Numerics.of("bf16-mixed", "bfloat16"), Strategy("one device", 1), "update") == 2_160 / 2 + 28


def test_ddp_copies_gradients_into_buckets_unless_they_are_views() -> None:
    assert total(FLOAT32, Strategy("ddp", 4), "update") == 2_188 + 400
    assert total(FLOAT32, Strategy("ddp", 4, has_buckets=False), "update") == 2_188


def test_fsdp2_shards_what_is_trained_and_gathers_it_to_compute() -> None:
    sharded = Strategy("fsdp2", 4)
    # Always: frozen 160, verifier 28, moments 800/4. A shard of weights, reference and gradients has 100 each.
    always = 160 + 28 + 200
    assert total(FLOAT32, sharded, "sampling") == always + 500 + 100 + 100
    assert total(FLOAT32, sharded, "reference") == always + 100 + 500 + 100
    assert total(FLOAT32, sharded, "update") == always + 500 + 100 + 500
    assert total(FLOAT32, sharded, "optimizer step") == always + 100 + 100 + 100


def test_fsdp2_keeps_float32_shards_of_a_model_in_bfloat16() -> None:
    numerics = Numerics.of("32-true", "bfloat16")
    # Always: frozen 80, verifier 28, moments 800/4. Shards: weights and gradients 100 each, the reference's 50.
    always = 80 + 28 + 200
    assert total(numerics, Strategy("fsdp2", 4), "sampling") == always + (200 + 100) + 50 + 100
    assert total(numerics, Strategy("fsdp2", 4), "reference") == always + 100 + (200 + 50) + 100
    assert total(numerics, Strategy("fsdp2", 4), "update") == always + (200 + 100) + 50 + (200 + 100)
    assert total(numerics, Strategy("fsdp2", 4), "optimizer step") == always + 100 + 50 + 100
    assert total(numerics, Strategy("fsdp2", 16, shard_over=4), "update") == always + 300 + 50 + 300


def test_optimizers_for_16_bits() -> None:
    numerics, alone = Numerics.of("32-true", "bfloat16"), Strategy("one device", 1)
    expected = {"adamw": 400, "kahan_adamw": 600, "adamw_8bit": 200}
    for name, size in expected.items():
        rows = state_bytes(replace(NUMBERS, optimizer=name), numerics, alone)
        assert set(rows["optimizer state"].values()) == {size}


def test_adapters_keep_their_own_precision() -> None:
    numbers = Numbers(trained=10, adapters=5, frozen=40, copied=10, verifier=0)
    rows = state_bytes(numbers, Numerics.of("32-true", "bfloat16"), Strategy("one device", 1))
    assert rows["trained weights"]["update"] == 10 * 2 + 5 * 4
    assert rows["optimizer state"]["update"] == 2 * (10 * 2 + 5 * 4)
    assert rows["reference"]["update"] == 10 * 2


@pytest.mark.parametrize(
    ("trainer", "expected"),
    [
        ({"devices": 1, "strategy": "auto"}, Strategy("one device", 1)),
        ({"devices": "8", "strategy": "auto"}, Strategy("ddp", 8)),
        ({"devices": [0, 1], "num_nodes": 2, "strategy": "ddp_find_unused_parameters_true"}, Strategy("ddp", 4)),
        (
            {
                "devices": 2,
                "strategy": {
                    "class_path": "lightning.pytorch.strategies.DDPStrategy",
                    "init_args": {"gradient_as_bucket_view": True},
                },
            },
            Strategy("ddp", 2, has_buckets=False),
        ),
        ({"devices": 2, "strategy": {"class_path": "lightning_modules.sharding.FSDP2Strategy"}}, Strategy("fsdp2", 2)),
    ],
)
def test_strategies_of_a_trainer(trainer: dict, expected: Strategy) -> None:
    assert Strategy.of(trainer) == expected


@pytest.mark.parametrize("strategy", ["fsdp", "deepspeed_stage_3"])
def test_strategies_without_an_estimate_are_refused(strategy: str) -> None:
    with pytest.raises(ValueError, match=f"no estimate for trainer.strategy {strategy}"):
        Strategy.of({"devices": 2, "strategy": strategy})


@pytest.mark.parametrize("devices", ["auto", -1, None])
def test_a_number_of_devices_that_depends_on_the_machine_is_asked_for(devices: object) -> None:
    with pytest.raises(ValueError, match="Give --trainer.devices N"):
        Strategy.of({"devices": devices, "strategy": "ddp"})


def test_unknown_precision_is_refused() -> None:
    with pytest.raises(ValueError, match="'64-true'; there are estimates for"):
        Numerics.of("64-true", "float32")
