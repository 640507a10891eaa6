"""A Trainer, batches and a GRPO module on tiny weights, which the tests of the stages share."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import LightningDataModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from callbacks.rewards.base import Reward
from datamodules.batch import Clip, ClipBatch, collate
from datamodules.emotions import DFEW_TAXONOMY
from lightning_modules.backbones import static_fork
from lightning_modules.backbones.composed import ComposedBackbone
from lightning_modules.backbones.interface import Sampling
from lightning_modules.grpo import GRPOModule
from lightning_modules.rl.experience import Experience

TRAINED = ["vision_projector", "audio_projector", "language_model"]
SHORT = Sampling(max_new_tokens=8)


class LengthReward(Reward):
    """Random weights never answer in the format: a reward with spread, so that there is something to learn."""

    name = "length"

    def __call__(self, given) -> Tensor:
        return torch.tensor([float(len(response.completion) % 7) for response in given.responses])


class ConstantReward(Reward):
    """The same for every completion."""

    name = "constant"

    def __call__(self, given) -> Tensor:
        return torch.ones(len(given.responses))


class Batches(LightningDataModule):
    """Ready-made batches."""

    taxonomy = DFEW_TAXONOMY

    def __init__(self, batches: list[ClipBatch]) -> None:
        super().__init__()
        self.batches = batches

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.batches, batch_size=None, collate_fn=lambda batch: batch)

    test_dataloader = val_dataloader = train_dataloader


@pytest.fixture
def fit(tmp_path: Path) -> Callable[..., Trainer]:
    """Fit a module on batches, two steps by default."""

    def run(module: nn.Module, batches: list[ClipBatch], *callbacks: Any, **options: Any) -> Trainer:
        torch.manual_seed(3)
        options = {"max_epochs": 1, "limit_val_batches": 0, "logger": False, "enable_checkpointing": False} | options
        trainer = Trainer(
            accelerator="cpu",
            default_root_dir=tmp_path,
            callbacks=list(callbacks),
            enable_progress_bar=False,
            enable_model_summary=False,
            **options,
        )
        if isinstance(module, GRPOModule):
            keep_experience(module)
        trainer.fit(module, datamodule=Batches(batches))
        return trainer

    return run


def keep_experience(module: GRPOModule) -> None:
    """Have `module.experience` be what its last step learned from, also where that step fails."""
    explore = module.explore

    def keep(*arguments: Any) -> Experience:
        module.experience = explore(*arguments)
        return module.experience

    module.explore = keep


@pytest.fixture
def batches(make_clip: Callable[..., Clip]) -> list[ClipBatch]:
    return [collate([make_clip(2 * i), make_clip(2 * i + 1, target="happiness")]) for i in range(2)]


@pytest.fixture
def make_grpo(backbone: ComposedBackbone, tiny_models: Path) -> Callable[..., GRPOModule]:
    def make(**options: Any) -> GRPOModule:
        values = {"trainable": TRAINED, "verifier": str(tiny_models / "verifier"), "group_size": 3}
        values |= {"learning_rate": 1e-3, "rollout_sampling": SHORT, "evaluation": SHORT, "schedule": "constant"}
        return GRPOModule(backbone, "dfew", **{**values, **options})

    return make


def snapshot(module: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in module.named_parameters(remove_duplicate=False)}


def moved(module: nn.Module, before: dict[str, Tensor]) -> set[str]:
    now = dict(module.named_parameters(remove_duplicate=False))
    return {name for name, old in before.items() if not torch.equal(old, now[name])}


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    """No programs of other tests, of which torch.compile keeps a few per function."""
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.fixture
def traced(fresh_compiler: None, monkeypatch: pytest.MonkeyPatch) -> list[torch.fx.GraphModule]:
    """The graphs that torch.compile traces, each of which runs as it is; room for five tokens, so that it grows."""
    graphs: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> torch.fx.GraphModule:
        graphs.append(graph)
        return graph

    step = torch.compile(static_fork._step, dynamic=False, fullgraph=True, backend=backend)
    monkeypatch.setattr(static_fork, "_compiled_step", step)
    monkeypatch.setattr(static_fork, "ROOM", 5)
    return graphs
