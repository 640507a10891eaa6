"""Reward-hacking alarms through a real Trainer: what is logged, and when they warn."""

import re
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger

from callbacks.alarms import AlarmCallback
from callbacks.rewards import AccuracyReward, ExplanationReward, FormatReward
from callbacks.rl import RLCallback
from datamodules.batch import Clip, ClipBatch, collate
from datamodules.emotions import DFEW_TAXONOMY
from datamodules.rationale import read_response
from lightning_modules.coherence import explanation_score
from lightning_modules.emotion_verifier import EmotionVerifier
from lightning_modules.grpo import GRPOModule

from .conftest import Batches, LengthReward

pytestmark = pytest.mark.e2e

GOOD = "<think>The man frowns. He shouts at them.</think><answer>angry</answer>"
HACKED = "<think>He is angry. Anger it is.</think><answer>angry</answer>"
BROKEN = "no tags"
SECOND = str(Path(__file__).parents[1] / "golden/tiny_verifier")

Make = Callable[..., GRPOModule]
Fit = Callable[..., Trainer]


class Recorded(Callback):
    """The alarms logged so far, by training step."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer: Trainer, *arguments: Any) -> None:
        values = {name: value.item() for name, value in trainer.callback_metrics.items()}
        self.steps.append({name: value for name, value in values.items() if name.startswith("alarm/")})


def say(module: GRPOModule, monkeypatch: pytest.MonkeyPatch, *steps: Sequence[str]) -> None:
    """Let the policy seem to say given completions, over and over; one list per rollout or evaluated batch."""
    left = list(steps)

    def read(texts: list[str], strict: bool = False) -> list:
        said = left.pop(0)
        return [read_response(said[i % len(said)], DFEW_TAXONOMY) for i in range(len(texts))]

    monkeypatch.setattr(module, "read", read)


@pytest.fixture
def clips(make_clip: Callable[..., Clip]) -> Callable[[int], list[ClipBatch]]:
    """Batches of two clips of anger."""
    return lambda count: [collate([make_clip(2 * i), make_clip(2 * i + 1)]) for i in range(count)]


def warnings_of(caught: list[warnings.WarningMessage], name: str) -> list[str]:
    return [str(entry.message) for entry in caught if str(entry.message).startswith(f"{name} is")]


def test_values_of_a_step(
    make_grpo: Make, fit: Fit, clips: Callable[[int], list[ClipBatch]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    module, recorded = make_grpo(), Recorded()
    say(module, monkeypatch, [GOOD, HACKED, BROKEN])
    rl = RLCallback([FormatReward(), AccuracyReward(), ExplanationReward(), LengthReward()])
    alarms = AlarmCallback(every_n_steps=1, second_verifier=SECOND)
    fit(module, clips(1), rl, alarms, recorded, logger=CSVLogger(tmp_path, name="", version=""))
    (logged,) = recorded.steps
    assert logged["alarm/sentences"] == pytest.approx(4 / 3)
    assert logged["alarm/sentence_words"] == pytest.approx((3 + 4 + 3 + 3) / 4)
    assert logged["alarm/label_named"] == pytest.approx(2 / 4)
    assert logged["alarm/shared_sentences"] == pytest.approx(1 / 3), (
        "each sentence is in one of three of the other clip"
    )
    own = {text: explanation_of(module.verifier, text) for text in (GOOD, HACKED)}
    second = {text: explanation_of(EmotionVerifier(SECOND), text) for text in (GOOD, HACKED)}
    assert logged["alarm/explanation"] == pytest.approx(sum(own.values()) / 2)
    assert logged["alarm/explanation_second"] == pytest.approx(sum(second.values()) / 2)
    assert logged["alarm/verifier_gap"] == pytest.approx((sum(own.values()) - sum(second.values())) / 2, abs=1e-6)
    assert "alarm/judge_gap" not in logged, "training has no judge"
    header = (tmp_path / "metrics.csv").read_text().splitlines()[0].split(",")
    assert set(logged) <= set(header)


def explanation_of(verifier: EmotionVerifier | None, text: str) -> float:
    assert verifier is not None
    readings = verifier.read(read_response(text, DFEW_TAXONOMY).sentences)
    return explanation_score([reading.emotions for reading in readings], "anger", DFEW_TAXONOMY)


def test_an_alarm_warns_when_the_window_is_bad_and_again_after_silence(
    make_grpo: Make, fit: Fit, clips: Callable[[int], list[ClipBatch]], monkeypatch: pytest.MonkeyPatch
) -> None:
    module, recorded = make_grpo(), Recorded()
    steps = [HACKED, GOOD, HACKED, HACKED, HACKED, GOOD, GOOD, HACKED, HACKED]
    say(module, monkeypatch, *([text] for text in steps))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        rl = RLCallback([FormatReward(), LengthReward()])
        fit(module, clips(len(steps)), rl, AlarmCallback(every_n_steps=1, window=2), recorded)
    assert [step["alarm/label_named"] for step in recorded.steps] == [1, 0.5, 0.5, 1, 1, 0.5, 0, 0.5, 1]
    messages = warnings_of(caught, "alarm/label_named")
    assert [int(re.search(r"at step (\d+)", message)[1]) for message in messages] == [3, 8]
    assert "is 1 at step 3; expected at most 0.5. It is the share of sentences" in messages[0]
    assert not warnings_of(caught, "alarm/sentences"), "two sentences are enough"
    assert len(warnings_of(caught, "alarm/shared_sentences")) == 1, "it never went quiet"


def test_steps_between_measurements_and_empty_batches(
    make_grpo: Make,
    fit: Fit,
    make_clip: Callable[..., Clip],
    clips: Callable[[int], list[ClipBatch]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module, recorded = make_grpo(), Recorded()
    empty = collate([make_clip(0, failure="empty")], drop_failures=True)
    say(module, monkeypatch, [GOOD], [HACKED], [GOOD])
    batches = [*clips(2), clips(1)[0], empty]
    fit(module, batches, RLCallback([LengthReward()]), AlarmCallback(every_n_steps=2, window=1), recorded)
    assert [step.get("alarm/label_named") for step in recorded.steps] == [None, 1.0, 1.0, 1.0]
    assert "alarm/explanation" not in recorded.steps[1], "no reward asked for the verifier"


def test_epochs_shorter_than_the_distance_between_measurements(
    make_grpo: Make, fit: Fit, clips: Callable[[int], list[ClipBatch]], monkeypatch: pytest.MonkeyPatch
) -> None:
    module, recorded = make_grpo(), Recorded()
    say(module, monkeypatch, [GOOD], [GOOD], [HACKED])
    fit(module, clips(1), RLCallback([LengthReward()]), AlarmCallback(every_n_steps=3), recorded, max_epochs=3)
    assert [step.get("alarm/label_named") for step in recorded.steps] == [None, None, 1.0]


@pytest.mark.parametrize("command", ["validate", "test"])
def test_evaluation(
    make_grpo: Make, make_clip: Callable[..., Clip], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: str
) -> None:
    module = make_grpo()
    batches = [collate([make_clip(0), make_clip(1)]), collate([make_clip(2), make_clip(3, failure="cannot be read")])]
    say(module, monkeypatch, [HACKED, GOOD], [GOOD])
    trainer = Trainer(
        accelerator="cpu",
        default_root_dir=tmp_path,
        callbacks=[AlarmCallback(thresholds={"label_named": (None, 0.3)})],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        getattr(trainer, command)(module, datamodule=Batches(batches), verbose=False)
    prefix = {"validate": "val_alarm", "test": "test_alarm"}[command]
    logged = {name: value.item() for name, value in trainer.callback_metrics.items()}
    assert logged[f"{prefix}/label_named"] == pytest.approx(2 / 6), "the clip that does not decode is left out"
    assert logged[f"{prefix}/sentences"] == 2.0
    assert f"{prefix}/judge_gap" in logged, "the verifier judges"
    assert f"{prefix}/reward_length_within" not in logged, "one rationale per clip"
    (message,) = warnings_of(caught, f"{prefix}/label_named")
    assert "expected at most 0.3" in message


class SavesPooled(Callback):
    """Leaves what a process logged."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *arguments: Any) -> None:
        torch.save(dict(trainer.callback_metrics), self.directory / f"{trainer.global_rank}.pt")


@pytest.fixture
def one_thread():
    """A forked process must not look for the threads of its parent's OpenMP pool."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
def test_processes_are_pooled(make_grpo: Make, fit: Fit, make_clip: Callable[..., Clip], tmp_path: Path) -> None:
    """Process 1 has no clip: the values are those of process 0, on both."""
    module = make_grpo()
    module.read = lambda texts, strict=False: [read_response(HACKED, DFEW_TAXONOMY) for _ in texts]
    batches = [collate([make_clip(0), make_clip(1)]), collate([make_clip(2, failure="empty")], drop_failures=True)]
    fit(
        module,
        batches,
        RLCallback([LengthReward()]),
        AlarmCallback(every_n_steps=1, window=1),
        SavesPooled(tmp_path),
        strategy="ddp_fork",
        devices=2,
    )
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    names = {name for name in first if name.startswith("alarm/")}
    assert names and names == {name for name in second if name.startswith("alarm/")}
    assert all(torch.equal(first[name], second[name]) for name in names)
    assert first["alarm/sentences"] == 2.0 and first["alarm/label_named"] == 1.0


def test_what_cannot_work_is_refused(make_grpo: Make, fit: Fit, clips: Callable[[int], list[ClipBatch]]) -> None:
    with pytest.raises(ValueError, match="every_n_steps >= 1"):
        AlarmCallback(window=0)
    with pytest.raises(ValueError, match="no alarm 'x'"):
        AlarmCallback(thresholds={"x": (0.0, 1.0)})
    rl = RLCallback([LengthReward()])
    with pytest.raises(ValueError, match="model has none"):
        fit(make_grpo(verifier=None), clips(1), rl, AlarmCallback(second_verifier=SECOND))
    module = make_grpo()
    with pytest.raises(ValueError, match="never differ"):
        fit(module, clips(1), rl, AlarmCallback(second_verifier=module.verifier.path))
