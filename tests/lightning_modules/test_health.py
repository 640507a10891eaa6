"""Steps whose loss or gradient is not finite: they never reach the weights, and what they came from is kept."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning import Callback, Trainer
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.strategies import DeepSpeedStrategy
from torch import Tensor

from callbacks.rl import RLCallback
from datamodules.batch import Clip, ClipBatch, collate
from lightning_modules.backbones.composed import ComposedBackbone
from lightning_modules.backbones.interface import Scores
from lightning_modules.cold_start import ColdStartModule
from lightning_modules.grpo import GRPOModule
from lightning_modules.health import NonFiniteError, StepHealth
from lightning_modules.step_record import StepRecord

from .conftest import TRAINED, LengthReward, moved, snapshot
from .two_processes import STRATEGIES, DealtClips, on_two_processes, trained, trainer

pytestmark = pytest.mark.e2e

Make = Callable[..., GRPOModule]
Fit = Callable[..., Trainer]


class SpoiltGradient(torch.autograd.Function):
    """The identity, whose gradient is NaN at one token."""

    @staticmethod
    def forward(ctx, logprobs: Tensor) -> Tensor:
        return logprobs.clone()

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        gradient = gradient.clone()
        gradient[-1, 0] = torch.nan
        return gradient


class SpoiltBackbone(ComposedBackbone):
    """Scores as it should, and sends a spoilt gradient back."""

    def score(self, *arguments, **options) -> Scores:
        scores = super().score(*arguments, **options)
        return replace(scores, logprobs=SpoiltGradient.apply(scores.logprobs))


class Spoil(Callback):
    """Spoils the gradient of some batches, and notes what each step leaves."""

    def __init__(self, *batches: int) -> None:
        self.batches = batches
        self.weights: list[dict[str, Tensor]] = []
        self.rates: list[float] = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        if not self.weights:
            self.weights.append(snapshot(pl_module.backbone))
        spoils = batch_idx in self.batches
        pl_module.backbone.__class__ = SpoiltBackbone if spoils else ComposedBackbone

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.weights.append(snapshot(pl_module.backbone))
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])


def records(directory: Path) -> list[StepRecord]:
    return [StepRecord.read(path) for path in sorted((directory / "non_finite").glob("*.safetensors"))]


def plant_nan(module: torch.nn.Module) -> None:
    with torch.no_grad():
        next(p for name, p in module.named_parameters() if "layers.1" in name and "down_proj" in name)[0, 0] = torch.nan


def test_a_broken_weight_stops_the_run_before_the_step_and_is_kept_for_replay(
    make_grpo: Make, batches: list[ClipBatch], fit: Fit, tmp_path: Path
) -> None:
    module = make_grpo(micro_batch_size=1)
    plant_nan(module.backbone.parts["language_model"])
    before = snapshot(module.backbone)
    with pytest.raises(
        NonFiniteError,
        match=r"Loss is nan at step 0, on clips clip0 \(epoch 0, batch 0\)\. .*main.py replay .*non_finite",
    ):
        fit(module, batches, RLCallback([LengthReward()]))
    now = snapshot(module.backbone)
    assert all(torch.equal(before[name].nan_to_num(), now[name].nan_to_num()) for name in before)
    (record,) = records(tmp_path)
    experience = module.experience
    assert record.batches[0].ids == ["clip0", "clip1"] and record.batches[0].targets == ["anger", "happiness"]
    assert torch.equal(record.batches[0].frames, batches[0].frames) and record.batches[0].mel is None
    assert torch.equal(record.rollout.completions.token_ids, experience.rollout.completions.token_ids)
    assert torch.equal(record.rollout.rewards["length"], experience.rewards["length"])
    assert torch.equal(record.rollout.advantages, experience.advantages)
    place = record.place
    assert (place.stage, place.step, place.batch_indices, place.run_seed) == ("grpo", 0, [0], module.run_seed)
    assert len(place.losses) == 2 and place.losses[0] != place.losses[0], "NaN comes back"
    saved = torch.load(tmp_path / place.weights, weights_only=True)
    assert saved["global_step"] == 0 and "optimizer_states" not in saved
    assert saved["state_dict"].keys() == {f"backbone.{name}" for name in before if name.startswith(tuple(TRAINED))}
    assert not list(tmp_path.rglob("*.ckpt")), "--ckpt_path last does not take it"


def test_a_trial_keeps_nothing(make_grpo: Make, batches: list[ClipBatch], fit: Fit, tmp_path: Path) -> None:
    module = make_grpo()
    plant_nan(module.backbone.parts["language_model"])
    with pytest.raises(NonFiniteError, match=r"Loss is nan at step 0"):
        fit(module, batches, RLCallback([LengthReward()]), fast_dev_run=True)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_skipped_step_changes_nothing_but_the_schedule(
    make_grpo: Make, batches: list[ClipBatch], fit: Fit, tmp_path: Path
) -> None:
    module, spoil = make_grpo(on_non_finite="skip", schedule="linear", beta=0.0, weight_decay=0.1), Spoil(0)
    with pytest.warns(
        UserWarning, match=r"gradient's norm is nan at step 0, with a finite loss, on clips clip0, clip1"
    ):
        trainer = fit(module, batches, RLCallback([LengthReward()]), spoil)
    first, second, third = spoil.weights
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(second[name], third[name]) for name in first), "the next step is taken"
    assert all(bool(torch.isfinite(weights).all()) for weights in third.values())
    assert spoil.rates == pytest.approx([0.5e-3, 0]) and trainer.global_step == 2
    assert {int(state["step"]) for state in trainer.optimizers[0].state.values()} == {1}
    assert float(trainer.callback_metrics["train/non_finite_steps"]) == 1
    assert [record.place.step for record in records(tmp_path)] == [0]


def test_skipping_is_bounded(make_grpo: Make, batches: list[ClipBatch], fit: Fit, tmp_path: Path) -> None:
    module, spoil = make_grpo(on_non_finite="skip", max_non_finite=1, beta=0.0), Spoil(0, 1)
    with pytest.raises(NonFiniteError, match=r"step 1, .* Steps skipped before: 1"), pytest.warns(match="Skipped"):
        fit(module, batches, RLCallback([LengthReward()]), spoil)
    assert moved(module.backbone, spoil.weights[0]) == set()
    assert [record.place.step for record in records(tmp_path)] == [0, 1]


def test_counting_goes_on_after_a_restart() -> None:
    health, resumed = StepHealth("skip"), StepHealth("skip")
    health.num_steps, health.num_scaler_skips = 3, 5
    resumed.load_state_dict(health.state_dict())
    assert (resumed.num_steps, resumed.num_scaler_skips) == (3, 5)


@pytest.mark.parametrize("options", [{"on_non_finite": "ignore"}, {"max_non_finite": 0}])
def test_settings_are_checked(make_grpo: Make, options: dict) -> None:
    with pytest.raises(ValueError, match="Expected stop or skip, and 1 or more"):
        make_grpo(**options)


def test_deepspeed_cannot_skip() -> None:
    strategy = object.__new__(DeepSpeedStrategy)
    StepHealth("stop").check_strategy(strategy)
    with pytest.raises(ValueError, match=r"model\.on_non_finite to stop"):
        StepHealth("skip").check_strategy(strategy)


def test_the_gradient_scalers_own_skips_are_no_fault(
    make_grpo: Make, batches: list[ClipBatch], fit: Fit, tmp_path: Path
) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**120, backoff_factor=2.0**-110)
    module = make_grpo()
    trainer = fit(module, batches, RLCallback([LengthReward()]), plugins=MixedPrecision("16-mixed", "cpu", scaler))
    metrics = trainer.callback_metrics
    assert (float(metrics["train/scaler_skips"]), float(metrics["train/non_finite_steps"])) == (1, 0)
    assert not (tmp_path / "non_finite").exists()


def test_a_gradient_that_no_scale_explains_is_one(make_grpo: Make, batches: list[ClipBatch], fit: Fit) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=1.0)
    module, spoil = make_grpo(on_non_finite="skip", beta=0.0), Spoil(0)
    plugin = MixedPrecision("16-mixed", "cpu", scaler)
    with pytest.warns(UserWarning, match="gradient's norm is nan"):
        trainer = fit(module, batches, RLCallback([LengthReward()]), spoil, plugins=plugin)
    assert float(trainer.callback_metrics["train/non_finite_steps"]) == 1
    assert all(torch.equal(spoil.weights[0][name], spoil.weights[1][name]) for name in spoil.weights[0])


@pytest.fixture
def cold_start(backbone: ComposedBackbone) -> Callable[..., ColdStartModule]:
    def make(**options) -> ColdStartModule:
        values = {"learning_rate": 1e-3, "warmup_ratio": 0.0, "schedule": "constant", **options}
        return ColdStartModule(backbone, "dfew", trainable=TRAINED, **values)

    return make


def noisy(make_clip: Callable[..., Clip], seed: int) -> Clip:
    """A clip whose sound is not a number."""
    return make_clip(seed, waveform=torch.full((8_000,), torch.nan))


def test_all_batches_of_an_accumulated_step_are_kept(
    cold_start: Callable[..., ColdStartModule], make_clip: Callable[..., Clip], fit: Fit, tmp_path: Path
) -> None:
    module = cold_start()
    batches = [collate([make_clip(0), noisy(make_clip, 1)]), collate([make_clip(2)])]
    before = snapshot(module.backbone)
    with pytest.raises(NonFiniteError, match=r"Loss is nan at step 0, on clips clip0, clip1 \(epoch 0, batch 0, 1\)"):
        fit(module, batches, accumulate_grad_batches=2)
    assert moved(module.backbone, before) == set()
    (record,) = records(tmp_path)
    assert [batch.ids for batch in record.batches] == [["clip0", "clip1"], ["clip2"]] and record.rollout is None
    assert record.batches[0].responses == batches[0].responses
    tokens = sum(int(module.backbone.completion_ids(batch.responses).mask.sum()) for batch in batches)
    assert record.place.totals == {"num_tokens_total": tokens} and record.place.batch_indices == [0, 1]


def test_a_full_disk_does_not_hide_the_fault(
    cold_start: Callable[..., ColdStartModule],
    make_clip: Callable[..., Clip],
    fit: Fit,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*arguments, **options) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lightning_modules.step_record.save", refuse)
    monkeypatch.setattr(Trainer, "save_checkpoint", refuse)
    with pytest.raises(NonFiniteError, match=r"Loss is nan .* could not be saved for replay: .*No space left"):
        fit(cold_start(), [collate([noisy(make_clip, 0)])])


def test_an_evaluation_names_clips_on_which_the_policy_is_broken(
    cold_start: Callable[..., ColdStartModule], make_clip: Callable[..., Clip]
) -> None:
    module = cold_start()
    module.trainer = SimpleNamespace()
    with pytest.raises(ValueError, match=r"not finite on clips clip1: its weights are broken"):
        module.evaluate(collate([make_clip(0), noisy(make_clip, 1)]))


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.filterwarnings("ignore:Loss is nan", "ignore:Another process")
def test_all_processes_skip_the_step_of_which_one_is_broken(
    cold_start: Callable[..., ColdStartModule], make_clip: Callable[..., Clip], strategy: str, tmp_path: Path
) -> None:
    module = cold_start(on_non_finite="skip")
    start = trained(module)
    steps = [([make_clip(0)], [noisy(make_clip, 1)]), ([make_clip(2)], [make_clip(3)])]

    class SeeWeights(Callback):
        """Keeps the weights after each step."""

        def __init__(self) -> None:
            self.after: list[dict[str, Tensor]] = []

        def on_train_batch_end(self, trainer, pl_module, *arguments) -> None:
            self.after.append(trained(pl_module))

    def learn(rank: int) -> dict[str, Any]:
        weights = SeeWeights()
        run = trainer(STRATEGIES[strategy](), tmp_path, weights, limit_val_batches=0)
        run.fit(module, datamodule=DealtClips(steps, ([], []), rank))
        return {"after": weights.after, "skipped": module.health.num_steps}

    results = on_two_processes(learn, tmp_path / "results")
    first, second = results[0]["after"]
    assert all(torch.equal(first[name], start[name]) for name in start), "also of the process without a fault"
    assert all(torch.equal(second[name], results[1]["after"][1][name]) for name in start)
    assert any(not torch.equal(second[name], start[name]) for name in start), "and both go on"
    assert [result["skipped"] for result in results] == [1, 1]
    saved = records(tmp_path)
    assert [record.batches[0].ids for record in saved] == [["clip0"], ["clip1"]], "a file of each process"
    weights = torch.load(tmp_path / saved[0].place.weights, weights_only=True)["state_dict"]
    assert all(torch.equal(weights[f"backbone.{name}"], start[name]) for name in start), "whole, in one file"
