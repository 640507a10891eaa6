"""What `RolloutWriter` leaves of a run: alone, on two processes, resumed, on a full disk."""

import errno
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from callbacks import rollouts
from callbacks.rewards import ExplanationReward
from callbacks.rl import RLCallback
from callbacks.rollouts import RolloutWriter
from datamodules.batch import Clip, ClipBatch, collate
from datamodules.emotions import DFEW_TAXONOMY
from datamodules.rationale import read_response
from lightning_modules.grpo import GRPOModule
from lightning_modules.metrics.rollouts import Rollouts, read_rollouts
from lightning_modules.rl.experience import Experience, experience_of
from tests.lightning_modules.conftest import Batches, LengthReward

pytestmark = pytest.mark.e2e

Make, Fit = Callable[..., GRPOModule], Callable[..., Trainer]


class Keep(Callback):
    """The experience of each step."""

    def __init__(self) -> None:
        self.steps: list[Experience] = []

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: ClipBatch, batch_idx: int
    ) -> None:
        experience = experience_of(outputs)
        assert experience is not None
        self.steps.append(experience)


def speaking(module: GRPOModule) -> GRPOModule:
    """The module, whose completions are read as rationales: random weights never write one."""
    text = "<think>The man frowns hard. He shouts in a loud voice.</think><answer>angry</answer>"
    module.read = lambda texts, strict=False: [read_response(text + "." * (len(t) % 5), DFEW_TAXONOMY) for t in texts]
    return module


def names(run: Path) -> list[str]:
    return sorted(path.name.removesuffix(".jsonl.gz") for path in (run / "rollouts").glob("*"))


def steps(run: Rollouts) -> list[tuple[int, str]]:
    return [(group.step, group.id) for group in run.groups]


def test_every_completion_is_there_with_what_it_earned(
    make_grpo: Make, fit: Fit, batches: list[ClipBatch], tmp_path: Path
) -> None:
    kept = Keep()
    rewards = RLCallback([LengthReward(), ExplanationReward()])
    fit(speaking(make_grpo(num_updates=2)), batches, rewards, RolloutWriter(), kept)
    run = read_rollouts(tmp_path)
    assert names(tmp_path) == ["start001-step0000000-rank000-00001"]
    assert steps(run) == [(step, clip) for step in range(2) for clip in batches[step].ids], "a step is a rollout"
    assert [group.target for group in run.groups] == ["anger", "happiness"] * 2
    assert [group.media for group in run.groups[:2]] == batches[0].media
    for step, experience in enumerate(kept.steps):
        own = [row for group in run.groups[2 * step : 2 * step + 2] for row in group.completions]
        assert len(own) == 6
        assert [row.completion for row in own] == [said.completion for said in experience.rollout.responses]
        assert [row.total for row in own] == experience.total.tolist()
        assert [row.advantage for row in own] == experience.advantages.tolist()
        assert [row.rewards["length"] for row in own] == experience.rewards["length"].tolist()
        assert [row.tokens for row in own] == experience.rollout.completions.lengths.tolist()
        assert [row.truncated for row in own] == (~experience.rollout.completions.finished).tolist()
        for row, readings in zip(own, experience.readings, strict=True):
            assert row.prediction == "anger"
            assert [(said.text, said.emotions) for said in row.sentences] == [(r.text, r.emotions) for r in readings]


def test_without_a_verifier_sentences_have_no_emotions(
    make_grpo: Make, fit: Fit, batches: list[ClipBatch], tmp_path: Path
) -> None:
    fit(speaking(make_grpo()), batches, RLCallback([LengthReward()]), RolloutWriter())
    said = read_rollouts(tmp_path).groups[0].completions[0].sentences
    assert [(own.text, own.emotions) for own in said] == [
        ("The man frowns hard.", None), ("He shouts in a loud voice.", None),
    ]  # fmt: skip


@pytest.mark.parametrize("options", [{"fast_dev_run": 1}, {"max_megabytes": 0.0}])
def test_a_trial_run_and_a_bound_of_zero_write_nothing(
    make_grpo: Make, fit: Fit, batches: list[ClipBatch], tmp_path: Path, options: dict[str, float]
) -> None:
    writer = RolloutWriter(options.pop("max_megabytes", 1.0))
    fit(make_grpo(), batches, RLCallback([LengthReward()]), writer, **options)
    assert not (tmp_path / "rollouts").exists()


def test_a_resumed_run_goes_on_and_a_new_one_sets_the_files_aside(
    make_grpo: Make, fit: Fit, batches: list[ClipBatch], tmp_path: Path
) -> None:
    save = ModelCheckpoint(tmp_path / "checkpoints", save_top_k=-1, every_n_train_steps=1, filename="{step}")
    fit(make_grpo(), batches, RLCallback([LengthReward()]), RolloutWriter(), save, enable_checkpointing=True)
    before = read_rollouts(tmp_path)
    trainer = Trainer(
        accelerator="cpu", default_root_dir=tmp_path, max_steps=3, max_epochs=2, limit_val_batches=0, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        callbacks=[RLCallback([LengthReward()]), RolloutWriter()],
    )  # fmt: skip
    trainer.fit(make_grpo(), datamodule=Batches(batches), ckpt_path=tmp_path / "checkpoints" / "step=1.ckpt")
    assert names(tmp_path) == ["start001-step0000000-rank000-00001", "start002-step0000001-rank000-00001"]
    run = read_rollouts(tmp_path)
    assert [group.step for group in run.groups] == [0, 0, 1, 1, 2, 2], "once each"
    assert run.groups[:2] == before.groups[:2]

    fit(make_grpo(), batches[:1], RLCallback([LengthReward()]), RolloutWriter())
    assert names(tmp_path) == ["start001-step0000000-rank000-00001"]
    assert [group.step for group in read_rollouts(tmp_path).groups] == [0, 0]
    assert read_rollouts(tmp_path / "earlier" / "1").groups == run.groups
    fit(make_grpo(), batches[:1], RLCallback([LengthReward()]), RolloutWriter(max_megabytes=0))
    assert not names(tmp_path) and names(tmp_path / "earlier" / "2"), "they are not those of this run"


def test_on_a_full_disk_the_record_ends_and_the_run_goes_on(
    make_grpo: Make, fit: Fit, batches: list[ClipBatch], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(text: bytes, **options: int) -> bytes:
        if json.loads(text.splitlines()[0])["step"] == 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return compress(text, **options)

    compress = rollouts.gzip.compress
    monkeypatch.setattr(rollouts.gzip, "compress", full)
    with pytest.warns(UserWarning, match=r"No space left on device\): they end before step 1, the run goes on") as said:
        trainer = fit(make_grpo(), [*batches, *batches], RLCallback([LengthReward()]), RolloutWriter())
    assert trainer.global_step == 4 and len([own for own in said if "they end" in str(own.message)]) == 1
    monkeypatch.undo()
    assert {group.step for group in read_rollouts(tmp_path).groups} == {0}


@pytest.fixture
def one_thread() -> Iterator[None]:
    """A forked process must not look for the threads of its parent's OpenMP pool."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
def test_two_processes_write_a_file_each(
    make_grpo: Make, make_clip: Callable[..., Clip], fit: Fit, tmp_path: Path
) -> None:
    batches = [collate([make_clip(2 * i), make_clip(2 * i + 1)]) for i in range(4)]
    batches[2] = collate([make_clip(0, failure="empty")], drop_failures=True)  # one process has nothing in step 1
    fit(make_grpo(), batches, RLCallback([LengthReward()]), RolloutWriter(), strategy="ddp_fork", devices=2)
    assert names(tmp_path) == ["start001-step0000000-rank000-00001", "start001-step0000000-rank001-00001"]
    own = steps(read_rollouts(tmp_path))
    assert [step for step, _ in own] == [0, 0, 0, 0, 1, 1]
    assert {clip for step, clip in own if step == 0} == {"clip0", "clip1", "clip2", "clip3"}
    assert {clip for step, clip in own if step == 1} == {"clip6", "clip7"}
