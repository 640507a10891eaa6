"""Stage × precision × clipping × strategy: each trains, or is refused by a sentence that names the option to use."""

import warnings
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor
from torch.utils.data import DataLoader

from callbacks.rl import RLCallback
from datamodules.batch import Clip
from datamodules.labelled_sentences import LabelledSentence
from datamodules.rationale_text import collate_sentences
from lightning_modules.backbones.composed import ComposedBackbone
from lightning_modules.cold_start import ColdStartModule
from lightning_modules.grpo import GRPOModule
from lightning_modules.sharding import whole
from lightning_modules.verifier import VerifierModule

from .conftest import TRAINED, LengthReward
from .two_processes import STRATEGIES, DealtClips, on_two_processes, trainer

pytestmark = pytest.mark.e2e

SENTENCES = [LabelledSentence("He slams the door.", ("anger",)), LabelledSentence("She laughs.", ("joy",))]
CLIPPING: dict[str, dict[str, Any]] = {
    "no clipping": {},
    "by norm": {"gradient_clip_val": 1e-3},
    "by value": {"gradient_clip_val": 1e-4, "gradient_clip_algorithm": "value"},
}
PRECISIONS: dict[str, Callable[[], dict[str, Any]]] = {
    "32-true": dict,
    "bf16-mixed": lambda: {"precision": "bf16-mixed"},
    # By name it becomes bf16-mixed on a CPU.
    "16-mixed": lambda: {"plugins": MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=2.0**8))},
    "bf16-true": lambda: {"precision": "bf16-true"},
}
STAGES = ("cold_start", "verifier", "grpo")


def refusal(stage: str, precision: str, clipping: str, strategy: str | None) -> str | None:
    """What the refusal of a pair has to name; None: it trains."""
    if strategy == "fsdp2" and stage == "verifier":
        return "configs/trainer/ddp.yaml"
    if stage == "grpo" and clipping != "no clipping":
        return "model.gradient_clip_norm"
    if precision == "bf16-true":
        return "32-true or bf16-mixed" if stage == "verifier" else "model.backbone.dtype"
    return None


class Sentences(LightningDataModule):
    """A step of two sentences."""

    def train_dataloader(self) -> DataLoader:
        return DataLoader(SENTENCES, batch_size=2, collate_fn=collate_sentences)


Parts = Callable[[str, int | None], tuple[LightningModule, LightningDataModule, list[Any]]]


@pytest.fixture
def parts(backbone: ComposedBackbone, make_grpo: Callable[..., GRPOModule], make_clip: Callable[..., Clip]) -> Parts:
    verifier = VerifierModule(str(Path(__file__).parents[1] / "golden/tiny_verifier"), learning_rate=1e-3)

    def make(stage: str, rank: int | None) -> tuple[LightningModule, LightningDataModule, list[Any]]:
        clips = DealtClips([([make_clip(0)], [make_clip(1)])], ([], []), rank)
        if stage == "verifier":
            return verifier, Sentences(), []
        if stage == "grpo":
            return make_grpo(), clips, [RLCallback([LengthReward()])]
        return ColdStartModule(backbone, "dfew", trainable=TRAINED, learning_rate=1e-3, schedule="constant"), clips, []

    return make


class ClippedNorm(Callback):
    """The gradient's norm as the optimizer had it."""

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        gradients = [whole(p.grad) for p in pl_module.parameters() if p.grad is not None]
        self.norm = float(torch.nn.utils.get_total_norm(gradients))


def weights(module: LightningModule) -> dict[str, Tensor]:
    return {name: whole(p.detach()).clone() for name, p in module.named_parameters() if p.requires_grad}


def outcome(
    parts: Parts,
    stage: str,
    directory: Path,
    options: dict[str, Any],
    strategy: str | None = None,
    rank: int | None = None,
) -> str | None:
    """None where all trained weights stay finite and some move, else what was said or went wrong."""
    module, data, callbacks = parts(stage, rank)
    module = deepcopy(module)  # strategies and half precision change it for good
    before = weights(module)
    callbacks = [*callbacks, clipped := ClippedNorm()]
    fit = trainer(
        strategy and STRATEGIES[strategy](), directory, *callbacks, limit_val_batches=0, max_steps=1, **options
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            fit.fit(module, datamodule=data)
        except ValueError as refused:
            return str(refused)
    after = weights(module)
    if not all(bool(value.isfinite().all()) for value in after.values()):
        return "weights are not finite"
    if options.get("gradient_clip_algorithm") != "value" and clipped.norm > 1.01 * options.get(
        "gradient_clip_val", 1e3
    ):
        return f"the gradient's norm is {clipped.norm}"
    # After a run in half precision the weights are of another type.
    moved = any(not torch.equal(old, after[name].to(old.dtype)) for name, old in before.items())
    return None if moved else "no weight moved"


def check(outcomes: dict[tuple[str, str, str], str | None], strategy: str | None) -> None:
    for (stage, precision, clipping), said in outcomes.items():
        named = refusal(stage, precision, clipping, strategy)
        where = f"{stage}, {precision}, {clipping}, {strategy or 'one device'}: {said}"
        if named is None:
            assert said is None, where
        else:
            assert said is not None and named in said and len(said) < 300, where


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("stage", STAGES)
def test_one_device(parts: Parts, tmp_path: Path, stage: str, precision: str) -> None:
    said = {
        (stage, precision, clipping): outcome(parts, stage, tmp_path, {**PRECISIONS[precision](), **options})
        for clipping, options in CLIPPING.items()
    }
    check(said, None)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("stage", STAGES)
def test_two_processes(parts: Parts, tmp_path: Path, stage: str, strategy: str) -> None:
    # Lightning refuses 16-mixed for FSDP2 by the name that a CPU has another meaning for.
    precisions = [name for name in PRECISIONS if (strategy, name) != ("fsdp2", "16-mixed")]

    def learn(rank: int) -> dict[str, Any]:
        # One process group for all: the second Trainer takes that of the first.
        return {
            f"{precision}/{clipping}": outcome(
                parts, stage, tmp_path, {**PRECISIONS[precision](), **options}, strategy, rank
            )
            for precision in precisions
            for clipping, options in CLIPPING.items()
        }

    for said in on_two_processes(learn, tmp_path / "results"):
        check({(stage, *pair.split("/")): outcome for pair, outcome in said.items()}, strategy)
