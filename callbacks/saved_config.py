"""The configuration of a run, as a file of its run directory."""

from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback

from callbacks.run_files import CONFIG_FILE


class SavedConfig(SaveConfigCallback):
    """Writes `config.yaml` to the run directory, whatever the logger; Lightning's own follows the logger."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, save_to_log_dir=False, **kwargs)

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        directory = Path(trainer.default_root_dir)
        directory.mkdir(parents=True, exist_ok=True)
        self.parser.save(self.config, str(directory / CONFIG_FILE), skip_none=False, overwrite=True)
