"""The learning rate of every optimizer step of stages 1 and 3, by hand (stage 2's: test_verifier_module.py)."""

from collections.abc import Callable
from math import cos, pi
from typing import Any

import pytest
from lightning import Callback, LightningModule, Trainer
from torch.optim import Optimizer

from callbacks.rl import RLCallback
from datamodules.batch import Clip, ClipBatch, collate
from lightning_modules.backbones.composed import ComposedBackbone
from lightning_modules.cold_start import ColdStartModule
from lightning_modules.grpo import GRPOModule

from .conftest import SHORT, TRAINED, LengthReward

pytestmark = pytest.mark.e2e

PEAK = 1e-3


class LearningRates(Callback):
    """The learning rate that each optimizer step uses, in units of the peak."""

    def __init__(self) -> None:
        self.used: list[float] = []

    def on_before_optimizer_step(self, trainer: Trainer, module: LightningModule, optimizer: Optimizer) -> None:
        self.used += [group["lr"] / PEAK for group in optimizer.param_groups]


@pytest.fixture
def single_clips(make_clip: Callable[..., Clip]) -> list[ClipBatch]:
    return [collate([make_clip(i)]) for i in range(4)]


@pytest.mark.parametrize(
    ("num_epochs", "options", "expected"),
    [
        # As configured: 3 % of 34 steps are one. Then half a cosine.
        (17, {}, [0, *(0.5 * (1 + cos(pi * step / 33)) for step in range(33))]),
        (5, {"warmup_ratio": 0.4}, [0, 1 / 4, 2 / 4, 3 / 4, *(0.5 * (1 + cos(pi * step / 6)) for step in range(6))]),
        (4, {"warmup_ratio": 0.0, "schedule": "linear"}, [1 - step / 8 for step in range(8)]),
        (4, {"warmup_ratio": 0.25, "schedule": "constant"}, [0, 1 / 2, *[1] * 6]),
    ],
)
def test_stage_1_warms_up_over_a_share_of_its_optimizer_steps(
    num_epochs: int,
    options: dict[str, Any],
    expected: list[float],
    backbone: ComposedBackbone,
    single_clips: list[ClipBatch],
    fit: Callable[..., Trainer],
) -> None:
    module = ColdStartModule(
        backbone, "dfew", trainable=["vision_projector"], evaluation=SHORT, learning_rate=PEAK, **options
    )
    rates = LearningRates()
    fit(module, single_clips, rates, max_epochs=num_epochs, accumulate_grad_batches=2)  # of 4 batches
    assert rates.used == pytest.approx(expected, abs=1e-9)


def stage_3(backbone: ComposedBackbone, num_updates: int, **options: Any) -> GRPOModule:
    values = {"trainable": TRAINED, "rollout_sampling": SHORT, "group_size": 2, "learning_rate": PEAK}
    return GRPOModule(backbone, "dfew", num_updates=num_updates, **values, **options)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        # As configured: no warm-up, a line to 0.
        ({}, [1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8]),
        ({"warmup_ratio": 0.25}, [0, 1 / 2, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]),
        ({"warmup_ratio": 0.5, "schedule": "constant"}, [0, 1 / 4, 2 / 4, 3 / 4, 1, 1, 1, 1]),
        (
            {"warmup_ratio": 0.25, "schedule": "cosine"},
            [0, 1 / 2, *(0.5 * (1 + cos(pi * step / 6)) for step in range(6))],
        ),
    ],
)
@pytest.mark.parametrize(("num_updates", "num_epochs"), [(1, 2), (2, 1)])
def test_stage_3_warms_up_over_a_share_of_its_updates(
    num_updates: int,
    num_epochs: int,
    options: dict[str, Any],
    expected: list[float],
    backbone: ComposedBackbone,
    single_clips: list[ClipBatch],
    fit: Callable[..., Trainer],
) -> None:
    module = stage_3(backbone, num_updates, **options)
    rates = LearningRates()
    fit(module, single_clips, RLCallback([LengthReward()]), rates, max_epochs=num_epochs)
    assert rates.used == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("num_updates", [1, 2])
def test_a_run_of_max_steps_ends_its_schedule_with_its_last_update(
    num_updates: int, backbone: ComposedBackbone, single_clips: list[ClipBatch], fit: Callable[..., Trainer]
) -> None:
    module = stage_3(backbone, num_updates)
    rates = LearningRates()
    fit(module, single_clips, RLCallback([LengthReward()]), rates, max_steps=4, max_epochs=-1)
    assert rates.used == pytest.approx([1, 3 / 4, 2 / 4, 1 / 4], abs=1e-9)
