"""Which checkpoints a run leaves, and from which one it goes on, whatever the clock says."""

import os
import signal
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from lightning import LightningModule, Trainer
from torch.utils.data import DataLoader

from callbacks.checkpointing.files import newest_checkpoint, own_checkpoints
from callbacks.checkpointing.run_checkpoint import RunCheckpoint

pytestmark = pytest.mark.unit


class Line(LightningModule):
    """One weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def training_step(self, batch: torch.Tensor) -> torch.Tensor:
        return (self.weight * batch).sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(run: Path, steps: int, ckpt_path: Path | None = None, keep: int = 2) -> list[int]:
    """Train; returns the steps of the checkpoints that are left, in every one of which that number stands."""
    trainer = Trainer(
        accelerator="cpu",
        default_root_dir=run,
        max_steps=steps,
        max_epochs=-1,
        callbacks=[RunCheckpoint(every_n_steps=1, keep=keep)],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Line(), DataLoader(torch.ones(50, 1)), ckpt_path=ckpt_path, weights_only=True)
    own = own_checkpoints(run / "checkpoints")
    assert [torch.load(file, weights_only=True)["global_step"] for file in own.values()] == list(own)
    return list(own)


def test_times_of_files_have_no_say(tmp_path: Path) -> None:
    assert fit(tmp_path, 5, keep=3) == [3, 4, 5]
    for step, file in own_checkpoints(tmp_path / "checkpoints").items():
        os.utime(file, (2e9 - step, 2e9 - step))  # in the future, and the wrong way round
    newest = newest_checkpoint(tmp_path)
    assert newest is not None and newest.name == "step=00000005.ckpt"
    assert fit(tmp_path, 7, newest, keep=3) == [5, 6, 7], "the oldest steps went, not the oldest files"


def test_a_run_that_begins_further_back_replaces_what_is_ahead_of_it(tmp_path: Path) -> None:
    fit(tmp_path, 9)
    (tmp_path / "checkpoints" / "step=8.ckpt").touch()  # a name that is not RunCheckpoint's
    with pytest.warns(
        UserWarning, match=r"checkpoints up to step 9, and this run begins at step 0: .*--ckpt_path last"
    ):
        assert fit(tmp_path, 3) == [2, 3]
    assert (tmp_path / "checkpoints" / "step=8.ckpt").exists()


class Asked(Line):
    """Sends itself a signal in its fourth batch."""

    def __init__(self, signum: signal.Signals) -> None:
        super().__init__()
        self.signum = signum
        self.num_batches = 0

    def training_step(self, batch: torch.Tensor) -> torch.Tensor:
        self.num_batches += 1
        if self.num_batches == 4:
            os.kill(os.getpid(), self.signum)
        return super().training_step(batch)


@pytest.mark.parametrize(("signum", "num_batches", "saved"), [(signal.SIGTERM, 4, []), (signal.SIGUSR1, 6, [2])])
def test_a_job_to_be_queued_again_accumulates_to_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, signum: signal.Signals, num_batches: int, saved: list[int]
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    monkeypatch.setenv("PATH", "")  # without scontrol, which is told
    trainer = Trainer(
        accelerator="cpu",
        default_root_dir=tmp_path,
        accumulate_grad_batches=3,
        callbacks=[RunCheckpoint()],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    model, handler = Asked(signum), signal.getsignal(signal.SIGUSR1)
    try:
        with pytest.raises(SystemExit), nullcontext() if not saved else pytest.warns(UserWarning, match="job 4711"):
            trainer.fit(model, DataLoader(torch.ones(50, 1)))
    finally:
        signal.signal(signal.SIGUSR1, handler)
    assert model.num_batches == num_batches
    assert list(own_checkpoints(tmp_path / "checkpoints")) == saved


class Validated(Line):
    """Is asked to end in its second step, and notes the checkpoints that there are at each validation."""

    def __init__(self, directory: Path, signum: signal.Signals) -> None:
        super().__init__()
        self.directory, self.signum = directory, signum
        self.at_validation: list[list[int]] = []

    def training_step(self, batch: torch.Tensor) -> torch.Tensor:
        if self.global_step == 1:
            os.kill(os.getpid(), self.signum)
        return super().training_step(batch)

    def validation_step(self, batch: torch.Tensor) -> None:
        self.at_validation.append(list(own_checkpoints(self.directory / "checkpoints")))


@pytest.mark.parametrize(("signum", "at_validation"), [(signal.SIGTERM, [[2], [2]]), (signal.SIGUSR1, [])])
def test_who_asks_to_end_does_not_wait_for_a_validation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, signum: signal.Signals, at_validation: list[list[int]]
) -> None:
    """It comes after the checkpoint, which is written again with it; a job to be queued again has no time for it."""
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    monkeypatch.setenv("PATH", "")
    trainer = Trainer(
        accelerator="cpu",
        default_root_dir=tmp_path,
        val_check_interval=2,
        num_sanity_val_steps=0,
        callbacks=[RunCheckpoint()],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    model, handlers = Validated(tmp_path, signum), [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGUSR1)]
    try:
        with pytest.raises(SystemExit), nullcontext() if at_validation else pytest.warns(UserWarning, match="job 4711"):
            trainer.fit(model, DataLoader(torch.ones(50, 1)), DataLoader(torch.ones(2, 1)))
        assert signal.getsignal(signal.SIGTERM) == handlers[0]
    finally:
        signal.signal(signal.SIGUSR1, handlers[1])
    assert model.at_validation == at_validation, "all of it or none"
    assert trainer.global_step == 2
    (file,) = own_checkpoints(tmp_path / "checkpoints").values()
    progress = torch.load(file, weights_only=True)["loops"]["fit_loop"]["epoch_loop.val_loop.batch_progress"]
    assert progress["total"]["completed"] == len(at_validation)
