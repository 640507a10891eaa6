"""Pictures, tables and settings in every tracker at once, without a network."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from lightning import Trainer
from lightning.pytorch.loggers import CSVLogger, MLFlowLogger, WandbLogger
from mlflow import MlflowClient
from PIL import Image

from callbacks.inspection.callback import InspectionCallback
from callbacks.inspection.drawing import WIDTH
from callbacks.rl import RLCallback
from datamodules.batch import ClipBatch
from lightning_modules.grpo import GRPOModule
from tests.lightning_modules.conftest import LengthReward

pytestmark = pytest.mark.e2e


def test_weights_and_biases_mlflow_and_csv_at_once(
    make_grpo: Callable[..., GRPOModule],
    fit: Callable[..., Trainer],
    batches: list[ClipBatch],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import wandb

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # a database would take twenty seconds
    monkeypatch.setenv("WANDB_SILENT", "true")
    csv = CSVLogger(tmp_path, name="csv")
    mlflow = MLFlowLogger("erv", tracking_uri=f"file:{tmp_path}/mlflow")
    weights_and_biases = WandbLogger(project="erv", save_dir=tmp_path, offline=True)
    callbacks = [RLCallback([LengthReward(weight=2.0)]), InspectionCallback(every_n_steps=2, num_clips=2)]
    loggers = [csv, mlflow, weights_and_biases]
    options = {"logger": loggers, "limit_val_batches": 1, "val_check_interval": 1, "log_every_n_steps": 1}
    fit(make_grpo(), batches, *callbacks, **options)
    wandb_files = Path(weights_and_biases.experiment.dir)
    summary = dict(weights_and_biases.experiment.summary)
    configuration = dict(weights_and_biases.experiment.config)
    wandb.finish()

    for settings in (
        yaml.safe_load((tmp_path / "csv/version_0/hparams.yaml").read_text()),
        configuration,
        MlflowClient(f"file:{tmp_path}/mlflow").get_run(mlflow.run_id).data.params,
    ):
        assert settings["module"] == "GRPOModule" and float(settings["group_size"]) == 3
    assert "reward/total" in (tmp_path / "csv/version_0/metrics.csv").read_text().splitlines()[0]
    assert summary["val/war"] == 0 and summary["reward/total"] > 0

    names = {f"rollouts/{name}_group" for name in ("best", "worst", "most_divided")} | {"val_clips/01", "val_clips/02"}
    for name in names:
        (picture, *_) = (wandb_files / "media/images").glob(f"{name}_*.png")
        assert Image.open(picture).width == WIDTH
    assert list((wandb_files / "media/images/val_confusion").glob("*.png"))
    (table,) = (wandb_files / "media/table/rollouts").glob("best_group_table_*.json")
    artifacts = next((tmp_path / "mlflow").glob("*/*/artifacts"))
    for own in (table, artifacts / "tables/rollouts/best_group/000001.json"):
        rows = json.loads(own.read_text())
        assert rows["columns"] == ["clip", "target", "answer", "completion", "length", "advantage"]
        assert len(rows["data"]) == 3 and rows["data"][0][0] in batches[0].ids
    kept = {own.name.split("+")[0].replace("~", "/") for own in (artifacts / "images").rglob("*.png")}
    assert names < kept
    assert (artifacts / "texts/val_clips/completions/000001.md").read_text().count("| clip0 |") == 1
