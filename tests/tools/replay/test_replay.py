"""Replaying a step that was not finite: it names the clip, the completion and the token where that begins."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning import Callback, LightningDataModule, Trainer
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import DataLoader

import main
from callbacks.rewards.base import Reward
from callbacks.rl import RLCallback
from datamodules.batch import Clip, ClipBatch, collate
from datamodules.emotions import DFEW_TAXONOMY
from lightning_modules.backbones.composed import ComposedBackbone
from lightning_modules.backbones.interface import Sampling
from lightning_modules.cold_start import ColdStartModule
from lightning_modules.grpo import GRPOModule
from lightning_modules.health import NonFiniteError
from lightning_modules.rl.experience import Experience, Rollout
from lightning_modules.step_record import StepRecord
from lightning_modules.trainable_policy import TrainablePolicyModule
from tools.replay.replay import replay

pytestmark = pytest.mark.e2e

TRAINED = ["vision_projector", "audio_projector", "language_model"]


class LengthReward(Reward):
    """Different for different completions."""

    name = "length"

    def __call__(self, given) -> Tensor:
        return torch.tensor([float(len(response.completion) % 7) for response in given.responses])


class PlantAdvantage(Callback):
    """Gives the second completion of the second clip another advantage, after the rewards are in."""

    def __init__(self, value: float) -> None:
        self.value = value

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        score = pl_module.score

        def planted(rollout: Rollout) -> Experience:
            experience = score(rollout)
            experience.advantages[4] = self.value
            return experience

        pl_module.score = planted


class OneBatch(LightningDataModule):
    """The same batch, for one step."""

    taxonomy = DFEW_TAXONOMY

    def __init__(self, batch: ClipBatch) -> None:
        super().__init__()
        self.batch = batch

    def train_dataloader(self) -> DataLoader:
        return DataLoader([self.batch], batch_size=None, collate_fn=lambda batch: batch)


@pytest.fixture
def run(tmp_path: Path, tiny_models: Path) -> Callable[..., Path]:
    """Runs a module until its step is refused, in a run directory with the configuration; returns the step's file."""

    def fail(module: TrainablePolicyModule, batch: ClipBatch, *callbacks: Any, **settings: Any) -> Path:
        backbone = {name: str(tiny_models / name) for name in ("vision", "audio", "language_model")}
        backbone |= {"num_frames": 2, "video_grid": 2, "audio_pool": 10}
        settings |= {"taxonomy": "dfew", "trainable": TRAINED, "learning_rate": 1e-3}
        settings["backbone"] = {"class_path": "lightning_modules.backbones.composed.ComposedBackbone"}
        settings["backbone"]["init_args"] = backbone
        name = f"{type(module).__module__}.{type(module).__qualname__}"
        config = {"seed_everything": 0, "model": {"class_path": name, "init_args": settings}}
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
        trainer = Trainer(
            accelerator="cpu",
            max_epochs=1,
            default_root_dir=tmp_path,
            callbacks=list(callbacks),
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        torch.manual_seed(1)
        with pytest.raises(NonFiniteError):
            trainer.fit(module, datamodule=OneBatch(batch))
        return tmp_path / "non_finite" / "step=00000000.safetensors"

    return fail


@pytest.fixture
def grpo(backbone: ComposedBackbone, batch: ClipBatch, run: Callable[..., Path]) -> Callable[..., Path]:
    """A step of stage 3 on three clips, three completions each, that was refused."""

    def fail(*callbacks: Callback) -> Path:
        sampling = Sampling(max_new_tokens=6)
        module = GRPOModule(
            backbone, "dfew", trainable=TRAINED, rollout_sampling=sampling, group_size=3, learning_rate=1e-3
        )
        plan = [RLCallback([LengthReward()]), *callbacks]
        return run(module, batch, *plan, group_size=3, rollout_sampling={"max_new_tokens": 6})

    return fail


def plant(module: torch.nn.Module, value: float) -> None:
    with torch.no_grad():
        next(p for n, p in module.named_parameters() if "layers.1" in n and "down_proj" in n)[0, 0] = value


def test_an_infinite_advantage_is_named_by_its_completion(
    grpo: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main(["replay", str(grpo(PlantAdvantage(torch.inf)))]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "Reproduced. First: clip1, completion 1: advantage: inf." in shown
    assert "Step 0 of grpo: epoch 0, batch 0. Precision 32-true." in shown
    assert "Weights after 0 steps" in shown and "Recorded: loss -inf" in shown


def test_parts_sum_to_the_step_and_only_the_planted_one_is_broken(grpo: Callable[..., Path]) -> None:
    file = grpo(PlantAdvantage(1e30))
    place, result = StepRecord.read(file).place, replay(str(file), device="cpu")
    assert place.gradient_norm == result.gradient_norm == torch.inf, "the squares overflow"
    assert result.loss == pytest.approx(sum(place.losses), rel=1e-5) and abs(result.loss) > 1e28
    assert [(part.clip, part.completion) for part in result.parts if part.findings] == [("clip1", 1)]
    assert len(result.parts) == 9 and all(part.gradient_norm < 100 for part in result.parts if not part.findings)
    assert result.broken_weights == []


def test_the_gradient_of_the_parts_is_that_of_the_step(grpo: Callable[..., Path], tmp_path: Path) -> None:
    file = grpo(PlantAdvantage(torch.inf))
    record = StepRecord.read(file)
    record.rollout.advantages[4] = 1.0
    record.write(file)
    result = replay(str(file), device="cpu")
    assert result.is_finite and not any(part.findings for part in result.parts)
    whole = GRPOModule(ComposedBackbone(**model(tmp_path)), "dfew", trainable=TRAINED, learning_rate=1e-3)
    saved = torch.load(tmp_path / record.place.weights, weights_only=True)["state_dict"]
    whole.load_state_dict({**whole.state_dict(), **saved})
    rollout, batch = record.rollout, record.batches[0]
    logprobs = whole.backbone.logprobs(whole.backbone.encode(batch), rollout.completions)
    loss = whole.loss(
        logprobs, None, rollout.advantages, rollout.loss_mask, reference_logprobs=rollout.reference_logprobs
    ).loss
    loss.backward()
    norm = torch.nn.utils.get_total_norm([p.grad for p in whole.parameters() if p.grad is not None])
    assert result.loss == pytest.approx(float(loss), rel=1e-4, abs=1e-6)
    assert result.gradient_norm == pytest.approx(float(norm), rel=1e-4)


def model(run: Path) -> dict[str, Any]:
    """Arguments of the backbone of a run."""
    return yaml.safe_load((run / "config.yaml").read_text())["model"]["init_args"]["backbone"]["init_args"]


def test_a_broken_weight_is_named_with_the_module_that_first_shows_it(
    backbone: ComposedBackbone, grpo: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    plant(backbone.parts["language_model"], torch.nan)
    file = grpo()
    result = replay(str(file), device="cpu")
    (weight,) = result.broken_weights
    assert "layers.1.mlp.down_proj" in weight
    for part in result.parts:
        module, token, *_ = part.findings
        assert module.startswith("output of ") and module.endswith("layers.1.mlp.down_proj")
        assert token.startswith("log-probability of token 0 ") and token.endswith(": nan")
    assert "Weights that are not finite: 1" in capsys.readouterr().out


def test_a_broken_clip_is_named_and_replayed_without_its_corpus(
    backbone: ComposedBackbone, make_clip: Callable[..., Clip], run: Callable[..., Path], tmp_path: Path
) -> None:
    broken = make_clip(1, waveform=torch.full((8_000,), torch.nan))
    module = ColdStartModule(backbone, "dfew", trainable=TRAINED, learning_rate=1e-3)
    file = run(module, collate([make_clip(0), broken, make_clip(2)]))
    result = replay(str(file), device="cpu")
    assert [part.clip for part in result.parts if part.findings] == ["clip1"]
    assert result.parts[1].completion is None and result.parts[1].findings[0].startswith("output of audio")
    assert result.parts[0].text.startswith("<think>") and result.parts[0].num_tokens > 10


def test_without_its_weights_a_step_says_that_it_is_not_reproduced(
    backbone: ComposedBackbone, grpo: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plant(backbone.parts["language_model"], torch.nan)
    file = grpo()
    record = StepRecord.read(file)
    good = torch.load(tmp_path / record.place.weights, weights_only=True)
    good["state_dict"] = {name: weights.nan_to_num() for name, weights in good["state_dict"].items()}
    good["global_step"] = 7
    record.rollout.reference_logprobs.nan_to_num_()
    record.write(file)
    torch.save(good, tmp_path / "other.ckpt")
    result = replay(str(file), ckpt_path=str(tmp_path / "other.ckpt"), device="cpu")
    assert result.is_finite
    shown = " ".join(capsys.readouterr().out.split())
    assert "Not reproduced" in shown and "the weights are those after 7 steps, not 0" in shown.lower()


def test_only_weights_of_the_run_itself_are_taken(grpo: Callable[..., Path]) -> None:
    file = grpo(PlantAdvantage(torch.inf))
    content = file.read_bytes().replace(b"non_finite/step=00000000.weights", b"../../../../../../../etc/passwd.")
    file.write_bytes(content)
    with pytest.raises(ValueError, match="outside of its run directory"):
        replay(str(file), device="cpu")


def test_files_that_are_no_steps_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="No such file"):
        replay(str(tmp_path / "step.safetensors"))
    other = tmp_path / "other.safetensors"
    save_file({"a": torch.zeros(1)}, other)
    text = tmp_path / "text.safetensors"
    text.write_text("not a file of tensors")
    for file in (other, text):
        with pytest.raises(ValueError, match="is not a step that a run has saved"):
            replay(str(file))
