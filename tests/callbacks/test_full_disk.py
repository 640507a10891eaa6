"""Disks that refuse: curves end and the run goes on, rows are kept elsewhere, and what stood there is not torn."""

import errno
import os
import warnings
from pathlib import Path

import pytest
from jsonargparse import Namespace
from lightning import Trainer
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from mlflow.exceptions import MlflowException
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer.record_writer import RecordWriter

from callbacks import prediction_writer
from callbacks.config_parser import SecretKeepingParser
from callbacks.curves import CurvesMayEnd
from callbacks.prediction_writer import PredictionWriter
from callbacks.trackers import trackers

pytestmark = pytest.mark.unit


def refusal(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class Logging(BoringModel):
    monkeypatch: pytest.MonkeyPatch

    def training_step(self, batch, batch_idx):
        self.log("loss", float(batch_idx))
        if batch_idx == 3:  # from here on
            self.logger.experiment.flush()
            self.monkeypatch.setattr(RecordWriter, "write", refusal)
        return super().training_step(batch, batch_idx)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_curves_end_where_they_cannot_be_written_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Logging.monkeypatch = monkeypatch
    trainer = Trainer(
        accelerator="cpu",
        max_steps=20,
        default_root_dir=tmp_path,
        logger=TensorBoardLogger(tmp_path, name="", version="", max_queue=1, flush_secs=1),
        log_every_n_steps=1,
        limit_val_batches=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[CurvesMayEnd()],
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.fit(Logging())
    said = [str(warning.message) for warning in caught if "the curves end here" in str(warning.message)]
    assert trainer.global_step == 20 and len(said) == 1 and "No space left on device" in said[0]
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [event.value for event in events.Scalars("loss")] == [0, 1, 2], "whole up to there"


class Logs(BoringModel):
    def training_step(self, batch, batch_idx):
        self.log("loss", float(batch_idx))
        return super().training_step(batch, batch_idx)


class Fragile(CSVLogger):
    """One that fails from the fourth step on."""

    error: Exception
    calls = 0

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        if step == 3:
            self.calls += 1
            raise self.error
        super().log_metrics(metrics, step)


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space"), MlflowException("No space"), KeyError("x")])
def test_a_tracker_that_fails_is_left_and_an_error_of_ours_is_not(tmp_path: Path, error: Exception) -> None:
    logger = Fragile(tmp_path)
    logger.error = error
    options = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    options |= {"accelerator": "cpu", "log_every_n_steps": 1, "limit_val_batches": 0, "max_steps": 6}
    trainer = Trainer(logger=logger, callbacks=[CurvesMayEnd()], default_root_dir=tmp_path, **options)
    module = Logs()
    (tracker,) = trackers(trainer)
    if isinstance(error, KeyError):
        with pytest.raises(KeyError):
            trainer.fit(module)
        return
    with pytest.warns(UserWarning, match=r"Fragile fails \(.*No space\): nothing more is sent to it"):
        trainer.fit(module)
    assert trainer.global_step == 6 and logger.calls == 1 and trackers(trainer) == []
    tracker.send(tracker.settings, {"a": 1.0}, {})
    assert "a" not in logger.experiment.hparams, "nor by who holds it still"


def test_predictions_are_kept_where_there_is_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prediction_writer.tempfile, "tempdir", str(tmp_path / "elsewhere"))
    (tmp_path / "elsewhere").mkdir()
    run = tmp_path / "run"
    run.write_text("a file, in which nothing can be written")
    trainer = Trainer(accelerator="cpu", default_root_dir=run, logger=False, enable_progress_bar=False)
    writer = PredictionWriter()
    writer._rows = [(0, {"id": "clip0"}), (0, {"id": "clip1"})]
    with pytest.raises(OSError, match=r"Cannot write .*/run/predictions.jsonl .* its 2 rows are in .*elsewhere"):
        writer._write_rows(trainer)
    (kept,) = (tmp_path / "elsewhere").rglob("predictions.jsonl")
    assert kept.read_text() == '{"id": "clip0"}\n{"id": "clip1"}\n'


def test_an_earlier_configuration_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parser = SecretKeepingParser()
    parser.add_argument("--number", type=int)
    file = tmp_path / "config.yaml"
    parser.save(Namespace(number=1), str(file))
    monkeypatch.setattr(parser, "dump", refusal)
    with pytest.raises(OSError, match="No space left"):
        parser.save(Namespace(number=2), str(file), overwrite=True)
    assert file.read_text() == "number: 1\n" and list(tmp_path.iterdir()) == [file]
