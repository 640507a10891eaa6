"""Runs without an end in steps, and callbacks of Lightning that cannot work here: trained, or refused with a reason."""

from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import (
    BatchSizeFinder,
    EMAWeightAveraging,
    LearningRateFinder,
    StochasticWeightAveraging,
    WeightAveraging,
)
from lightning.pytorch.tuner import Tuner

from callbacks.rl import RLCallback
from datamodules.batch import ClipBatch
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


@pytest.mark.parametrize("find", ["lr_find", "scale_batch_size"])
def test_tuners_are_refused_as_their_callbacks_are(tmp_path: Path, find: str) -> None:
    module = VerifierModule(str(Path(__file__).parents[1] / "golden/tiny_verifier"))
    tuner = Tuner(Trainer(accelerator="cpu", default_root_dir=tmp_path, logger=False, enable_progress_bar=False))
    with pytest.raises(ValueError, match=r"Finder does not work here: .* Set (model.learning_rate|data.batch_size)"):
        getattr(tuner, find)(module, train_dataloaders=[])


@pytest.mark.parametrize(
    ("options", "named"),
    [({"gradient_clip_val": 0.5}, "model.gradient_clip_norm to 0.5"), ({"accumulate_grad_batches": 2}, "batch_size")],
)
def test_stage_3_names_its_own_options(
    make_grpo: Callable[..., GRPOModule], batches: list[ClipBatch], fit: Fit, options: dict[str, Any], named: str
) -> None:
    with pytest.raises(ValueError, match=named):
        fit(make_grpo(), batches, RLCallback([LengthReward()]), **options)
