"""What all clip corpora share, on a corpus that is given as a list of records."""

import logging
import pickle
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from datamodules import clip_dataset, emotions
from datamodules.batch import BadClip, ClipBatch
from datamodules.clip_datamodule import ClipDataModule
from datamodules.clip_dataset import split_validation
from datamodules.clip_source import INSTRUCTION, ClipRecord, ClipSource, Split
from datamodules.media import MediaError
from datamodules.media_settings import MediaSettings, MelSettings

pytestmark = pytest.mark.unit

CLASSES = emotions.DFEW_TAXONOMY.classes


def record(number: int, media: Path | None = None, emotion: str | None = None, split: str = "train") -> ClipRecord:
    target = emotion or CLASSES[number % 7]
    return ClipRecord(f"{number}", str(media) if media else None, target, None, f"{split}.csv:{number}")


class ListCorpus(ClipSource):
    """A corpus whose rows are given."""

    def __init__(self, rows: dict[Split, list[ClipRecord]], **kwargs: Any) -> None:
        super().__init__("/corpus", **kwargs)
        self.rows = rows

    @property
    def taxonomy(self) -> emotions.Taxonomy:
        return emotions.DFEW_TAXONOMY

    @property
    def splits(self) -> tuple[Split, ...]:
        return tuple(self.rows)

    def records(self, split: Split) -> list[ClipRecord]:
        return self.rows[split]


@pytest.fixture
def clips(tmp_path: Path, write_clip: Callable[[Path, int], Path]) -> list[Path]:
    """28 clips, four of each class under `record`."""
    return [write_clip(tmp_path / f"{number}.mp4", number) for number in range(28)]


@pytest.fixture
def corpus(clips: list[Path], settings: MediaSettings) -> Callable[..., ClipDataModule]:
    """A corpus of 21 training and 7 test clips."""

    def make(**kwargs: Any) -> ClipDataModule:
        rows = [record(number, path, split="train" if number < 21 else "test") for number, path in enumerate(clips)]
        return ClipDataModule(ListCorpus({"train": rows[:21], "test": rows[21:]}, media=settings, **kwargs))

    return make


def ids(data: ClipDataModule, name: str) -> list[str]:
    return [row.id for row in data.datasets[name].records]


@pytest.mark.parametrize(
    ("num_devices", "cpus_per_task", "advice"),
    [
        (1, None, None),
        (2, None, "makes 6 loading processes on a node with 4 CPUs, .* data.num_workers to 2"),
        (2, "3", None),
        (2, "2", "makes 6 loading processes on a node with 4 CPUs"),
        (8, None, "makes 24 .* to 0"),
    ],
)
def test_loading_processes_of_a_node_are_counted(
    corpus: Callable[..., ClipDataModule],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    num_devices: int,
    cpus_per_task: str | None,
    advice: str | None,
) -> None:
    """Four CPUs that all processes share, or so many for each task of SLURM."""
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(4))
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)
    if cpus_per_task is not None:
        monkeypatch.setenv("SLURM_CPUS_PER_TASK", cpus_per_task)
    monkeypatch.setattr(logging.getLogger("datamodules.notices"), "propagate", True)
    data = corpus(num_workers=3)
    data.trainer = SimpleNamespace(num_devices=num_devices)
    if advice is None:
        data.setup("fit")
        assert f"{3 * num_devices} loading processes per node, 3 for each of {num_devices} devices" in caplog.text
    else:
        with pytest.warns(UserWarning, match=advice):
            data.setup("fit")


def test_instruction_is_the_papers_with_two_spaces() -> None:
    assert INSTRUCTION == (
        "As an emotional recognition expert; throughout the video, which emotion conveyed by the characters is the "
        "most obvious to you?  Output the thinking process in <think> </think> and final emotion in <answer> </answer> "
        "tags."
    )


def test_validation_is_stratified_and_partitions_the_rows() -> None:
    rows = [record(i, emotion="anger") for i in range(40)] + [record(100 + i, emotion="fear") for i in range(20)]
    training, validation = split_validation(rows, 0.1, seed=0)
    assert Counter(row.target for row in validation) == {"anger": 4, "fear": 2}
    assert sorted(training + validation, key=rows.index) == rows
    assert training == sorted(training, key=rows.index)


def test_validation_keeps_one_clip_of_a_small_class_and_leaves_one_to_train() -> None:
    rows = [record(1, emotion="anger"), record(2, emotion="fear"), record(3, emotion="fear")]
    training, validation = split_validation(rows, 0.1, seed=0)
    assert [row.target for row in validation] == ["fear"]
    assert [row.target for row in training] == ["anger", "fear"]
    assert split_validation(rows, 0.95, seed=0)[0][0].id == "1"


def test_validation_draw_depends_on_the_seed_alone() -> None:
    rows = [record(number) for number in range(140)]
    assert split_validation(rows, 0.2, seed=1) == split_validation(rows, 0.2, seed=1)
    assert split_validation(rows, 0.2, seed=1) != split_validation(rows, 0.2, seed=2)
    without_files = [record(row_number, Path("x.mp4") if row_number % 2 else None) for row_number in range(140)]
    drawn = [row.id for row in split_validation(rows, 0.2, seed=1)[1]]
    assert [row.id for row in split_validation(without_files, 0.2, seed=1)[1]] == drawn


def test_fraction_zero_leaves_no_validation(corpus: Callable[..., ClipDataModule]) -> None:
    data = corpus(validation_fraction=0.0)
    data.setup("fit")
    assert len(ids(data, "train")) == 21
    assert data.val_dataloader() == []
    with pytest.raises(ValueError, match="has 21 training clips, of which none is held out for validation"):
        corpus(validation_fraction=0.0).setup("validate")


def test_validation_never_touches_the_test_split(corpus: Callable[..., ClipDataModule]) -> None:
    data = corpus(validation_fraction=0.4)
    for stage in ("fit", "test"):
        data.setup(stage)
    train, validation, test = (set(ids(data, name)) for name in ("train", "validation", "test"))
    assert len(validation) == 7
    assert not train & validation
    assert train | validation == {f"{number}" for number in range(21)}
    assert test == {f"{number}" for number in range(21, 28)}


def test_batches_carry_the_typed_fields(corpus: Callable[..., ClipDataModule]) -> None:
    data = corpus(eval_batch_size=4)
    data.setup("test")
    first, second = list(data.test_dataloader())
    assert (len(first), len(second)) == (4, 3)
    assert first.frames.shape == (4, 2, 3, 32, 32)
    assert first.frames.dtype == torch.uint8
    assert first.ids == ["21", "22", "23", "24"]
    assert first.targets == [CLASSES[0], CLASSES[1], CLASSES[2], CLASSES[3]]
    assert first.instructions == [INSTRUCTION] * 4
    # Each clip is one grey level, so every row must be its own file: 40, 80, 120, 160 by number % 4.
    expected = [40.0 + 40 * (int(clip_id) % 4) for clip_id in first.ids]
    assert first.frames.float().mean(dim=(1, 2, 3, 4)).tolist() == pytest.approx(expected, abs=4)


def test_clips_without_audio_are_marked_and_counted(corpus: Callable[..., ClipDataModule]) -> None:
    data = corpus()
    data.setup("test")
    (batch,) = data.test_dataloader()
    assert batch.has_audio.tolist() == [False] * 7
    assert batch.waveform_lengths.tolist() == [0] * 7
    assert batch.failures == [None] * 7


def train_order(data: ClipDataModule, epoch: int) -> list[list[str]]:
    loader = data.train_dataloader()
    loader.sampler.set_epoch(epoch)
    return [batch.ids for batch in loader]


def test_training_order_depends_on_seed_and_epoch(corpus: Callable[..., ClipDataModule]) -> None:
    data, again = corpus(batch_size=4, seed=3), corpus(batch_size=4, seed=3)
    for module in (data, again):
        module.setup("fit")
    order = train_order(data, 0)
    assert [len(batch) for batch in order] == [4, 4, 4]  # 14 clips; the two left over are dropped
    assert train_order(again, 0) == order
    assert train_order(data, 1) != order
    other = corpus(batch_size=4, seed=4)
    other.setup("fit")
    assert train_order(other, 0) != order


class Listener(LightningModule):
    """Notes the ids of the training batches of each epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.epochs: dict[int, list[str]] = defaultdict(list)

    def training_step(self, batch: ClipBatch, batch_idx: int) -> Tensor:
        self.epochs[self.current_epoch] += batch.ids
        return self.weight.sum()

    def validation_step(self, batch: ClipBatch, batch_idx: int) -> None:
        assert batch.frames.dtype == torch.uint8

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


def test_trainer_tells_the_sampler_the_epoch(corpus: Callable[..., ClipDataModule], tmp_path: Path) -> None:
    listener = Listener()
    options: dict[str, Any] = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar"), False)
    trainer = Trainer(max_epochs=2, accelerator="cpu", enable_model_summary=False, default_root_dir=tmp_path, **options)
    trainer.fit(listener, datamodule=corpus(batch_size=7, seed=3))
    alone = corpus(batch_size=7, seed=3)
    alone.setup("fit")
    expected = [[clip_id for batch in train_order(alone, epoch) for clip_id in batch] for epoch in (0, 1)]
    assert list(listener.epochs.values()) == expected
    assert sorted(listener.epochs[0]) == sorted(listener.epochs[1])


def test_batch_larger_than_the_training_split_is_refused(corpus: Callable[..., ClipDataModule]) -> None:
    data = corpus(batch_size=15)
    data.setup("fit")
    with pytest.raises(ValueError, match="14 training clips per device, fewer than batch_size=15"):
        data.train_dataloader()


def test_worker_processes_give_the_same_batches(corpus: Callable[..., ClipDataModule]) -> None:
    def batches(num_workers: int) -> list[ClipBatch]:
        data = corpus(batch_size=3, eval_batch_size=3, num_workers=num_workers)
        for stage in ("fit", "test"):
            data.setup(stage)
        return [*data.train_dataloader(), *data.val_dataloader(), *data.test_dataloader()]

    alone, with_workers = batches(0), batches(2)
    assert len(alone) == len(with_workers) > 0
    for left, right in zip(alone, with_workers, strict=True):
        for name, value in vars(left).items():
            other = getattr(right, name)
            assert torch.equal(value, other) if isinstance(value, Tensor) else value == other, name


def test_dataset_survives_pickling(corpus: Callable[..., ClipDataModule]) -> None:
    data = corpus(cache_in_memory=True)
    data.setup("fit")
    copy = pickle.loads(pickle.dumps(data.datasets["train"]))
    assert torch.equal(copy[0].frames, data.datasets["train"][0].frames)


@pytest.mark.parametrize("cached", [True, False])
def test_cache_reads_each_file_once(corpus: Callable[..., ClipDataModule], clips: list[Path], cached: bool) -> None:
    data = corpus(cache_in_memory=cached)
    data.setup("test")
    first = data.datasets["test"][0]
    clips[21].write_bytes(b"")
    second = data.datasets["test"][0]
    assert (second.failure is None) is cached
    assert torch.equal(first.frames, second.frames) is cached


def test_undecodable_clip_is_dropped_from_training_and_kept_in_evaluation(
    corpus: Callable[..., ClipDataModule], clips: list[Path]
) -> None:
    clips[0].write_bytes(b"")
    clips[25].write_bytes(b"words")
    data = corpus(batch_size=21, validation_fraction=0.0)
    data.setup("fit")
    (batch,) = data.train_dataloader()
    assert len(batch) == 20
    assert "0" not in batch.ids
    assert batch.skipped == [BadClip("0", str(clips[0]), "the file has zero bytes")]

    data.setup("test")
    (batch,) = data.test_dataloader()
    assert len(batch) == 7
    failed = batch.ids.index("25")
    assert [i for i, failure in enumerate(batch.failures) if failure] == [failed]
    assert "cannot open the file" in batch.failures[failed]
    assert batch.frames[failed].sum() == 0
    assert not batch.has_audio[failed]
    assert batch.waveform_lengths[failed] == 0
    assert batch.durations_seconds[failed] == 0
    decoded = [i for i in range(len(batch)) if i != failed]
    torch.testing.assert_close(batch.durations_seconds[decoded], torch.full((6,), 0.4))  # 10 frames at 25 per second
    assert batch.targets[failed] == CLASSES[25 % 7]
    assert batch.skipped == []


@pytest.mark.parametrize("num_workers", [0, 1])
def test_undecodable_clip_is_fatal_by_choice_and_named(
    corpus: Callable[..., ClipDataModule], clips: list[Path], num_workers: int
) -> None:
    clips[0].write_bytes(b"")
    data = corpus(batch_size=21, validation_fraction=0.0, on_undecodable="error", num_workers=num_workers)
    data.setup("fit")
    with pytest.raises(MediaError, match=f"{clips[0]}: the file has zero bytes"):
        next(iter(data.train_dataloader()))


def test_evaluation_keeps_an_undecodable_clip_whatever_training_does(
    corpus: Callable[..., ClipDataModule], clips: list[Path]
) -> None:
    clips[25].write_bytes(b"")
    data = corpus(on_undecodable="error")
    data.setup("test")
    (batch,) = data.test_dataloader()
    assert batch.failures[batch.ids.index("25")] == "the file has zero bytes"


def with_missing(corpus: Callable[..., ClipDataModule], missing: set[int], **kwargs: Any) -> ListCorpus:
    data = corpus(**kwargs)
    for split, rows in data.corpus.rows.items():
        data.corpus.rows[split] = [record(int(row.id), split=split) if int(row.id) in missing else row for row in rows]
    return data


def test_training_clips_without_file_are_left_out_with_a_counted_warning(corpus: Callable[..., ClipDataModule]) -> None:
    data = with_missing(corpus, {2, 3, 5, 8}, validation_fraction=0.0)
    with pytest.warns(
        UserWarning, match=r"4 listed clips have no file .*2 \(train.csv:2\), 3 \(.*\.\.\.\. They are left"
    ):
        data.setup("fit")
    assert len(ids(data, "train")) == 17


def test_missing_training_clips_are_fatal_by_choice(corpus: Callable[..., ClipDataModule]) -> None:
    data = with_missing(corpus, {2}, validation_fraction=0.0, on_undecodable="error")
    with pytest.raises(MediaError, match=r"1 listed clips have no file .*2 \(train.csv:2\)"):
        data.setup("fit")


def test_test_clips_without_file_count_as_wrong_answers(corpus: Callable[..., ClipDataModule]) -> None:
    data = with_missing(corpus, {22})
    with pytest.warns(UserWarning, match=r"1 listed clips have no file .*22 \(test.csv:22\)\. They are kept"):
        data.setup("test")
    (batch,) = data.test_dataloader()
    assert len(batch) == 7
    assert batch.failures[1] == "listed in test.csv:22, but there is no such file"


def test_no_file_at_all_is_an_error(corpus: Callable[..., ClipDataModule]) -> None:
    data = with_missing(corpus, set(range(28)))
    with pytest.raises(ValueError, match=r"none of the 7 listed clips has a file under /corpus.*21 \(test.csv:21\)"):
        data.setup("test")


def test_clip_listed_twice_is_named_with_both_rows() -> None:
    rows = [record(1), record(2), ClipRecord("1", None, "anger", None, "train.csv:9")]
    with pytest.raises(ValueError, match=r"'1' is listed twice: train.csv:1 and train.csv:9"):
        ClipDataModule(ListCorpus({"train": rows})).setup("fit")


@pytest.mark.parametrize("stage", ["fit", "validate", "test"])
def test_clip_in_train_and_test_is_named_with_both_rows(stage: str) -> None:
    rows = {"train": [record(1), record(2)], "test": [record(3, split="test"), record(2, split="test")]}
    with pytest.raises(ValueError, match=r"1 clips are in both .*'2': train.csv:2 and test.csv:2"):
        ClipDataModule(ListCorpus(rows)).setup(stage)


def test_empty_split_is_an_error() -> None:
    with pytest.raises(ValueError, match="/corpus: the train split lists no clips"):
        ClipDataModule(ListCorpus({"train": []})).setup("fit")


def test_split_that_a_corpus_lacks_is_named() -> None:
    with pytest.raises(ValueError, match="ListCorpus at /corpus has no test split"):
        ClipDataModule(ListCorpus({"train": [record(1)]})).setup("test")


def test_limit_draws_the_same_clips_each_time(corpus: Callable[..., ClipDataModule]) -> None:
    data, again = corpus(limit=5), corpus(limit=5)
    for module in (data, again):
        module.setup("fit")
        module.setup("test")
    for name in ("train", "validation", "test"):
        assert ids(data, name) == ids(again, name) == sorted(ids(data, name), key=int)
        assert len(ids(data, name)) == 5


def test_setup_logs_clips_per_class(corpus: Callable[..., ClipDataModule], caplog: pytest.LogCaptureFixture) -> None:
    data = corpus()
    with caplog.at_level(logging.INFO):
        data.setup("test")
    assert "ListCorpus test: 7 clips (happiness 1, sadness 1, neutral 1, anger 1" in caplog.text


@pytest.mark.parametrize("wrong", [{"validation_fraction": 1.0}, {"validation_fraction": -0.1}, {"limit": 0}])
def test_impossible_arguments_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ListCorpus({"train": []}, **wrong)


def test_two_processes_share_the_test_clips_without_repeats(corpus: Callable[..., ClipDataModule]) -> None:
    seen: list[list[str]] = []
    for rank in (0, 1):
        data = corpus(batch_size=2, eval_batch_size=2)
        data.trainer = SimpleNamespace(world_size=2, num_devices=2, global_rank=rank)
        data.setup("fit")
        data.setup("test")
        seen.append([clip_id for batch in data.test_dataloader() for clip_id in batch.ids])
        assert len(data.train_dataloader().sampler) == 7
    assert sorted(seen[0] + seen[1]) == [f"{number}" for number in range(21, 28)]


@pytest.mark.e2e
def test_importing_the_data_modules_does_not_load_ffmpeg() -> None:
    code = "import sys, datamodules.dfew, datamodules.emer; sys.exit('torchcodec' in sys.modules)"
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0


def test_classes_are_drawn_equally_often_by_choice(clips: list[Path], settings: MediaSettings) -> None:
    rows = [record(number, path, "fear" if number < 3 else "anger") for number, path in enumerate(clips)]
    data = ClipDataModule(ListCorpus({"train": rows}, media=settings, validation_fraction=0.0, balance_classes=True))
    data.setup("fit")
    counts = Counter(rows[position].target for position in data.train_dataloader().sampler)
    assert counts == {"fear": 14, "anger": 14}


def test_mel_features_are_computed_in_the_loader_for_failed_clips_too(
    corpus: Callable[..., ClipDataModule], clips: list[Path], settings: MediaSettings
) -> None:
    clips[25].write_bytes(b"")
    data = corpus()
    data.corpus.media = replace(settings, mel=MelSettings(num_bins=80, seconds=1))
    data.setup("test")
    (batch,) = data.test_dataloader()
    assert batch.mel.shape == (7, 80, 100)
    # None of these clips has sound.
    assert batch.mel.unique().tolist() == [-1.5]


def test_batch_without_mel_settings_has_no_features(corpus: Callable[..., ClipDataModule]) -> None:
    data = corpus()
    data.setup("test")
    assert next(iter(data.test_dataloader())).mel is None


@pytest.mark.parametrize("num_workers", [0, 2])
def test_cached_clips_are_not_decoded_again(
    corpus: Callable[..., ClipDataModule], tmp_path: Path, num_workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def batches() -> list[ClipBatch]:
        data = corpus(cache_dir=str(tmp_path / "cache"), num_workers=num_workers)
        data.setup("test")
        return list(data.test_dataloader())

    (first,) = batches()
    monkeypatch.setattr(clip_dataset, "decode_clip", None)  # workers are forked, and see this too
    (second,) = batches()
    assert torch.equal(first.frames, second.frames)
    assert first.failures == second.failures == [None] * 7


@pytest.mark.e2e
def test_a_spawned_worker_loads_what_a_forked_one_does(corpus: Callable[..., ClipDataModule], tmp_path: Path) -> None:
    """Systems that spawn processes send them everything pickled (macOS, and Linux from Python 3.14 on)."""
    data = corpus(num_workers=1, cache_dir=str(tmp_path / "cache"))
    data.setup("test")
    loader = data.test_dataloader()
    loader.multiprocessing_context = "spawn"
    (spawned,) = loader
    assert len(list((tmp_path / "cache").rglob("*.safetensors"))) == 7
    (tmp_path / "cache").rename(tmp_path / "of_the_spawned_worker")
    (forked,) = data.test_dataloader()
    assert torch.equal(spawned.frames, forked.frames) and spawned.ids == forked.ids
    assert spawned.failures == [None] * 7


def test_bad_rows_are_listed_where_problems_are_collected(corpus: Callable[..., ClipDataModule]) -> None:
    data = corpus()
    data.corpus.rows["train"] = data.corpus.rows["train"] + [data.corpus.rows["train"][0], data.corpus.rows["test"][0]]
    data.corpus.problems = []
    rows = data.corpus.read_splits()
    assert len(rows["train"]) == 22
    (problem,) = data.corpus.problems
    assert "listed twice" in problem


def test_resumed_run_sees_the_clips_that_the_killed_one_would_have(
    corpus: Callable[..., ClipDataModule], tmp_path: Path
) -> None:
    def train(directory: Path, max_steps: int, ckpt_path: Path | None = None) -> dict[int, list[str]]:
        listener = Listener()
        checkpoint = ModelCheckpoint(directory, save_last=True, every_n_train_steps=1)
        trainer = Trainer(
            max_steps=max_steps,
            max_epochs=3,
            accelerator="cpu",
            callbacks=[checkpoint],
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(listener, datamodule=corpus(batch_size=3, seed=3), ckpt_path=ckpt_path, weights_only=True)
        return listener.epochs

    whole = train(tmp_path / "whole", max_steps=10)
    assert [len(whole[epoch]) for epoch in range(3)] == [12, 12, 6]
    first = train(tmp_path / "killed", max_steps=6)
    second = train(tmp_path / "resumed", max_steps=10, ckpt_path=tmp_path / "killed" / "last.ckpt")
    assert first == {0: whole[0], 1: whole[1][:6]}
    assert second == {1: whole[1][6:], 2: whole[2]}
