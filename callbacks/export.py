"""The trained model as a Hugging Face directory at the end of a run."""

import os
import shutil
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from callbacks.checkpointing.files import PARTIAL, free_gib
from callbacks.model_card import CARD_FILE, TRAINING_FILE, model_card, training_facts
from datamodules.files.writing import write_json
from lightning_modules.sharding import exportable


class ExportError(RuntimeError):
    """The model cannot be written."""


class ExportCallback(Callback):
    """After `fit`, writes the model to `<run directory>/model`: a policy as a backbone, a verifier as a classifier.

    With it its model card, and `training.json`: how it was trained. It appears whole or not at all, and replaces an
    earlier one.

    Args:
        directory: name of the directory within the run directory.

    Raises:
        ExportError: it cannot be written, for instance because the disk is full.
    """

    def __init__(self, directory: str = "model") -> None:
        self.directory = directory

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.fast_dev_run:
            return
        with exportable(pl_module, here=trainer.is_global_zero):
            if trainer.is_global_zero:
                _export(pl_module, Path(trainer.default_root_dir) / self.directory, training_facts(trainer, pl_module))


def _export(module: LightningModule, directory: Path, facts: dict[str, Any]) -> None:
    for name, parameter in module.named_parameters():
        if parameter.requires_grad and not parameter.isfinite().all():
            raise ExportError(
                f"The model is not written to {directory}: its weights are not finite ({name}). Lower "
                "model.learning_rate, and go on from a checkpoint before they were."
            )
    partial = directory.with_name(PARTIAL + directory.name)
    shutil.rmtree(partial, ignore_errors=True)
    try:
        module.export(partial)
        write_json(partial / TRAINING_FILE, facts)
        (partial / CARD_FILE).write_text(model_card(directory.parent.resolve().name, facts), encoding="utf-8")
    except Exception as error:  # the tokenizers have no narrower one
        shutil.rmtree(partial, ignore_errors=True)
        raise ExportError(
            f"Cannot write the model {directory}: {error}. Free space there: {free_gib(directory.parent):.1f} GiB. The "
            "newest checkpoint has the trained weights: make room, then repeat the command with --ckpt_path last."
        ) from error
    _follow_umask(partial)
    shutil.rmtree(directory, ignore_errors=True)
    partial.rename(directory)
    rank_zero_info(f"Written: {directory}")


def _follow_umask(directory: Path) -> None:
    """Give all files the permissions of new files here: safetensors makes its own readable to their owner only."""
    os.umask(mask := os.umask(0o077))
    for file in directory.rglob("*"):
        if file.is_file():
            file.chmod(0o666 & ~mask)
