"""Which checkpoints a run leaves, and from which one it goes on, whatever the clock says."""

import os
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
