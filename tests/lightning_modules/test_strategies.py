"""Strategies by YAML: what there is can be read, and what would hang or go wrong is refused."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from jsonargparse import ArgumentParser
from lightning import Trainer
from lightning.pytorch.plugins.precision import HalfPrecision, Precision
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, SingleDeviceStrategy, Strategy

from lightning_modules.backbones.composed import ComposedBackbone
from lightning_modules.cold_start import ColdStartModule
from lightning_modules.grpo import GRPOModule

from .conftest import TRAINED

pytestmark = pytest.mark.unit

CONFIGS = sorted((Path(__file__).parents[2] / "configs" / "trainer").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=[path.stem for path in CONFIGS])
def test_every_trainer_yaml_is_a_trainer(path: Path) -> None:
    parser = ArgumentParser(parser_mode="omegaconf")
    parser.add_class_arguments(Trainer, "trainer")
    parser.add_argument("--seed_everything", type=int | bool)
    parser.add_argument("--model", type=dict)
    parser.parse_path(path)


def attach(module: Any, strategy: Strategy, precision: Precision | None = None, **options: Any) -> None:
    values = {"datamodule": None, "limit_val_batches": 1.0, "accumulate_grad_batches": 1, "precision": "bf16-true"}
    trainer = {**values, "strategy": strategy, "precision_plugin": precision or Precision(), **options}
    module._trainer = SimpleNamespace(**trainer)


def deepspeed(stage: int) -> Strategy:
    kind = type("DeepSpeedStrategy", (DeepSpeedStrategy,), {"zero_stage_3": stage == 3})
    return kind.__new__(kind)  # the package need not be installed


@pytest.mark.parametrize(
    ("strategy", "options", "message"),
    [
        (lambda: FSDPStrategy.__new__(FSDPStrategy), {}, "hangs where processes write completions"),
        (lambda: deepspeed(3), {}, "Set trainer.limit_val_batches to 0"),
        (lambda: deepspeed(2), {"accumulate_grad_batches": 2}, "Set trainer.accumulate_grad_batches to 1"),
        (SingleDeviceStrategy, {"precision": HalfPrecision("bf16-true")}, "would convert the sound and the verifier"),
    ],
    ids=["fsdp", "zero 3 with validation", "zero 2 with accumulation", "bf16-true"],
)
def test_stage_1_refuses_what_would_hang_or_go_wrong(
    backbone: ComposedBackbone, strategy: Callable[[], Strategy], options: dict[str, Any], message: str
) -> None:
    module = ColdStartModule(backbone, "dfew", trainable=TRAINED, learning_rate=1e-3)
    attach(module, strategy(), **options)
    with pytest.raises(ValueError, match=message):
        module.setup("fit")


@pytest.mark.parametrize("stage", [2, 3])
def test_stage_1_takes_deepspeed(backbone: ComposedBackbone, stage: int) -> None:
    module = ColdStartModule(backbone, "dfew", trainable=TRAINED, learning_rate=1e-3)
    attach(module, deepspeed(stage), limit_val_batches=0)
    module.setup("fit")


@pytest.mark.parametrize("stage", [2, 3])
def test_stage_3_refuses_deepspeed(make_grpo: Callable[..., GRPOModule], stage: int) -> None:
    module = make_grpo()
    attach(module, deepspeed(stage), limit_val_batches=0)
    with pytest.raises(ValueError, match="does not run under DeepSpeed"):
        module.setup("fit")


def test_ligers_kernel_is_refused_on_a_cpu(backbone: ComposedBackbone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backbone, "use_liger_kernel", lambda: None)  # the extra need not be installed
    module = ColdStartModule(backbone, "dfew", trainable=TRAINED, learning_rate=1e-3, use_liger_kernel=True)
    attach(module, SingleDeviceStrategy())
    with pytest.raises(ValueError, match="runs on a GPU, this run on the CPU"):
        module.setup("fit")
