"""What a run was: seconds, versions, hardware; beside its configuration in the run directory."""

import platform
import time
from importlib.metadata import version
from pathlib import Path

import torch
from lightning import Callback, LightningModule, Trainer

from datamodules.files.writing import write_json

RUN_FILE = "run.json"
_PACKAGES = ("torch", "lightning", "transformers", "torchmetrics", "torchcodec", "av")


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
