"""The feature cache in the stages: the same run to the bit, without the towers from the second epoch on."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import yaml
from lightning import Trainer
from lightning.pytorch.strategies import FSDPStrategy, Strategy

import main
from callbacks.rl import RLCallback
from datamodules.batch import ClipBatch
from lightning_modules.backbones.composed import ComposedBackbone
from lightning_modules.backbones.feature_cache import FeatureCache
from lightning_modules.backbones.interface import Sampling
from lightning_modules.cold_start import ColdStartModule
from lightning_modules.grpo import GRPOModule
from lightning_modules.policy import PolicyModule

from .conftest import SHORT, TRAINED, Batches, LengthReward, moved, snapshot

pytestmark = pytest.mark.e2e

GREEDY = Sampling(max_new_tokens=8, temperature=0)
CONFIGS = Path(__file__).parents[2] / "configs"
YAML = """
model:
  init_args:
    feature_cache:
      class_path: lightning_modules.backbones.feature_cache.FeatureCache
      init_args: {directory: features, max_gigabytes: 50}
"""


@pytest.fixture
def cache(tmp_path: Path) -> FeatureCache:
    return FeatureCache(str(tmp_path / "features"), max_gigabytes=1.0)


@contextmanager
def towers_run(backbone: ComposedBackbone) -> Iterator[list[str]]:
    """Names of the towers, in the order in which they run meanwhile."""
    seen: list[str] = []
    towers = {"vision": backbone.vision_tower, "audio": backbone.audio_tower}
    hooks = [
        tower.register_forward_pre_hook(lambda module, arguments, name=name: seen.append(name))
        for name, tower in towers.items()
    ]
    yield seen
    for hook in hooks:
        hook.remove()


def _fit_both(
    make: Callable[[FeatureCache | None], ColdStartModule | GRPOModule], run: Callable, cache: FeatureCache
) -> tuple[list[str], list[str]]:
    """Train from the same weights without the cache and with it; which towers ran each time."""
    module = make(None)
    start = snapshot(module.backbone)
    with towers_run(module.backbone) as plain:
        run(module)
    expected = snapshot(module.backbone)
    assert moved(module.backbone, start)
    with torch.no_grad():
        for name, parameter in module.backbone.named_parameters():
            parameter.copy_(start[name])
    module = make(cache)
    with towers_run(module.backbone) as cached:
        run(module)
    assert moved(module.backbone, expected) == set(), "not equal to the bit"
    return plain, cached


def test_cold_start_with_cache_is_the_same_run(
    backbone: ComposedBackbone, batches: list[ClipBatch], fit: Callable[..., Trainer], cache: FeatureCache
) -> None:
    def make(feature_cache: FeatureCache | None) -> ColdStartModule:
        return ColdStartModule(
            backbone, "dfew", trainable=TRAINED, evaluation=SHORT, learning_rate=1e-3, feature_cache=feature_cache
        )

    def run(module: ColdStartModule) -> None:
        fit(module, batches, max_epochs=3, limit_val_batches=2, num_sanity_val_steps=0)

    plain, cached = _fit_both(make, run, cache)
    assert plain == ["vision", "audio"] * 2 * 3 * 2, "for training and validation of two batches in three epochs"
    assert cached == ["vision", "audio"] * 2


def test_grpo_with_cache_is_the_same_run(
    make_grpo: Callable[..., GRPOModule], batches: list[ClipBatch], fit: Callable[..., Trainer], cache: FeatureCache
) -> None:
    def make(feature_cache: FeatureCache | None) -> GRPOModule:
        return make_grpo(feature_cache=feature_cache)

    def run(module: GRPOModule) -> None:
        fit(module, batches, RLCallback([LengthReward()]), max_epochs=2)

    plain, cached = _fit_both(make, run, cache)
    assert plain == ["vision", "audio"] * 2 * 2
    assert cached == ["vision", "audio"] * 2


def test_evaluation_reads_what_training_stored(
    backbone: ComposedBackbone, batches: list[ClipBatch], fit: Callable[..., Trainer], cache: FeatureCache
) -> None:
    module = ColdStartModule(backbone, "dfew", trainable=TRAINED, learning_rate=1e-3, feature_cache=cache)
    fit(module, batches)
    texts = []
    for feature_cache in (cache, None):
        policy = PolicyModule(backbone, "dfew", evaluation=GREEDY, feature_cache=feature_cache)
        trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
        with towers_run(backbone) as seen:
            evaluations = trainer.predict(policy, datamodule=_Predicted(batches))
        assert seen == ([] if feature_cache else ["vision", "audio"] * 2)
        texts.append([response.completion for evaluation in evaluations for response in evaluation.responses])
    assert texts[0] == texts[1]


class _Predicted(Batches):
    predict_dataloader = Batches.train_dataloader


def test_tower_in_training_is_refused_before_the_first_step(
    backbone: ComposedBackbone, batches: list[ClipBatch], fit: Callable[..., Trainer], cache: FeatureCache
) -> None:
    module = ColdStartModule(
        backbone, "dfew", trainable=[*TRAINED, "vision_tower"], learning_rate=1e-3, feature_cache=cache
    )
    with pytest.raises(ValueError, match="vision_tower is trained"), towers_run(backbone) as seen:
        fit(module, batches)
    assert seen == []


def _deepspeed(stage: int) -> Strategy:
    return type("DeepSpeedStrategy", (Strategy,), {"zero_stage_3": stage == 3})


@pytest.mark.parametrize("strategy", [FSDPStrategy, _deepspeed(3)], ids=["fsdp", "deepspeed stage 3"])
def test_strategies_that_shard_the_towers_are_refused(
    backbone: ComposedBackbone, cache: FeatureCache, monkeypatch: pytest.MonkeyPatch, strategy: type[Strategy]
) -> None:
    module = PolicyModule(backbone, "dfew", feature_cache=cache)
    module.trainer = Trainer(accelerator="cpu", logger=False)
    monkeypatch.setattr(strategy, "__abstractmethods__", frozenset(), raising=False)
    monkeypatch.setattr(Trainer, "strategy", strategy.__new__(strategy))
    with pytest.raises(ValueError, match="leaves each process a part of the towers' weights"):
        module.setup("test")


@pytest.mark.parametrize(("command", "stage"), [("fit", "cold_start"), ("fit", "grpo"), ("test", "evaluate")])
def test_four_lines_of_yaml_turn_it_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, stage: str
) -> None:
    (tmp_path / "cache.yaml").write_text(YAML)
    files = [
        CONFIGS / f"{name}.yaml" for name in ("trainer/default", f"stage/{stage}", "data/dfew", "backbone/composed")
    ]
    arguments = [argument for file in (*files, tmp_path / "cache.yaml") for argument in ("-c", str(file))]
    with pytest.raises(SystemExit) as stop:
        main.run([command, *arguments, "--print_config"])
    output = capsys.readouterr()
    assert stop.value.code == 0, output.err
    printed = yaml.safe_load(output.out)["model"]["init_args"]["feature_cache"]
    assert printed == yaml.safe_load(YAML)["model"]["init_args"]["feature_cache"]
