"""A run goes on in mid-epoch with another batch size: each item once, counters and learning rates of the new measure.

Other numbers of processes: tests/lightning_modules/test_processes_elastic.py.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import LightningModule, Trainer
from torch.utils.data import Dataset

from callbacks.checkpointing.run_checkpoint import RunCheckpoint
from datamodules.loader import ResumableLoader
from datamodules.samplers import EpochSampler
from lightning_modules.optimizer import scheduled

pytestmark = pytest.mark.unit

NUM_ITEMS = 24
NUM_EPOCHS = 4


class Numbers(Dataset):
    """Items that are their own index."""

    def __len__(self) -> int:
        return NUM_ITEMS

    def __getitem__(self, index: int) -> int:
        return index


class Recorder(LightningModule):
    """Notes what each training step sees, by epoch, and the learning rate of each optimizer step."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.items: dict[int, list[int]] = {}
        self.batch_indices: dict[int, list[int]] = {}
        self.rates: list[float] = []
        self.validated_after: list[tuple[int, int]] = []

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        self.items.setdefault(self.current_epoch, []).extend(batch.tolist())
        self.batch_indices.setdefault(self.current_epoch, []).append(batch_idx)
        return self.weight * batch.sum()

    def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        self.validated_after.append((self.current_epoch, len(self.batch_indices.get(self.current_epoch, []))))

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        self.rates.append(optimizer.param_groups[0]["lr"])

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=1.0)
        return scheduled(optimizer, "linear", 0.0, self.trainer.estimated_stepping_batches)


class StopAfter(RunCheckpoint):
    """A run that is cut off right after so many optimizer steps, and their checkpoint."""

    def __init__(self, steps: int | None) -> None:
        super().__init__(every_n_steps=1, every_n_minutes=None, keep=99)
        self.steps = steps

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == self.steps:
            raise KeyboardInterrupt


def fit(
    directory: Path, batch_size: int, stop: int | None = None, start: int | None = None, **options: Any
) -> Recorder:
    """Train on batches of a size from the checkpoint of step `start` on, and up to step `stop`."""
    model = Recorder()
    trainer = Trainer(
        accelerator="cpu",
        default_root_dir=directory,
        callbacks=[StopAfter(stop)],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **{"max_epochs": NUM_EPOCHS, **options},
    )
    train = ResumableLoader(Numbers(), batch_size=batch_size, sampler=EpochSampler(Numbers(), seed=3), drop_last=True)
    path = None if start is None else directory / f"checkpoints/step={start:08d}.ckpt"
    validation = torch.utils.data.DataLoader([0]) if "val_check_interval" in options else None
    if stop is None:
        trainer.fit(model, train, validation, ckpt_path=path, weights_only=True)
        return model
    with pytest.raises(SystemExit):
        trainer.fit(model, train, validation, ckpt_path=path, weights_only=True)
    return model


def test_every_item_of_the_epoch_is_seen_once(tmp_path: Path) -> None:
    whole = fit(tmp_path / "whole", 4)
    first = fit(tmp_path, 4, stop=2)
    with pytest.warns(UserWarning, match=r"after 8 of the 24 items of epoch 0, .* of 4 to 1 .* 8 batch\(es\) of 2 to "):
        second = fit(tmp_path, 2, start=2, stop=5)
    with pytest.warns(UserWarning, match=r"after 14 of the 24 items of epoch 0, .* batches of 2 .* 2 batch\(es\) of 5"):
        third = fit(tmp_path, 5, start=5)
    parts = [model.items[0] for model in (first, second, third)]
    assert [len(part) for part in parts] == [8, 6, 10]
    assert [item for part in parts for item in part] == whole.items[0], "in the epoch's order"
    assert (second.batch_indices[0], third.batch_indices[0]) == ([4, 5, 6], [2, 3])
    assert [len(third.items[epoch]) for epoch in (1, 2, 3)] == [20] * 3, "24 items make four batches of 5"
    assert third.items[1] == whole.items[1][:20]


def test_what_fills_no_batch_is_left_out_as_at_the_end_of_any_epoch(tmp_path: Path) -> None:
    fit(tmp_path, 4, stop=5)
    with pytest.warns(UserWarning, match=r" 0 batch\(es\) of 8"):
        rest = fit(tmp_path, 8, start=5, stop=7)
    assert list(rest.items) == [1] and len(rest.items[1]) == 16
    again = fit(tmp_path, 8, start=7)
    assert {epoch: len(items) for epoch, items in again.items.items()} == {1: 8, 2: 24, 3: 24}
    assert again.batch_indices[1] == [2]
    from_the_end = fit(tmp_path, 8, start=5)  # by now of the end of epoch 0, which had no batch of its own
    assert {epoch: len(items) for epoch, items in from_the_end.items.items()} == {1: 24, 2: 24, 3: 24}
    assert from_the_end.rates == rest.rates + again.rates


@pytest.mark.parametrize("stop", [2, 6, 12])
def test_an_epoch_that_is_over_is_over(tmp_path: Path, stop: int) -> None:
    """Checkpoints in the middle of an epoch, and at the end of the first and of the second."""
    fit(tmp_path, 4, stop=stop)
    rest = fit(tmp_path, 3, start=stop)
    epoch, within = divmod(stop, 6)
    assert {epoch: len(items) for epoch, items in rest.items.items()} == {
        e: NUM_ITEMS - (4 * within if e == epoch else 0) - (1 if within and e == epoch else 0)
        for e in range(epoch, NUM_EPOCHS)
    }


def test_learning_rates_keep_their_place_in_the_run(tmp_path: Path) -> None:
    first = fit(tmp_path, 4, stop=9)  # 1.5 of 4 epochs
    assert first.rates == pytest.approx([1 - step / 24 for step in range(9)])
    with pytest.warns(UserWarning, match="had 6 optimizer steps .* has 12 now: .* its step 18 instead of 9"):
        rest = fit(tmp_path, 2, start=9)
    assert rest.rates == pytest.approx([1 - step / 48 for step in range(18, 48)])
    assert first.rates[-1] > rest.rates[0] > rest.rates[-1] > 0


def test_a_run_that_max_steps_ends_keeps_its_schedule(tmp_path: Path) -> None:
    fit(tmp_path, 4, stop=3, max_steps=20)
    rest = fit(tmp_path, 2, start=3, max_steps=20)
    assert rest.rates == pytest.approx([1 - step / 20 for step in range(3, 20)])


def test_accumulated_batches_and_validations_are_counted_anew(tmp_path: Path) -> None:
    """Batches of 4, two to a step, became batches of 2, four to a step: nothing has changed but what a batch is."""
    fit(tmp_path, 4, stop=2, accumulate_grad_batches=2, val_check_interval=0.5)
    rest = fit(tmp_path, 2, start=2, accumulate_grad_batches=4, val_check_interval=0.5)
    assert rest.batch_indices[0] == [8, 9, 10, 11]
    assert len(rest.rates) == 1 + 3 * 3
    assert rest.rates == pytest.approx([1 - step / 12 for step in range(2, 12)])
    assert rest.validated_after == [(0, 4), *((epoch, count) for epoch in (1, 2, 3) for count in (6, 12))]
