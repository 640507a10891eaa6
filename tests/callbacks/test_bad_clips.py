"""The budget for clips that cannot be loaded: what it writes, when it ends a run, and that no process waits in vain."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, LightningDataModule, LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from callbacks.bad_clips import BAD_CLIPS_FILE, BadClipBudget, BadClipBudgetError
from datamodules import clip_dataset, emotions
from datamodules.batch import Clip, ClipBatch, collate
from datamodules.clip_datamodule import ClipDataModule
from datamodules.clip_source import ClipRecord, ClipSource, Split
from datamodules.media_settings import MediaSettings

pytestmark = pytest.mark.e2e

GOLDEN_CLIP = Path(__file__).parents[1] / "golden" / "preprocess" / "av_stereo44k.mp4"


class Weight(LightningModule):
    """One weight, moved by every batch, also by an empty one."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.num_steps = 0

    def training_step(self, batch: ClipBatch, batch_idx: int) -> Tensor:
        self.num_steps += 1
        return self.weight.sum()

    def test_step(self, batch: ClipBatch, batch_idx: int) -> None: ...

    validation_step = test_step

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1.0)


class Batches(LightningDataModule):
    """Ready-made batches, for one process or a list of them for each."""

    def __init__(self, *batches: Sequence[ClipBatch]) -> None:
        super().__init__()
        self.batches = batches

    def train_dataloader(self) -> DataLoader:
        rank = self.trainer.global_rank if len(self.batches) > 1 else 0
        return DataLoader(self.batches[rank], batch_size=None, collate_fn=lambda batch: batch)

    test_dataloader = train_dataloader


@pytest.fixture
def make_trainer(tmp_path: Path) -> Callable[..., Trainer]:
    def make(*callbacks: Callback, **options: Any) -> Trainer:
        return Trainer(
            accelerator="cpu",
            default_root_dir=tmp_path / "run",
            callbacks=list(callbacks),
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            **{"max_epochs": 1, **options},
        )

    return make


@pytest.fixture
def make_batch(make_clip: Callable[..., Clip]) -> Callable[..., ClipBatch]:
    """A batch of the clips of some numbers; those above 99 have failed."""

    def make(*numbers: int, training: bool = True) -> ClipBatch:
        clips = [make_clip(n % 10, id=f"{n}", media=f"{n}.mp4", failure="broken" if n > 99 else None) for n in numbers]
        return collate(clips, drop_failures=training)

    return make


def rows(tmp_path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (tmp_path / "run" / BAD_CLIPS_FILE).read_text().splitlines()]


def test_a_run_within_the_budget_finishes_and_lists_each_clip_once(
    make_trainer: Callable[..., Trainer],
    make_batch: Callable[..., ClipBatch],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    data = Batches([make_batch(0, 1), make_batch(2, 100), make_batch(101, 102)])
    trainer = make_trainer(BadClipBudget(max_share=0.5, min_clips=6), max_epochs=2)
    trainer.fit(Weight(), datamodule=data)
    common = {"reason": "broken", "stage": "train", "epoch": 0, "count": 2}
    assert rows(tmp_path) == [
        {"media": f"{n}.mp4", "id": f"{n}", "step": step, **common} for n, step in ((100, 1), (101, 2), (102, 2))
    ]
    out, err = capfd.readouterr()
    assert out.count("Bad clip in train, epoch 0, step 2: 101.mp4: broken") == 1
    assert "Clips that could not be loaded: 3 (6 failures among 12 clips seen)" in err


def test_a_later_run_in_the_directory_leaves_no_old_clips(
    make_trainer: Callable[..., Trainer], make_batch: Callable[..., ClipBatch], tmp_path: Path
) -> None:
    for numbers in ((0, 100), (0, 1)):
        make_trainer(BadClipBudget()).fit(Weight(), datamodule=Batches([make_batch(*numbers)]))
    assert rows(tmp_path) == []


@pytest.mark.parametrize(
    ("budget", "numbers", "num_steps", "message"),
    [
        # The share is judged from the sixth clip on: 2 of 6.
        ({"max_share": 0.3, "min_clips": 6}, [(100, 0), (1, 101), (2, 3), (4, 5)], 2, r"2 of 6 clips seen \(33.3%\)"),
        ({"max_share": 1.0, "min_clips": 4}, [(0, 1), (100, 101), (102, 103)], 2, "The last 4 clips of one process"),
        # The same clip again is no other clip.
        ({"max_clips": 1}, [(0, 100), (1, 100), (2, 101)], 2, "2 different clips could not be loaded; allowed are 1"),
        ({}, [(100, 101), (102, 103)], 2, "None of 4 clips could be loaded"),
    ],
)
def test_a_run_beyond_the_budget_ends_with_what_happened(
    make_trainer: Callable[..., Trainer],
    make_batch: Callable[..., ClipBatch],
    tmp_path: Path,
    budget: dict[str, Any],
    numbers: list[tuple[int, ...]],
    num_steps: int,
    message: str,
) -> None:
    module = Weight()
    with pytest.raises(BadClipBudgetError, match=rf"{message}.* Most frequent: broken, e\.g\. 100\.mp4.*bad_clips"):
        make_trainer(BadClipBudget(**budget)).fit(module, datamodule=Batches([make_batch(*own) for own in numbers]))
    assert module.num_steps == num_steps
    assert rows(tmp_path)[0]["media"] == "100.mp4"


def test_evaluation_counts_too_but_not_rows_without_a_file(
    make_trainer: Callable[..., Trainer], make_clip: Callable[..., Clip], make_batch: Callable[..., ClipBatch]
) -> None:
    never_there = collate([make_clip(0, media="", failure="listed, but there is no such file")] * 4)
    budget = BadClipBudget(max_clips=0)
    make_trainer(budget).test(Weight(), datamodule=Batches([never_there]), verbose=False)
    data = Batches([never_there, make_batch(0, 100, training=False)])
    with pytest.raises(BadClipBudgetError, match="1 different clips"):
        make_trainer(budget).test(Weight(), datamodule=data, verbose=False)


def test_a_resumed_run_goes_on_counting_and_an_evaluation_begins_anew(
    make_trainer: Callable[..., Trainer], make_batch: Callable[..., ClipBatch], tmp_path: Path
) -> None:
    checkpoint = tmp_path / "half.ckpt"
    data = Batches([make_batch(0, 100)])
    trainer = make_trainer(BadClipBudget(max_share=1.0))
    trainer.fit(Weight(), datamodule=data)
    trainer.save_checkpoint(checkpoint)
    resumed = make_trainer(BadClipBudget(max_share=1.0, max_clips=1), max_epochs=2)
    resumed.fit(Weight(), datamodule=data, ckpt_path=checkpoint, weights_only=True)
    assert [(row["media"], row["count"]) for row in rows(tmp_path)] == [("100.mp4", 2)]
    with pytest.raises(BadClipBudgetError, match="2 different clips"):
        make_trainer(BadClipBudget(max_clips=1), max_epochs=2).fit(
            Weight(), datamodule=Batches([make_batch(0, 101)]), ckpt_path=checkpoint, weights_only=True
        )
    test = make_trainer(BadClipBudget(max_clips=1))
    test.test(Weight(), datamodule=Batches([make_batch(0, 101)]), ckpt_path=checkpoint, weights_only=True)
    assert [row["media"] for row in rows(tmp_path)] == ["101.mp4"]


class Folder(ClipSource):
    """Forty copies of one clip."""

    taxonomy = emotions.DFEW_TAXONOMY

    @property
    def splits(self) -> tuple[Split, ...]:
        return ("train",)

    def records(self, split: Split) -> list[ClipRecord]:
        paths = [self.root / f"{i}.mp4" for i in range(40)]
        return [ClipRecord(path.stem, str(path), "anger", None, f"train.csv:{path.stem}") for path in paths]


class Unmount(Callback):
    """Takes the directory away after five batches, and brings it back after the batch of an index."""

    def __init__(self, root: Path, back_after: int | None = None) -> None:
        self.root, self.elsewhere, self.back_after = root, root.with_name("elsewhere"), back_after

    def on_train_batch_end(self, *args: Any) -> None:
        if args[-1] == 4:
            self.root.rename(self.elsewhere)
        elif args[-1] == self.back_after:
            self.elsewhere.rename(self.root)


@pytest.fixture
def mount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of forty clips."""
    monkeypatch.setattr(clip_dataset, "RETRY_PAUSE_SECONDS", 0.0)
    root = tmp_path / "mount"
    root.mkdir()
    for number in range(40):
        (root / f"{number}.mp4").write_bytes(GOLDEN_CLIP.read_bytes())
    return root


def folder(root: Path, num_workers: int) -> ClipDataModule:
    media = MediaSettings(num_frames=2, image_size=32, max_audio_seconds=1.0)
    return ClipDataModule(
        Folder(str(root), batch_size=2, num_workers=num_workers, media=media, validation_fraction=0.0)
    )


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_mount_that_comes_back_costs_the_clips_of_the_time_between(
    make_trainer: Callable[..., Trainer], tmp_path: Path, mount: Path, num_workers: int
) -> None:
    module = Weight()
    callbacks = Unmount(mount, back_after=9), BadClipBudget(max_share=1.0, min_clips=20)
    make_trainer(*callbacks).fit(module, datamodule=folder(mount, num_workers))
    assert module.num_steps == 20
    # Ten clips of five batches are asked for meanwhile; workers are ahead, by up to two batches each.
    assert {row["reason"] for row in rows(tmp_path)} == {"no such file"}
    assert len(rows(tmp_path)) == 10 if num_workers == 0 else 2 <= len(rows(tmp_path)) <= 18


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_mount_that_vanishes_ends_the_run_within_the_budget(
    make_trainer: Callable[..., Trainer], tmp_path: Path, mount: Path, num_workers: int
) -> None:
    module = Weight()
    with pytest.raises(BadClipBudgetError, match="The last 8 clips of one process have all failed.*no such file"):
        make_trainer(Unmount(mount), BadClipBudget(max_share=1.0, min_clips=8)).fit(
            module, datamodule=folder(mount, num_workers)
        )
    num_prefetched = 2 * num_workers
    assert 5 + 3 <= module.num_steps <= 5 + 3 + num_prefetched
    # The mount may vanish while a worker is within a batch, whose first clip is then still good.
    assert 8 <= len(rows(tmp_path)) <= 8 + num_workers + 1


@pytest.fixture
def one_thread() -> Iterator[None]:
    """A forked process must not look for the threads of its parent's OpenMP pool."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.timeout(120)
def test_two_processes_count_together(
    make_trainer: Callable[..., Trainer], make_batch: Callable[..., ClipBatch], tmp_path: Path
) -> None:
    first, second = [make_batch(0, 1), make_batch(2, 3)], [make_batch(100, 101), make_batch(4, 101)]
    trainer = make_trainer(BadClipBudget(max_share=0.5, min_clips=8), strategy="ddp_fork", devices=2)
    trainer.fit(Weight(), datamodule=Batches(first, second))
    assert [(row["media"], row["count"]) for row in rows(tmp_path)] == [("100.mp4", 1), ("101.mp4", 2)]


@pytest.mark.usefixtures("one_thread")
@pytest.mark.timeout(120)
@pytest.mark.parametrize("run", ["fit", "test"])
def test_two_processes_stop_together(
    make_trainer: Callable[..., Trainer], make_batch: Callable[..., ClipBatch], tmp_path: Path, run: str
) -> None:
    training = run == "fit"
    good, bad = make_batch(0, 1), make_batch(100, 101, training=training)
    trainer = make_trainer(BadClipBudget(max_clips=1), strategy="ddp_fork", devices=2)
    # In the test, one process has a batch more than the other, and it is the one that is bad.
    data = Batches([good, good], [good, bad] if training else [good, good, bad])
    with pytest.raises(Exception, match="2 different clips could not be loaded; allowed are 1"):
        getattr(trainer, run)(Weight(), datamodule=data)
    assert [row["media"] for row in rows(tmp_path)] == ["100.mp4", "101.mp4"]


@pytest.mark.parametrize("wrong", [{"max_share": 1.5}, {"min_clips": 0}, {"max_clips": -1}])
def test_impossible_budgets_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        BadClipBudget(**wrong)
