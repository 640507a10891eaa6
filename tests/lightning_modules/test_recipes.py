"""Recipes: what a backbone trains in a stage unless the stage says so, and that the loss reaches what is trained."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lightning import Trainer
from torch.utils.data import DataLoader

from callbacks.rewards import FormatReward
from callbacks.rl import RLCallback
from datamodules.batch import Clip, ClipBatch, collate
from lightning_modules.backbones.composed import ComposedBackbone, ComposedPercept
from lightning_modules.backbones.interface import Sampling
from lightning_modules.backbones.recipe import Recipe
from lightning_modules.cold_start import ColdStartModule
from lightning_modules.grpo import GRPOModule

pytestmark = pytest.mark.unit

PROJECTORS = ["vision_projector", "audio_projector"]
RECIPES = {"cold_start": Recipe(["vision_tower", *PROJECTORS], 2e-5), "grpo": Recipe(PROJECTORS, 1e-6)}


def trained(backbone: ComposedBackbone) -> list[str]:
    return [name for name in backbone.parts if not backbone.is_frozen(name)]


@pytest.mark.parametrize("module_class", [ColdStartModule, GRPOModule])
def test_the_recipe_of_the_stage_counts_unless_a_value_is_given(
    module_class: type[ColdStartModule] | type[GRPOModule], backbone: ComposedBackbone
) -> None:
    backbone.recipes = RECIPES
    recipe = RECIPES[module_class.stage]
    module = module_class(backbone, "dfew")
    assert (module.trainable, module.learning_rate) == (recipe.trainable, recipe.learning_rate)
    assert trained(backbone) == recipe.trainable
    module = module_class(backbone, "dfew", trainable=["language_model"])
    assert trained(backbone) == ["language_model"] and module.learning_rate == recipe.learning_rate
    module = module_class(backbone, "dfew", learning_rate=0.0)
    assert trained(backbone) == recipe.trainable and module.learning_rate == 0.0


def test_without_a_recipe_the_error_says_what_to_set(backbone: ComposedBackbone) -> None:
    assert backbone.recipes == {}
    with pytest.raises(ValueError, match=r"no recipe for the stage 'grpo' \(its recipes: none\).*init_args.trainable"):
        GRPOModule(backbone, "dfew", learning_rate=1e-6)
    backbone.recipes = {"grpo": RECIPES["grpo"]}
    with pytest.raises(ValueError, match=r"Got no model.learning_rate.*'cold_start' \(its recipes: grpo\)"):
        ColdStartModule(backbone, "dfew", trainable=PROJECTORS)
    backbone.recipes = {"cold_start": Recipe(["head"], 1e-3)}
    with pytest.raises(ValueError, match="no part named 'head'"):
        ColdStartModule(backbone, "dfew")


@pytest.mark.parametrize(
    ("trainable", "learning_rate", "match"),
    [([], 1e-3, "at least one part"), (["a", "a"], 1e-3, "each once")]
    + [(["a"], rate, "Expected a positive number") for rate in (0.0, -1.0, float("nan"), float("inf"))],
)
def test_recipes_are_checked(trainable: list[str], learning_rate: float, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        Recipe(trainable, learning_rate)


@pytest.fixture
def deaf(backbone: ComposedBackbone, monkeypatch: pytest.MonkeyPatch) -> ComposedBackbone:
    """A backbone whose audio tower runs without gradient even when it is to be trained."""
    perceive = backbone.perceive

    def deafened(batch: ClipBatch) -> ComposedPercept:
        percept = perceive(batch)
        return ComposedPercept(percept.video, percept.audio.detach())

    monkeypatch.setattr(backbone, "perceive", deafened)
    return backbone


def test_cold_start_refuses_a_part_that_no_gradient_reaches(
    deaf: ComposedBackbone, make_clip: Callable[..., Clip], tmp_path: Path
) -> None:
    module = ColdStartModule(deaf, "dfew", trainable=["audio_tower", *PROJECTORS], learning_rate=1e-3)
    before = {name: parameter.clone() for name, parameter in deaf.named_parameters()}
    trainer = Trainer(
        accelerator="cpu",
        max_steps=1,
        default_root_dir=tmp_path,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    with pytest.raises(
        ValueError, match=r"No gradient reaches audio_tower, of .* Leave audio_tower out of model.train"
    ):
        trainer.fit(module, DataLoader([collate([make_clip(0)])], batch_size=None))
    assert all(torch.equal(parameter, before[name]) for name, parameter in deaf.named_parameters()), "no step was taken"


def test_grpo_refuses_towers(backbone: ComposedBackbone, make_clip: Callable[..., Clip]) -> None:
    """Rollouts compute the towers' outputs once, without gradient."""
    module = GRPOModule(backbone, "dfew", trainable=["vision_tower", *PROJECTORS], learning_rate=1e-3, group_size=2)
    module.rollout_sampling = Sampling(max_new_tokens=4)
    module.trainer = Trainer(accelerator="cpu", logger=False, callbacks=[RLCallback([FormatReward()])])
    rollout = module.rollout(collate([make_clip(0)]))
    prompt = backbone.encode(rollout.batch, rollout.percept)
    backbone.logprobs(prompt, rollout.completions).sum().backward()
    with pytest.raises(ValueError, match="No gradient reaches vision_tower, of the trainable parts vision_tower, vis"):
        module.check_gradients()
    module.check_gradients()  # looks once


def test_parts_that_are_reached_or_that_cannot_be_judged_pass(backbone: ComposedBackbone) -> None:
    def module() -> ColdStartModule:
        return ColdStartModule(backbone, "dfew", trainable=["vision_tower", *PROJECTORS], learning_rate=1e-3)

    module().check_gradients()  # no gradient anywhere: the strategy keeps them elsewhere
    for name in ("vision_tower", *PROJECTORS):
        # Enough: one parameter of the part, as a tower's last layers may be unused.
        parameter = next(backbone.parts[name].parameters())
        parameter.grad = torch.zeros_like(parameter)
    module().check_gradients()
