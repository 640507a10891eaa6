"""`model.global_batch`: each step learns from as many clips on any number of processes, or the run is refused."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, LightningDataModule, LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from callbacks.rl import RLCallback
from datamodules.batch import Clip, ClipBatch, collate
from datamodules.emotions import get_taxonomy
from lightning_modules.backbones.composed import ComposedBackbone
from lightning_modules.cold_start import ColdStartModule
from lightning_modules.global_batch import GlobalBatch
from lightning_modules.grpo import GRPOModule

from .conftest import TRAINED, Batches, LengthReward
from .two_processes import STRATEGIES, on_two_processes, trained, trainer

pytestmark = pytest.mark.e2e


class Sized(LightningDataModule):
    """Clips dealt out to processes in turn, in batches of a size that the run may change before the loader is made."""

    taxonomy = get_taxonomy("dfew")

    def __init__(self, clips: list[Clip], batch_size: int) -> None:
        super().__init__()
        self.clips, self.batch_size = clips, batch_size

    def train_dataloader(self) -> DataLoader:
        own = self.clips[self.trainer.global_rank :: self.trainer.world_size]
        return DataLoader(own, self.batch_size, collate_fn=collate, drop_last=True)


class Sizes(Callback):
    """Clips of each batch, and the optimizer steps made after it."""

    def __init__(self) -> None:
        self.seen: list[list[int]] = []

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: ClipBatch, batch_idx: int
    ) -> None:
        self.seen.append([len(batch), trainer.global_step])


@pytest.fixture
def clips(make_clip: Callable[..., Clip]) -> list[Clip]:
    return [make_clip(i, response=f"<think>{'No! ' * (1 + i)}</think>\n<answer>angry</answer>") for i in range(8)]


@pytest.mark.parametrize(
    ("total", "processes", "size", "accumulation"), [(16, 4, 2, 2), (16, 1, 2, 8), (32, 8, 4, 1), (6, 3, 1, 2)]
)
def test_a_batch_is_dealt_out(total: int, processes: int, size: int, accumulation: int) -> None:
    batch = GlobalBatch.dealt(total, processes, size)
    assert batch == GlobalBatch(processes, size, accumulation) and batch.total == total


@pytest.mark.parametrize(
    ("total", "processes", "size", "match"),
    [
        (16, 3, 1, r"3 processes cannot share evenly. .* one of 1, 2, 4, 8, 16, or model.global_batch to 18"),
        (16, 32, 1, r"32 processes .* model.global_batch to 32"),
        (16, 16, 2, r"each of 16 processes has 1: .* data.batch_size to one of 1\."),
        (32, 2, 6, r"each of 2 processes has 16: batches of data.batch_size 6 .* one of 1, 2, 4, 8, 16\."),
        (0, 1, 1, "Expected 1 or more"),
    ],
)
def test_what_does_not_divide_is_refused(total: int, processes: int, size: int, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        GlobalBatch.dealt(total, processes, size)


def test_the_line_at_the_start() -> None:
    line = GlobalBatch(4, 2, 2).describe("prompts × 4 completions", 16)
    assert line == "Global batch: 16 prompts × 4 completions (4 devices × 2 × accumulation 2); the paper's: 16"
    line = GlobalBatch(1, 4).describe("clips", 32)
    assert line.endswith("× accumulation 1); the paper's: 32; its learning rate goes with model.global_batch=32")


def cold_start(backbone: ComposedBackbone, **options: Any) -> ColdStartModule:
    values = {"trainable": TRAINED, "learning_rate": 1e-3, "warmup_ratio": 0.0, "schedule": "constant"}
    return ColdStartModule(backbone, "dfew", **{**values, **options})


def run(
    module: LightningModule, data: LightningDataModule, directory: Path, strategy: Any = None, **options: Any
) -> tuple[dict[str, Tensor], list[list[int]]]:
    """The weights after the run, and what `Sizes` saw."""
    sizes = Sizes()
    callbacks = [RLCallback([LengthReward()])] if isinstance(module, GRPOModule) else []
    fit = trainer(strategy, directory, sizes, *callbacks, limit_val_batches=0, **options)
    fit.fit(module, datamodule=data)
    return trained(module), sizes.seen


def test_stage_1_accumulates_to_it_on_any_number_of_processes(
    backbone: ComposedBackbone, clips: list[Clip], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    start = {name: value.clone() for name, value in backbone.state_dict().items()}

    def learn(rank: int) -> dict[str, Any]:
        module = cold_start(backbone, global_batch=4)
        weights, seen = run(module, Sized(clips, 1), tmp_path, STRATEGIES["ddp"]())
        return {"weights": weights, "seen": torch.tensor(seen)}

    results = on_two_processes(learn, tmp_path / "results")
    backbone.load_state_dict(start)
    with caplog.at_level(logging.INFO):
        alone, seen = run(cold_start(backbone, global_batch=4), Sized(clips, 2), tmp_path)
    assert "Global batch: 4 clips (1 device × 2 × accumulation 2); the paper's: 32" in caplog.text
    assert seen == [[2, 0], [2, 1], [2, 1], [2, 2]]
    for result in results:
        assert result["seen"].tolist() == [[1, 0], [1, 1], [1, 1], [1, 2]]
        torch.testing.assert_close(result["weights"], alone, rtol=0, atol=1e-4)  # AdamW divides by gradients next to 0


def test_stage_3_samples_it_whole_and_learns_in_passes_of_the_batch_size(
    backbone: ComposedBackbone, make_grpo: Callable[..., GRPOModule], clips: list[Clip], tmp_path: Path
) -> None:
    start = {name: value.clone() for name, value in backbone.state_dict().items()}
    module = make_grpo(global_batch=4)
    weights, seen = run(module, Sized(clips, 2), tmp_path)
    assert seen == [[4, 1], [4, 2]] and module.micro_batch_size == 2
    backbone.load_state_dict(start)
    expected, _ = run(make_grpo(micro_batch_size=2), Sized(clips, 4), tmp_path)
    torch.testing.assert_close(weights, expected, rtol=0, atol=0)
    backbone.load_state_dict(start)

    def learn(rank: int) -> dict[str, Any]:
        module = make_grpo(global_batch=4)
        _, seen = run(module, Sized(clips, 1), tmp_path, STRATEGIES["fsdp2"]())
        return {"seen": torch.tensor(seen), "micro": module.micro_batch_size}

    for result in on_two_processes(learn, tmp_path / "results"):
        assert result["seen"].tolist() == [[2, 1], [2, 2]] and result["micro"] == 1


def test_what_contradicts_it_is_refused(backbone: ComposedBackbone, clips: list[Clip], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="accumulate_grad_batches is 3, and model.global_batch 4 makes it 2"):
        run(cold_start(backbone, global_batch=4), Sized(clips, 2), tmp_path, accumulate_grad_batches=3)
    with pytest.raises(ValueError, match="Batches has no batch_size, .* Set model.global_batch to null"):
        run(cold_start(backbone, global_batch=4), Batches([collate(clips)]), tmp_path)
    with pytest.raises(ValueError, match=r"batches of data.batch_size 3 .* one of 1, 2, 4\."):
        run(cold_start(backbone, global_batch=4), Sized(clips, 3), tmp_path)
    with pytest.raises(ValueError, match=r"global_batch is 64, 32 batches of each process, and an epoch has \d+: "):
        run(cold_start(backbone, global_batch=64), Sized(clips, 2), tmp_path)
