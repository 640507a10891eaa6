"""Stage 1 on two processes of which one has nothing to learn from: none may wait for the other in vain."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from lightning import Callback, LightningModule, Trainer

from datamodules.batch import Clip, ClipBatch, collate
from lightning_modules.backbones.composed import ComposedBackbone
from lightning_modules.cold_start import ColdStartModule

from .conftest import TRAINED, snapshot

pytestmark = pytest.mark.e2e


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
@pytest.mark.timeout(120)
def test_a_process_without_a_clip_that_loads_takes_part_in_the_step(
    backbone: ComposedBackbone, make_clip: Callable[..., Clip], fit: Callable[..., Trainer], tmp_path: Path
) -> None:
    module = ColdStartModule(
        backbone, "dfew", trainable=TRAINED, learning_rate=1e-3, warmup_ratio=0.0, schedule="constant"
    )
    batches = [collate([make_clip(i)]) for i in range(4)]
    batches[1] = collate([make_clip(1, failure="broken")], drop_failures=True)  # the second process' first
    previous = snapshot(backbone)
    fit(module, batches, SaveWeights(tmp_path), strategy="ddp_fork", devices=2)
    for step in range(2):
        first, second = (torch.load(tmp_path / f"{step}-{rank}.pt", weights_only=True) for rank in range(2))
        assert all(torch.equal(first[name], second[name]) for name in previous), "the processes have one policy"
        assert any(not torch.equal(first[name], previous[name]) for name in previous), "which has learnt"
        previous = first
