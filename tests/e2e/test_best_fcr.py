"""Stage 3 that keeps the checkpoint with the best FCR and stops when FCR no longer rises, as a user runs it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator, ScalarEvent

import main
from datamodules.batch import Clip, collate
from datamodules.synthetic.grammar import rationale_emotion
from lightning_modules.backbones.composed import ComposedBackbone
from lightning_modules.grpo import GRPOModule

pytestmark = pytest.mark.e2e

CONFIGS = Path(__file__).parents[2] / "configs"
SENTENCE = "He frowns hard with lowered brows."
RESPONSE = f"<think>{SENTENCE}</think>\n<answer>angry</answer>"
RATES = ("war", "uar", "eea", "epc", "fcr")


def stack(*names: str) -> list[str]:
    return [argument for name in names for argument in ("-c", str(CONFIGS / f"{name}.yaml"))]


@pytest.fixture
def policy(backbone: ComposedBackbone, make_clip: Callable[..., Clip], tmp_path: Path) -> Path:
    """A tiny policy that has learnt to give one response to every clip: right for the angry ones."""
    assert rationale_emotion(SENTENCE) == "anger"
    black = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    batch = collate([make_clip(0), make_clip(1), make_clip(2, frames=black)])
    backbone.set_trainable(["language_model"])
    optimizer = torch.optim.AdamW([p for p in backbone.parameters() if p.requires_grad], lr=1e-2)
    completions = backbone.completion_ids([RESPONSE] * len(batch))
    for _ in range(40):
        loss = -backbone.logprobs(backbone.encode(batch), completions).sum() / completions.mask.sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.05
    backbone.save(tmp_path / "policy")
    return tmp_path / "policy"


@pytest.fixture
def arguments(policy: Path, tiny_models: Path, tmp_path: Path) -> list[str]:
    """GRPO with one step and one validation per epoch; the rate is so small that the policy stays as it is."""
    main.run(["synthesize", "--layout=dfew", f"--output={tmp_path}/dfew", "--num_clips=35", "--num_workers=1"])
    return [
        *stack("trainer/default", "trainer/cpu", "stage/grpo", "stage/best_fcr", "data/dfew", "backbone/composed"),
        *("--data.media.num_frames=2", "--data.media.image_size=32", "--data.media.max_audio_seconds=1"),
        "--data.media.mel=null",
        *(f"--data.root={tmp_path}/dfew", "--data.validation_fraction=0.2", "--data.num_workers=0"),
        *(
            "--data.batch_size=2",
            "--data.eval_batch_size=8",
            f"--model.backbone.path={policy}",
            f"--model.verifier={tiny_models}/verifier",
        ),
        *("--model.judge=datamodules.synthetic.grammar.OracleJudge", "--model.learning_rate=1e-6"),
        *("--model.group_size=2", "--model.rollout_sampling.max_new_tokens=48"),
        *("--model.evaluation.max_new_tokens=48", "--model.evaluation.temperature=0"),
        *("--trainer.max_epochs=9", "--trainer.limit_train_batches=1"),
        *("--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"),
    ]


def curves(run: Path) -> dict[str, list[ScalarEvent]]:
    events = EventAccumulator(str(run))
    events.Reload()
    return {rate: events.Scalars(f"val/{rate}") for rate in RATES}


def test_the_best_checkpoint_is_kept_and_the_run_stops(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    main.run(["fit", *arguments, f"--trainer.default_root_dir={run}"])

    configured = yaml.safe_load((run / "config.yaml").read_text())["trainer"]["callbacks"]
    assert [callback["class_path"].rpartition(".")[2] for callback in configured] == [
        "RLCallback",
        "ModelCheckpoint",
        "EarlyStopping",
    ]
    fit = curves(run)
    # The grammar's judge reads anger in the one sentence, which is the answer, and for angry clips the target.
    shares = {rate: [event.value for event in events] for rate, events in fit.items()}
    assert 0 < shares["war"][0] < 0.5 and shares["epc"][0] == 1
    assert shares["war"] == shares["eea"] == shares["fcr"]
    # FCR never rises above that of the first validation, so that the third after it is the last.
    assert shares["fcr"] == [shares["fcr"][0]] * 4

    (best,) = (run / "checkpoints").glob("best-fcr*.ckpt")
    states = torch.load(best, map_location="cpu", weights_only=True)["callbacks"]
    (state,) = (own for name, own in states.items() if name.startswith("ModelCheckpoint"))
    assert state["monitor"] == "val/fcr" and Path(state["best_model_path"]).name == best.name
    assert float(state["best_model_score"]) == pytest.approx(shares["fcr"][0], abs=1e-6)
    assert torch.load(best, map_location="cpu", weights_only=True)["global_step"] == 1

    loaded_steps = []
    load = GRPOModule.on_load_checkpoint

    def record_step(module: GRPOModule, checkpoint: dict[str, Any]) -> None:
        loaded_steps.append(checkpoint["global_step"])
        load(module, checkpoint)

    monkeypatch.setattr(GRPOModule, "on_load_checkpoint", record_step)
    main.run(["validate", *arguments, f"--trainer.default_root_dir={run}", "--ckpt_path=best"])
    assert loaded_steps == [1]
    for rate, events in curves(run).items():
        assert [event.value for event in events] == pytest.approx([shares[rate][0]] * 5, abs=1e-6)
