"""A run directory: one run at a time, results that belong to the configuration beside them, a part never for all."""

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from lightning import Trainer
from torch.utils.data import DataLoader

import main
from callbacks.prediction_writer import PredictionWriter
from callbacks.run_directory import EARLIER, LOCK_FILE, RunDirectoryError, own_run_directory
from callbacks.run_record import RunRecord
from datamodules.batch import Clip, collate
from lightning_modules.backbones.composed import ComposedBackbone
from lightning_modules.backbones.interface import Sampling
from lightning_modules.policy import PolicyModule

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
VERIFIER = f"{ROOT}/tests/golden/tiny_verifier"
EMOTIONS = (["anger"], ["joy"], ["neutral"])


def stack(*names: str) -> list[str]:
    return [argument for name in names for argument in ("-c", str(ROOT / "configs" / f"{name}.yaml"))]


@pytest.fixture
def stage(tmp_path: Path) -> Callable[..., Path]:
    """Run a stage of the tiny verifier in a directory of a name, on nine sentences, one to a batch."""
    sentences = tmp_path / "sentences.jsonl"
    rows = [{"text": f"He says it {i} times.", "emotions": EMOTIONS[i % 3]} for i in range(9)]
    sentences.write_text("".join(f"{json.dumps(row)}\n" for row in rows))

    def run(command: str, name: str, *options: str, path: str = VERIFIER) -> Path:
        main.run(
            [command, *stack("trainer/default", "trainer/cpu", "stage/verifier", "data/rationale_text")]
            + [f"--data.{part}={sentences}" for part in ("train", "test")]
            + [f"--model.path={path}", "--data.batch_size=1", f"--trainer.default_root_dir={tmp_path / name}"]
            + [
                "--trainer.max_steps=2",
                "--trainer.limit_val_batches=0",
                "--trainer.enable_progress_bar=false",
                *options,
            ]
        )
        return tmp_path / name

    return run


def files(directory: Path) -> dict[str, tuple[bytes, int]]:
    """Content and time of each file."""
    found = [path for path in directory.rglob("*") if path.is_file()]
    return {str(path.relative_to(directory)): (path.read_bytes(), path.stat().st_mtime_ns) for path in found}


def hold(directory: Path, ready: Connection) -> None:
    with own_run_directory(directory):
        if os.fork():  # a worker that outlives it
            ready.send(os.getpid())
        time.sleep(60)


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[multiprocessing.Process]:
    """A process that has `run`, with a child."""
    context = multiprocessing.get_context("fork")
    ready, theirs = context.Pipe()
    process = context.Process(target=hold, args=(tmp_path / "run", theirs))
    process.start()
    assert ready.poll(30) and ready.recv() == process.pid
    yield process
    process.kill()
    process.join()


def test_a_second_run_is_refused_before_it_writes(
    holder: multiprocessing.Process, stage: Callable[..., Path], tmp_path: Path
) -> None:
    before = files(tmp_path / "run")
    for command in ("fit", "test"):
        with pytest.raises(
            RunDirectoryError, match=rf"run is in use by process {holder.pid} on .*, started 2.*, or choo"
        ):
            stage(command, "run")
    assert files(tmp_path / "run") == before and list(before) == [LOCK_FILE]


def test_what_a_killed_run_held_is_free_at_once(
    holder: multiprocessing.Process, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert holder.pid is not None
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    with caplog.at_level("INFO"), own_run_directory(tmp_path / "run"):
        assert json.loads((tmp_path / "run" / LOCK_FILE).read_text())["process"] == os.getpid()
    assert f"last written by process {holder.pid}" in caplog.text
    assert not (tmp_path / "run" / LOCK_FILE).read_bytes(), "an end that was reached leaves no holder"


def test_a_run_that_fails_does_not_stand_beside_earlier_results(stage: Callable[..., Path], tmp_path: Path) -> None:
    run = stage("test", "run")
    first = {name: content for name, (content, _) in files(run).items()}
    with pytest.raises(ValueError, match="nothing to test"):
        stage("test", "run", path=headless(tmp_path / "headless"))
    assert "headless" in (run / "config.yaml").read_text()
    assert not (run / "metrics.json").exists() and not (run / "reliability.png").exists()
    for name in ("metrics.json", "config.yaml", "run.json", "reliability.png"):
        assert (run / EARLIER / "1" / name).read_bytes() == first[name]
    for _ in range(2):
        stage("test", "run")
    for place in (run, run / EARLIER / "1", run / EARLIER / "2"):
        assert json.loads((place / "metrics.json").read_text()) == json.loads(first["metrics.json"])


def headless(directory: Path) -> str:
    directory.mkdir()
    for file in Path(VERIFIER).iterdir():
        (directory / file.name).write_bytes(file.read_bytes())
    config = json.loads((directory / "config.json").read_text())
    config["id2label"] = {number: f"LABEL_{number}" for number in config["id2label"]}
    config["label2id"] = {label: int(number) for number, label in config["id2label"].items()}
    (directory / "config.json").write_text(json.dumps(config))
    return str(directory)


def test_a_trial_run_writes_nothing(stage: Callable[..., Path]) -> None:
    run = stage("test", "run")
    before = files(run)
    stage("test", "run", "--trainer.fast_dev_run=true")
    stage("fit", "run", "--trainer.fast_dev_run=true")
    assert files(run) == before


def test_metrics_of_a_part_say_so(stage: Callable[..., Path]) -> None:
    part, whole = stage("test", "part", "--trainer.limit_test_batches=2"), stage("test", "whole")
    for name in ("metrics.json", "run.json"):
        assert json.loads((part / name).read_text())["partial"] == {"batches": 2, "of": 9}
        assert "partial" not in json.loads((whole / name).read_text())
    nothing = stage("test", "nothing", "--trainer.limit_test_batches=0")
    assert not (nothing / "metrics.json").exists() and json.loads((nothing / "run.json").read_text())["stage"] == "test"


@pytest.mark.parametrize("limit", [{"limit_predict_batches": 1}, {"fast_dev_run": True}, {}])
def test_predictions_of_a_part_say_so(
    backbone: ComposedBackbone, make_clip: Callable[..., Clip], tmp_path: Path, limit: dict[str, bool | int]
) -> None:
    loader = DataLoader([collate([make_clip(i)]) for i in range(2)], batch_size=None, collate_fn=lambda batch: batch)
    trainer = Trainer(
        accelerator="cpu",
        default_root_dir=tmp_path,
        logger=False,
        enable_progress_bar=False,
        callbacks=[PredictionWriter(), RunRecord()],
        **limit,
    )
    trainer.predict(PolicyModule(backbone, evaluation=Sampling(max_new_tokens=2)), loader, return_predictions=False)
    if "fast_dev_run" in limit:
        assert not files(tmp_path)
        return
    record = json.loads((tmp_path / "run.json").read_text())
    assert record.get("partial") == ({"batches": 1, "of": 2} if limit else None)
    assert len((tmp_path / "predictions.jsonl").read_text().splitlines()) == (1 if limit else 2)


CSV = """
    class_path: lightning.pytorch.loggers.CSVLogger
    init_args: {save_dir: "${trainer.default_root_dir}", name: tables}
"""
SEVERAL = """
    - class_path: lightning.pytorch.loggers.CSVLogger
      init_args: {save_dir: "${trainer.default_root_dir}/tables"}
    - class_path: lightning.pytorch.loggers.TensorBoardLogger
      init_args: {save_dir: "${trainer.default_root_dir}/events"}
  profiler:
    class_path: lightning.pytorch.profilers.SimpleProfiler
    init_args: {dirpath: "${trainer.default_root_dir}/profiles", filename: profile}
"""


@pytest.mark.parametrize("logger", [" false", " true", CSV, SEVERAL])
def test_the_configuration_is_in_the_run_directory_whatever_the_logger(
    logger: str, stage: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "logger.yaml").write_text(f"trainer:\n  logger:{logger}")
    old = stage("fit", "old", "-c", "logger.yaml", "--trainer.default_root_dir=old/")
    assert [path.relative_to(old).as_posix() for path in old.rglob("config.yaml")] == ["config.yaml"]
    before = files(old)
    main.run(["fit", "-c", "old/config.yaml", "--trainer.default_root_dir=new"])
    assert files(old) == before
    assert {name.partition("tfevents")[0] for name in files(tmp_path / "new")} == {
        name.partition("tfevents")[0] for name in before
    }
    main.run(["test", "-c", "old/config.yaml", "--trainer.default_root_dir=tested"])
    assert files(old) == before and (tmp_path / "tested/config.yaml").is_file()


def test_a_recorded_configuration_writes_to_the_new_run_alone(stage: Callable[..., Path], tmp_path: Path) -> None:
    best = tmp_path / "callbacks.yaml"
    best.write_text(
        "trainer:\n  callbacks:\n    - class_path: lightning.pytorch.callbacks.ModelCheckpoint\n"
        "      init_args:\n        dirpath: ${trainer.default_root_dir}/best\n"
    )
    old = stage("fit", "old", "-c", str(best))
    before = files(old)
    main.run(["fit", "-c", str(old / "config.yaml"), f"--trainer.default_root_dir={tmp_path / 'new'}"])
    assert files(old) == before
    kinds = [{Path(name).name.partition(".out.")[0] for name in files(run)} for run in (old, tmp_path / "new")]
    assert kinds[0] == kinds[1] and {"config.yaml", "events", "run.json"} < kinds[0]
    assert list((tmp_path / "new" / "best").iterdir())
