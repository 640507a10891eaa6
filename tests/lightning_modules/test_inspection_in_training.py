"""What `InspectionCallback` leaves in TensorBoard's files."""

from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.metadata import (
    EXPERIMENT_TAG,
    PLUGIN_NAME,
    SESSION_START_INFO_TAG,
    parse_experiment_plugin_data,
    parse_session_start_info_plugin_data,
)

from callbacks.inspection.callback import InspectionCallback
from callbacks.inspection.drawing import WIDTH
from callbacks.rl import RLCallback
from datamodules.batch import ClipBatch
from datamodules.emotions import DFEW_TAXONOMY
from datamodules.rationale import read_response
from lightning_modules.grpo import GRPOModule
from tests.lightning_modules.conftest import Batches, LengthReward

pytestmark = pytest.mark.e2e

ROLLOUTS = {f"rollouts/{name}_group" for name in ("best", "worst", "most_divided")}
FIGURES = {"prediction_x_target", "explanation_x_target", "explanation_x_prediction"}
Make, Fit = Callable[..., GRPOModule], Callable[..., Trainer]


def speaking(module: GRPOModule) -> GRPOModule:
    """The module, whose completions are read as rationales: random weights never write one."""
    text = "<think>The man frowns hard. He shouts in a loud voice.</think><answer>angry</answer>"
    module.read = lambda texts, strict=False: [read_response(text + "." * (len(t) % 5), DFEW_TAXONOMY) for t in texts]
    return module


def logger(directory: Path) -> TensorBoardLogger:
    return TensorBoardLogger(directory, name="", version="", default_hp_metric=False)


def events(directory: Path) -> EventAccumulator:
    accumulator = EventAccumulator(str(directory), size_guidance={"images": 0, "tensors": 0, "scalars": 0})
    return accumulator.Reload()


@pytest.fixture
def run(make_grpo: Make, fit: Fit, batches: list[ClipBatch], tmp_path: Path) -> EventAccumulator:
    """Events of two steps of stage 3, with a validation of four clips in batches of two after each."""
    fit(
        speaking(make_grpo()),
        batches,
        RLCallback([LengthReward(weight=2.0)]),
        InspectionCallback(every_n_steps=2, num_clips=3),
        logger=logger(tmp_path / "run"),
        limit_val_batches=2,
        val_check_interval=1,
        num_sanity_val_steps=1,
        log_every_n_steps=1,
    )
    return events(tmp_path / "run")


def test_pictures_and_figures(run: EventAccumulator, batches: list[ClipBatch]) -> None:
    images = set(run.Tags()["images"])
    clips = {f"val_clips/{place:02d}" for place in (1, 2, 3)}
    assert images == ROLLOUTS | clips | {f"val_confusion/{name}" for name in FIGURES}
    for tag in ROLLOUTS | clips:
        assert Image.open(BytesIO(run.Images(tag)[0].encoded_image_string)).width == WIDTH
    assert [event.step for event in run.Images("val_clips/01")] == [1, 2], "not in the sanity check"
    assert [event.step for event in run.Images("rollouts/best_group")] == [1], "every second step"
    texts = [event.tensor_proto.string_val[0].decode() for event in run.Tensors("val_clips/completions/text_summary")]
    shown = [[line.split(" | ")[0].removeprefix("| ") for line in text.splitlines()[4:]] for text in texts]
    assert shown == [[*batches[0].ids, batches[1].ids[0]]] * 2, "the same clips every time"


def test_curves_per_class_and_settings(run: EventAccumulator) -> None:
    tags = set(run.Tags()["scalars"])
    expected = {
        f"val_{name}/{emotion}" for name in ("recall", "eea", "epc", "fcr") for emotion in ("anger", "happiness")
    }
    assert {tag for tag in tags if tag.startswith("val_")} == expected, "of the classes that have clips"
    recall = [run.Scalars(f"val_recall/{emotion}")[-1].value for emotion in ("anger", "happiness")]
    assert recall == [1.0, 0.0], "every answer is angry"
    assert run.Scalars("val/war")[-1].value == 0.5
    assert [e.step for e in run.Scalars("val_recall/anger")] == [e.step for e in run.Scalars("val/war")]

    contents = run.summary_metadata
    assert contents[SESSION_START_INFO_TAG].plugin_data.plugin_name == PLUGIN_NAME
    start = parse_session_start_info_plugin_data(contents[SESSION_START_INFO_TAG].plugin_data.content)
    values = {name: value.string_value or value.number_value for name, value in start.hparams.items()}
    assert values["module"] == "GRPOModule" and values["rewards"] == "2 length" and values["schedule"] == "constant"
    assert values["learning_rate"] == 1e-3 and values["group_size"] == 3.0 and values["beta"] == 0.04
    assert not [value for value in values.values() if "/" in str(value)], "no paths"
    experiment = parse_experiment_plugin_data(contents[EXPERIMENT_TAG].plugin_data.content)
    assert set(values) <= {info.name for info in experiment.hparam_infos}
    metrics = {info.name.tag for info in experiment.metric_infos}
    assert {"val/war", "val/uar", "val/fcr", "reward/total"} <= tags & metrics
    assert {"test/war", "test/fcr"} <= metrics, "the same columns in every run"


def tags_after_test(module: GRPOModule, batches: list[ClipBatch], directory: Path) -> dict:
    """Tags of a test run."""
    trainer = Trainer(
        accelerator="cpu",
        default_root_dir=directory,
        logger=logger(directory),
        callbacks=[InspectionCallback(num_clips=1)],
        enable_progress_bar=False,
    )
    trainer.test(speaking(module), datamodule=Batches(batches), verbose=False)
    return events(directory).Tags()


def test_a_test_has_its_clips_and_figures_but_no_curves(
    make_grpo: Make, batches: list[ClipBatch], tmp_path: Path
) -> None:
    tags = tags_after_test(make_grpo(), batches, tmp_path)
    assert set(tags["images"]) == {"test_clips/01", *(f"test_confusion/{name}" for name in FIGURES)}
    assert "test/fcr" in tags["scalars"]
    assert not [tag for tag in tags["scalars"] if tag.startswith(("test_recall/", "test_fcr/"))]
    assert {EXPERIMENT_TAG, "test_clips/completions/text_summary"} <= set(tags["tensors"])


def test_compound_targets_have_no_confusion_matrix(make_grpo: Make, batches: list[ClipBatch], tmp_path: Path) -> None:
    batches[0].targets[0] = "anger_fear"
    assert tags_after_test(make_grpo(), batches, tmp_path)["images"] == ["test_clips/01"]


class KeepsLogged(Callback):
    """Each process writes what it logged."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        torch.save(dict(trainer.callback_metrics), self.directory / f"{trainer.global_rank}.pt")


def test_two_processes_count_together_and_log_the_same(
    make_grpo: Make, fit: Fit, batches: list[ClipBatch], tmp_path: Path
) -> None:
    fit(
        speaking(make_grpo()),
        [*batches, *batches],
        RLCallback([LengthReward()]),
        InspectionCallback(every_n_steps=1, num_clips=3),
        KeepsLogged(tmp_path),
        logger=logger(tmp_path / "run"),
        limit_val_batches=2,
        strategy="ddp_fork",
        devices=2,
    )
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    names = {name for name in first if name.startswith("val_")}
    assert "val_recall/anger" in names and names == {name for name in second if name.startswith("val_")}
    assert all(torch.equal(first[name], second[name]) for name in names)
    assert len(list((tmp_path / "run").glob("events.*"))) == 1, "only process zero draws"
    assert set(events(tmp_path / "run").Tags()["images"]) >= {f"val_confusion/{name}" for name in FIGURES}


def test_without_tensorboard_the_curves_are_still_there(make_grpo: Make, fit: Fit, batches: list[ClipBatch]) -> None:
    trainer = fit(
        speaking(make_grpo()), batches, RLCallback([LengthReward()]), InspectionCallback(), limit_val_batches=1
    )
    assert "val_recall/anger" in trainer.callback_metrics


def test_settings_are_checked() -> None:
    with pytest.raises(ValueError, match="every_n_steps >= 1"):
        InspectionCallback(every_n_steps=0)
