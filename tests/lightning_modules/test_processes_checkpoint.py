"""Checkpoints of sharded runs are those of any other: a run goes on sharded or not, on two processes or on one.

A resumed run is compared to the bit. One process and two sum float32 in another order, and AdamW divides by gradients
that are next to 0: weights agree to 1e-4, a tenth of a step at a learning rate of 1e-3.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from callbacks.checkpointing.files import DIRECTORY
from callbacks.checkpointing.run_checkpoint import RunCheckpoint
from callbacks.rl import RLCallback
from datamodules.batch import Clip
from lightning_modules.backbones.composed import ComposedBackbone
from lightning_modules.backbones.interface import Sampling
from lightning_modules.cold_start import ColdStartModule
from lightning_modules.grpo import GRPOModule
from lightning_modules.sharding import FSDP2Strategy
from lightning_modules.trainable_policy import TrainablePolicyModule

from .conftest import TRAINED, LengthReward
from .two_processes import DealtClips, Step, on_two_processes, trained, trainer

pytestmark = pytest.mark.e2e

GREEDY = Sampling(max_new_tokens=6, temperature=0)
FIRST_EPOCH = {"cold_start": 1, "grpo": 2}
"""Optimizer steps in it: one batch, and in stage 3 two updates of it."""

Learn = Callable[..., dict[str, Any]]


def make_module(stage: str, backbone: ComposedBackbone) -> TrainablePolicyModule:
    options: dict[str, Any] = {"evaluation": GREEDY, "learning_rate": 1e-3, "schedule": "constant"}
    if stage == "cold_start":
        return ColdStartModule(backbone, "dfew", trainable=TRAINED, warmup_ratio=0.0, **options)
    # Greedy, so that one process and two sample the same.
    return GRPOModule(
        backbone, "dfew", trainable=TRAINED, rollout_sampling=GREEDY, group_size=2, num_updates=2, **options
    )


@pytest.fixture
def steps(make_clip: Callable[..., Clip]) -> list[Step]:
    return [([make_clip(0), make_clip(1)], [make_clip(2)])]


@pytest.fixture
def learn(tiny_models: Path, make_clip: Callable[..., Clip], steps: list[Step]) -> Learn:
    def run(stage: str, rank: int | None, directory: Path, start: Path | None = None) -> dict[str, Any]:
        torch.manual_seed(0)
        parts = {name: str(tiny_models / name) for name in ("vision", "audio", "language_model")}
        module = make_module(stage, ComposedBackbone(**parts, num_frames=2, video_grid=2, audio_pool=10))
        checkpoint = RunCheckpoint(every_n_steps=1, every_n_minutes=None, keep=9)
        callbacks = [RLCallback([LengthReward()])] if stage == "grpo" else []
        strategy = None if rank is None else FSDP2Strategy()
        fit = trainer(strategy, directory, checkpoint, *callbacks, max_epochs=2, enable_checkpointing=True)
        data = DealtClips(steps, ([make_clip(i) for i in range(2)], [make_clip(2)]), rank)
        fit.fit(module, datamodule=data, ckpt_path=start, weights_only=True)
        weights = trained(module)
        fit.test(module, datamodule=data, verbose=False)
        return {"weights": weights, "tested": module.metrics_report()["num_samples"]}

    return run


@pytest.mark.parametrize("stage", FIRST_EPOCH)
def test_a_sharded_run_goes_on_sharded_or_not(learn: Learn, tmp_path: Path, stage: str) -> None:
    name = f"{DIRECTORY}/step={FIRST_EPOCH[stage]:08d}.ckpt"
    whole, sharded = tmp_path / "whole", tmp_path / "sharded"
    alone = learn(stage, None, whole)

    def on_each(rank: int) -> dict[str, Any]:
        return {
            "uninterrupted": learn(stage, rank, sharded),
            "resumed": learn(stage, rank, tmp_path / "resumed", sharded / name),
            "from_one": learn(stage, rank, tmp_path / "from_one", whole / name),
        }

    results = on_two_processes(on_each, tmp_path / "results")
    for result in results:
        assert [run["tested"] for run in result.values()] == [3, 3, 3], "each clip once"
        torch.testing.assert_close(result["resumed"]["weights"], result["uninterrupted"]["weights"], rtol=0, atol=0)
        for run in ("uninterrupted", "from_one"):
            torch.testing.assert_close(result[run]["weights"], alone["weights"], rtol=0, atol=1e-4)
    one = learn(stage, None, tmp_path / "on_one", sharded / name)
    torch.testing.assert_close(one["weights"], alone["weights"], rtol=0, atol=1e-4)
    saved, expected = (torch.load(run / name, weights_only=True) for run in (sharded, whole))
    torch.testing.assert_close(saved["state_dict"], expected["state_dict"], rtol=0, atol=1e-4)
    names = {f"backbone.{name}" for name in alone["weights"]} | {"backbone.language_model.lm_head.weight"}
    assert set(saved["state_dict"]) == names, "what is trained, a tied weight under both of its names"
    moments, others = (content["optimizer_states"][0]["state"] for content in (saved, expected))
    torch.testing.assert_close(moments, others, rtol=0, atol=1e-6)
