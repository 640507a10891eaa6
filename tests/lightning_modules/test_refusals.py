"""Runs without an end in steps, and callbacks that some stages cannot have: trained, or refused by name."""

import json
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import (
    BatchSizeFinder,
    EMAWeightAveraging,
    LearningRateFinder,
    StochasticWeightAveraging,
    WeightAveraging,
)
from lightning.pytorch.tuner import Tuner
from torch.utils.data import DataLoader

from callbacks.rl import RLCallback
from datamodules.batch import ClipBatch
from datamodules.labelled_sentences import LabelledSentence
from datamodules.rationale_text import RationaleText, collate_sentences
from lightning_modules.backbones.composed import ComposedBackbone
from lightning_modules.cold_start import ColdStartModule
from lightning_modules.grpo import GRPOModule
from lightning_modules.trainable_policy import TrainablePolicyModule
from lightning_modules.verifier import VerifierModule

from .conftest import TRAINED, LengthReward, moved, snapshot

pytestmark = pytest.mark.e2e

SWA = partial(StochasticWeightAveraging, 1e-3)
ENDLESS = {"max_epochs": -1, "max_time": timedelta(minutes=5)}


class StopsAfter(Callback):
    """Ends the run as a limit of time does, after two steps."""

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        trainer.should_stop = trainer.global_step >= 2


Fit = Callable[..., Trainer]
Make = Callable[..., tuple[TrainablePolicyModule, list[Callback]]]


@pytest.fixture
def make(backbone: ComposedBackbone, make_grpo: Callable[..., GRPOModule]) -> Make:
    """A stage's module, and the callbacks that it needs."""

    def make(stage: str, **options: Any) -> tuple[TrainablePolicyModule, list[Callback]]:
        if stage == "grpo":
            return make_grpo(**options), [RLCallback([LengthReward()])]
        return ColdStartModule(backbone, "dfew", trainable=TRAINED, learning_rate=1e-3, **options), []

    return make


@pytest.mark.parametrize("stage", ["cold_start", "grpo"])
def test_a_run_that_only_time_ends_takes_a_constant_rate(
    make: Make, batches: list[ClipBatch], fit: Fit, stage: str
) -> None:
    module, callbacks = make(stage, schedule="constant", warmup_ratio=0.0)
    before = snapshot(module.backbone)
    trainer = fit(module, batches, *callbacks, StopsAfter(), **ENDLESS)
    assert trainer.global_step == 2 and moved(module.backbone, before)
    assert trainer.optimizers[0].param_groups[0]["lr"] == 1e-3


@pytest.mark.parametrize("options", [{"schedule": "cosine"}, {"schedule": "constant", "warmup_ratio": 0.1}])
@pytest.mark.parametrize("stage", ["cold_start", "grpo"])
def test_a_schedule_over_no_number_of_steps_is_refused(
    make: Make,
    batches: list[ClipBatch],
    fit: Fit,
    stage: str,
    options: dict[str, Any],
) -> None:
    module, callbacks = make(stage, **options)
    with pytest.raises(ValueError, match=r"no end in steps: set trainer.max_steps .* model.schedule to constant"):
        fit(module, batches, *callbacks, **ENDLESS)


@pytest.mark.parametrize("callback", [LearningRateFinder, BatchSizeFinder, WeightAveraging, EMAWeightAveraging, SWA])
@pytest.mark.parametrize("stage", ["cold_start", "grpo"])
def test_callbacks_that_cannot_work_are_refused(
    make: Make,
    batches: list[ClipBatch],
    fit: Fit,
    stage: str,
    callback: Callable[[], Callback],
) -> None:
    module, callbacks = make(stage)
    with pytest.raises(ValueError, match=r"^\w+(Averaging|Finder) does not work here: .* take it out of trainer"):
        fit(module, batches, *callbacks, callback())


def sentences(batch_size: int) -> DataLoader:
    text = ["She laughs.", "He shouts.", "Tears run down.", "The eyes are wide."] * 4
    labels = ["joy", "anger", "sadness", "fear"] * 4
    rows = [LabelledSentence(own, (label,)) for own, label in zip(text, labels, strict=True)]
    return DataLoader(rows, batch_size=batch_size, collate_fn=collate_sentences)


def train_verifier(tmp_path: Path, *callbacks: Callback, batch_size: int = 4, **options: Any) -> VerifierModule:
    """Two epochs of stage 2, of 16 sentences."""
    module = VerifierModule(str(Path(__file__).parents[1] / "golden/tiny_verifier"), learning_rate=1e-3)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    options = {"max_epochs": 2, "limit_val_batches": 0, "enable_checkpointing": False, **quiet} | options
    trainer = Trainer(accelerator="cpu", default_root_dir=tmp_path, callbacks=list(callbacks), **options)
    trainer.fit(module, sentences(batch_size))
    return module


class Rates(Callback):
    """The learning rate of each step."""

    def __init__(self) -> None:
        self.rates: list[float] = []

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])


def test_stage_2_trains_with_the_rate_that_a_finder_finds(tmp_path: Path) -> None:
    rates = Rates()
    finder = LearningRateFinder(num_training_steps=20, early_stop_threshold=None)
    module = train_verifier(tmp_path, finder, rates, batch_size=1)
    assert module.learning_rate != 1e-3
    # The schedule's peak, without the first step's, which the finder sets itself, and without the finder's own steps.
    assert max(rates.rates[1:]) == pytest.approx(module.learning_rate, rel=0.1) and len(rates.rates) == 32


class Weights(Callback):
    """The classifier's bias after each step."""

    def __init__(self) -> None:
        self.after: list[torch.Tensor] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        self.after.append(pl_module.model.classifier.out_proj.bias.detach().clone())


def test_stage_2_ends_with_averaged_weights(tmp_path: Path) -> None:
    weights = Weights()
    module = train_verifier(tmp_path, EMAWeightAveraging(decay=0.5), weights)
    average = weights.after[0]
    for own in weights.after[1:]:
        average = 0.5 * average + 0.5 * own
    torch.testing.assert_close(module.model.classifier.out_proj.bias, average)
    weights = Weights()
    module = train_verifier(tmp_path, SWA(swa_epoch_start=1, annealing_epochs=1), weights, max_epochs=4)
    ends = torch.stack(weights.after[3::4])
    assert not torch.equal(module.model.classifier.out_proj.bias, ends[-1])


def test_stage_2_finds_a_batch_size(tmp_path: Path) -> None:
    module = VerifierModule(str(Path(__file__).parents[1] / "golden/tiny_verifier"))
    rows = [{"text": f"She laughs {i} times.", "emotions": ["joy"]} for i in range(40)]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = RationaleText(str(tmp_path / "train.jsonl"), batch_size=2)
    options = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(accelerator="cpu", default_root_dir=tmp_path, max_steps=1, limit_val_batches=0, **options)
    assert Tuner(trainer).scale_batch_size(module, datamodule=data, max_trials=2, steps_per_trial=1) == 4
    assert data.batch_size == 4


@pytest.mark.parametrize(
    ("options", "named"),
    [({"gradient_clip_val": 0.5}, "model.gradient_clip_norm to 0.5"), ({"accumulate_grad_batches": 2}, "batch_size")],
)
def test_stage_3_names_its_own_options(
    make_grpo: Callable[..., GRPOModule], batches: list[ClipBatch], fit: Fit, options: dict[str, Any], named: str
) -> None:
    with pytest.raises(ValueError, match=named):
        fit(make_grpo(), batches, RLCallback([LengthReward()]), **options)
