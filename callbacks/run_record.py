"""What a run was (seconds, versions, hardware), beside its configuration in the run directory."""

import platform
import time
from importlib.metadata import version
from pathlib import Path

import torch
from lightning import Callback, LightningModule, Trainer

from callbacks.run_files import PARTIAL, RUN_FILE
from datamodules.files.writing import write_json

_PACKAGES = ("torch", "lightning", "transformers", "torchmetrics", "torchcodec", "av")


def evaluated_part(trainer: Trainer, stage: str) -> dict[str, dict[str, int]]:
    """`{"partial": {"batches": n, "of": m}}` of an evaluation that a limit cut short, per process; else nothing.

    Args:
        trainer: during the evaluation, or after it.
        stage: `test` or `predict`; nothing of others.
    """
    if stage not in ("test", "predict"):
        return {}
    loaders = trainer.test_dataloaders if stage == "test" else trainer.predict_dataloaders
    loaders = loaders if isinstance(loaders, list) else [loaders]
    numbers = trainer.num_test_batches if stage == "test" else trainer.num_predict_batches
    batches, whole = int(sum(numbers)), sum(len(loader) for loader in loaders if loader is not None)
    return {PARTIAL: {"batches": batches, "of": whole}} if batches < whole else {}


class RunRecord(Callback):
    """Writes `run.json` at the end of a stage: wall-clock seconds, optimizer steps, device, package versions."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._started = time.monotonic()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if not trainer.is_global_zero or trainer.fast_dev_run:
            return
        device = pl_module.device
        record = {
            "stage": stage,
            **evaluated_part(trainer, stage),
            "seconds": round(time.monotonic() - self._started, 3),
            "optimizer_steps": trainer.global_step,
            "num_processes": trainer.world_size,
            "precision": str(trainer.precision),
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "cpu",
            "num_threads": torch.get_num_threads(),
            "python": platform.python_version(),
            "versions": {package: version(package) for package in _PACKAGES},
        }
        write_json(Path(trainer.default_root_dir) / RUN_FILE, record)
