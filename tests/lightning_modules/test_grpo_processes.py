"""Stage 3 on two processes that have different amounts of work: none may wait for the other in vain."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from callbacks.rewards import GroundingReward, JudgeReward
from callbacks.rewards.base import Reward
from callbacks.rl import RLCallback
from datamodules.batch import Clip, ClipBatch, collate
from datamodules.rationale import Response
from lightning_modules.grpo import GRPOModule
from lightning_modules.policy import PolicyModule

from .conftest import snapshot

pytestmark = pytest.mark.e2e


class SpreadPerProcess(Reward):
    """Step 0: all groups of process 0 score the same; step 1: one of two groups of process 1 does."""

    name = "spread_per_process"
    step = 0

    def __call__(self, given) -> Tensor:
        rank, values = int(os.environ["LOCAL_RANK"]), torch.arange(len(given.responses), dtype=torch.float32)
        if (self.step, rank) == (0, 0):
            values.zero_()
        if (self.step, rank) == (1, 1):
            values[:3] = 0
        self.step += 1
        return values


class SaveWeights(Callback):
    """Leaves each process' weights after each step."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: ClipBatch, batch_idx: int
    ) -> None:
        torch.save(snapshot(pl_module.backbone), self.directory / f"{batch_idx}-{trainer.global_rank}.pt")


@pytest.fixture
def one_thread() -> Iterator[None]:
    """A forked process must not look for the threads of its parent's OpenMP pool."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("completion_batch_size", [None, 2])
def test_processes_with_different_groups_left_stay_together(
    make_grpo: Callable[..., GRPOModule],
    make_clip: Callable[..., Clip],
    fit: Callable[..., Trainer],
    tmp_path: Path,
    completion_batch_size: int | None,
) -> None:
    module = make_grpo(
        uniform_groups="skip", micro_batch_size=1, completion_batch_size=completion_batch_size, num_updates=2
    )
    before = snapshot(module.backbone)
    batches = [collate([make_clip(2 * i), make_clip(2 * i + 1)]) for i in range(6)]
    batches[4] = collate([make_clip(0, failure="empty")], drop_failures=True)
    fit(module, batches, RLCallback([SpreadPerProcess()]), SaveWeights(tmp_path), strategy="ddp_fork", devices=2)
    assert len(list(tmp_path.glob("*.pt"))) == 2 * 3, "each process has three of the batches"
    previous = before
    for step in range(3):
        first, second = (torch.load(tmp_path / f"{step}-{rank}.pt", weights_only=True) for rank in range(2))
        assert all(torch.equal(first[name], second[name]) for name in before), "the processes have one policy"
        assert any(not torch.equal(first[name], previous[name]) for name in before), "which has learnt"
        previous = first


class DownOnOneProcess:
    """A judge that the second process cannot reach."""

    name = "down on one process"

    def judge(self, rationales, taxonomy):
        if os.environ["LOCAL_RANK"] == "1":
            raise ConnectionError("no route")
        return ["anger" if "0" in rationale else None for rationale in rationales]


class SaveLogged(Callback):
    """Leaves what was logged of each step."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: ClipBatch, batch_idx: int
    ) -> None:
        logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
        torch.save(logged, self.directory / f"{batch_idx}-{trainer.global_rank}.log")


@pytest.mark.usefixtures("one_thread")
def test_rewards_of_some_processes_alone_hold_up_no_other(
    make_grpo: Callable[..., GRPOModule],
    make_clip: Callable[..., Clip],
    fit: Callable[..., Trainer],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def read(self: PolicyModule, texts: list[str], strict: bool = False) -> list[Response]:
        said = [(f"He smiles {i % 3}.", f"She {text[:3]}.") for i, text in enumerate(texts)]
        return [Response(text, " ".join(own), "angry", "anger", own) for text, own in zip(texts, said, strict=True)]

    monkeypatch.setattr(PolicyModule, "read", read)
    module = make_grpo(normalise="per_reward", beta=0.0, micro_batch_size=1)
    batches = [collate([make_clip(2 * i), make_clip(2 * i + 1)]) for i in range(6)]
    # In one step a process has a clip that is alone, in one none at all.
    batches[2] = collate([make_clip(0), make_clip(1, failure="broken")], drop_failures=True)
    batches[4] = collate([make_clip(0, failure="broken")], drop_failures=True)
    rewards: list[Reward] = [GroundingReward(num_others=1, weight={0: 1.0, 2: 0.5}), JudgeReward(DownOnOneProcess())]
    weights, logged = SaveWeights(tmp_path), SaveLogged(tmp_path)
    fit(module, batches, RLCallback(rewards), weights, logged, strategy="ddp_fork", devices=2)
    missing = []
    for step in range(3):
        first, second = (torch.load(tmp_path / f"{step}-{rank}.pt", weights_only=True) for rank in range(2))
        assert all(torch.equal(first[name], second[name]) for name in first), "the processes have one policy"
        own = [torch.load(tmp_path / f"{step}-{rank}.log", weights_only=True) for rank in range(2)]
        assert own[0]["reward/judge_missing"] == own[1]["reward/judge_missing"]
        missing.append([own[0][f"reward/{name}_missing"] for name in ("grounding", "judge")])
    assert sorted(count for count, _ in missing) == [0, 0, module.group_size], "of the clip that was alone"
    assert sum(count for _, count in missing) >= 3 * module.group_size, "of the second process, which had clips"
