"""An interrupted run sees the batches of an uninterrupted one: real Trainers, stopped and continued by checkpoint."""

from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import Dataset

from datamodules.clip_source import balanced_shares
from datamodules.loader import ResumableLoader
from datamodules.samplers import EpochSampler, GroupSampler

pytestmark = pytest.mark.e2e

NUM_ITEMS = 11
BATCH_SIZE = 2
NUM_BATCHES = 6  # the last one holds a single item


class Numbers(Dataset):
    """Items that are their own index, and note who was loaded in this process."""

    def __init__(self, num_items: int = NUM_ITEMS) -> None:
        self.num_items = num_items
        self.loaded: list[int] = []

    def __len__(self) -> int:
        return self.num_items

    def __getitem__(self, index: int) -> int:
        self.loaded.append(index)
        return index


class Recorder(LightningModule):
    """Notes the items and the batch index of each training step, by epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: dict[int, list[list[int]]] = defaultdict(list)
        self.batch_indices: dict[int, list[int]] = defaultdict(list)
        self.num_validations = 0

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        self.seen[self.current_epoch].append(batch.tolist())
        self.batch_indices[self.current_epoch].append(batch_idx)
        return self.weight * batch.sum()

    def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        self.num_validations += 1

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def loader(num_workers: int = 0, drop_last: bool = False, sampler: EpochSampler | None = None) -> ResumableLoader:
    return ResumableLoader(
        Numbers(),
        batch_size=BATCH_SIZE,
        sampler=sampler or EpochSampler(Numbers(), seed=3),
        drop_last=drop_last,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
    )


def fit(
    directory: Path,
    train: ResumableLoader,
    ckpt_path: Path | None = None,
    checkpoint: dict[str, Any] | None = None,
    validate: bool = False,
    **options: Any,
) -> Recorder:
    model = Recorder()
    callbacks = [ModelCheckpoint(directory, filename="{step}", save_top_k=-1, **checkpoint)] if checkpoint else []
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        callbacks=callbacks,
        enable_checkpointing=bool(callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    validation = ResumableLoader(Numbers(2), batch_size=2) if validate else None
    trainer.fit(model, train, validation, ckpt_path=ckpt_path, weights_only=True if ckpt_path else None)
    return model


def joined(*models: Recorder) -> dict[int, list[list[int]]]:
    seen: dict[int, list[list[int]]] = defaultdict(list)
    for model in models:
        for epoch, batches in model.seen.items():
            seen[epoch] += batches
    return seen


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("stop", [1, 4, 6, 7, 12])
def test_run_stopped_after_a_step_continues_with_the_next_batch(tmp_path: Path, num_workers: int, stop: int) -> None:
    whole = fit(tmp_path, loader(num_workers), max_epochs=3)
    every_step = {"every_n_train_steps": 1}
    first = fit(tmp_path, loader(num_workers), max_epochs=3, max_steps=stop, checkpoint=every_step)
    second = fit(tmp_path, loader(num_workers), tmp_path / f"step={stop}.ckpt", max_epochs=3)
    assert joined(first, second) == whole.seen
    assert [len(batches) for batches in whole.seen.values()] == [NUM_BATCHES] * 3
    assert whole.seen[0] != whole.seen[1]
    epoch, place = divmod(stop, NUM_BATCHES)
    assert second.batch_indices[epoch] == list(range(place, NUM_BATCHES))


STEP = {"every_n_train_steps": 1}
VALIDATION = {"every_n_epochs": 1, "save_on_train_epoch_end": False}
EPOCH = {"every_n_epochs": 1, "save_on_train_epoch_end": True}


@pytest.mark.parametrize(
    ("checkpoint", "options"),
    [
        (STEP, {"accumulate_grad_batches": 2}),
        (STEP, {"limit_train_batches": 4}),
        (STEP, {"max_steps": 10}),
        (STEP, {"validate": True}),
        (STEP, {"validate": True, "val_check_interval": 2}),
        (VALIDATION, {"validate": True}),
        (VALIDATION, {"validate": True, "val_check_interval": 2}),
        (VALIDATION, {"validate": True, "val_check_interval": 2, "max_steps": 10}),
        (EPOCH, {}),
        (EPOCH, {"validate": True, "limit_train_batches": 4}),
        pytest.param(
            EPOCH,
            {"max_steps": 10},
            marks=pytest.mark.xfail(
                reason="With max_steps, Lightning 2.6 does not see that the epoch of an epoch-end checkpoint is over, "
                "and ends the next one after one batch; with any loader (like Lightning-AI/pytorch-lightning#19617)."
            ),
        ),
    ],
)
def test_run_continues_from_every_checkpoint_that_a_trainer_writes(
    tmp_path: Path, checkpoint: dict[str, Any], options: dict[str, Any]
) -> None:
    options = {"max_epochs": 2, **options}
    whole = fit(tmp_path, loader(), checkpoint=checkpoint, **options)
    checkpoints = sorted(tmp_path.glob("*.ckpt"))
    assert checkpoints
    for path in checkpoints:
        rest = fit(tmp_path, loader(), path, **options)
        for epoch, batches in rest.seen.items():
            assert batches == whole.seen[epoch][-len(batches) :], path.name
            assert rest.batch_indices[epoch] == whole.batch_indices[epoch][-len(batches) :], path.name
        num_trained = sum(map(len, whole.seen.values())) - sum(map(len, rest.seen.values()))
        saved = torch.load(path, weights_only=True)["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"]
        assert num_trained == saved["ready"], path.name


def test_skipped_items_are_not_loaded() -> None:
    first = loader()
    batches = iter(first)
    handed_out = [next(batches).tolist() for _ in range(4)]
    second = loader()
    second.load_state_dict(first.state_dict())
    rest = [batch.tolist() for batch in second]
    assert second.dataset.loaded == [item for batch in rest for item in batch]
    assert handed_out + rest == [batch.tolist() for batch in loader()]
    assert len(second) == NUM_BATCHES


def test_state_counts_batches_handed_out_and_not_those_prefetched() -> None:
    train = loader(num_workers=2)
    batches = iter(train)
    next(batches)
    assert train.state_dict()["num_batches"] == 1
    next(batches)
    assert train.state_dict()["num_batches"] == 2


def test_only_the_first_iteration_after_loading_is_entered_in_the_middle() -> None:
    first = loader()
    next(iter(first))
    second = loader()
    second.load_state_dict(first.state_dict())
    assert second.state_dict() == first.state_dict()
    assert [len(list(second)) for _ in range(3)] == [NUM_BATCHES - 1, NUM_BATCHES, NUM_BATCHES]


def test_state_of_an_epoch_that_is_over_is_not_applied_to_the_next() -> None:
    first = loader()
    next(iter(first))
    second = loader()
    second.load_state_dict(first.state_dict())
    second.sampler.set_epoch(1)
    assert len(list(second)) == NUM_BATCHES


def test_state_of_the_writing_process_continues_every_process() -> None:
    def of_rank(rank: int, drop_last: bool) -> ResumableLoader:
        return loader(sampler=EpochSampler(Numbers(), num_replicas=2, rank=rank, seed=3), drop_last=drop_last)

    for drop_last in (False, True):
        writer = of_rank(0, drop_last)
        batches = iter(writer)
        next(batches), next(batches)
        for rank in (0, 1):
            continued = of_rank(rank, drop_last)
            continued.load_state_dict(writer.state_dict())
            whole = [batch.tolist() for batch in of_rank(rank, drop_last)]
            assert [batch.tolist() for batch in continued] == whole[2:]
            assert whole[2:]


def test_balanced_order_is_continued(tmp_path: Path) -> None:
    groups = ["rare"] * 2 + ["frequent"] * (NUM_ITEMS - 2)

    def balanced() -> ResumableLoader:
        return loader(sampler=GroupSampler(groups, balanced_shares(groups), seed=3))

    whole = fit(tmp_path, balanced(), max_epochs=2)
    first = fit(tmp_path, balanced(), max_epochs=2, max_steps=8, checkpoint=STEP)
    second = fit(tmp_path, balanced(), tmp_path / "step=8.ckpt", max_epochs=2)
    assert joined(first, second) == whole.seen


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        (ResumableLoader(Numbers(), batch_size=3, sampler=EpochSampler(Numbers(), seed=3)), r"batch_size=2 \(now 3\)"),
        (loader(sampler=EpochSampler(Numbers(), seed=4)), r"seed=3 \(now 4\)"),
        (loader(sampler=EpochSampler(Numbers(10), seed=3)), r"num_items=11 \(now 10\)"),
        (loader(sampler=EpochSampler(Numbers(), num_replicas=2, seed=3)), r"num_processes=1 \(now 2\)"),
        (loader(sampler=GroupSampler([0, 1] + [2] * 9, {0: 1, 1: 1, 2: 1}, seed=3)), r"draws=None \(now \d+\)"),
    ],
)
def test_changed_order_is_refused_in_the_middle_of_an_epoch(changed: ResumableLoader, named: str) -> None:
    first = loader()
    next(iter(first))
    changed.load_state_dict(first.state_dict())
    with pytest.raises(ValueError, match=rf"1 batches of epoch 0 .*{named}.*end of an epoch"):
        next(iter(changed))


def test_lightning_may_replace_the_sampler(tmp_path: Path) -> None:
    """With `overfit_batches` Lightning makes a new loader, in dataset order; there is no place to resume at."""
    model = fit(tmp_path, loader(), overfit_batches=2, max_epochs=2, checkpoint=STEP)
    assert model.seen == {0: [[0, 1], [2, 3]], 1: [[0, 1], [2, 3]]}
    continued = fit(tmp_path, loader(), tmp_path / "step=2.ckpt", overfit_batches=2, max_epochs=2)
    assert continued.seen == {1: [[0, 1], [2, 3]]}
