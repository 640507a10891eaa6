"""The trained model as a Hugging Face directory at the end of a run."""

from pathlib import Path

from lightning import Callback, LightningModule, Trainer

from lightning_modules.sharding import exportable


class ExportCallback(Callback):
    """After `fit`, writes the model to `<run directory>/model`: a policy as a backbone, a verifier as a classifier.

    Args:
        directory: name of the directory within the run directory.
    """

    def __init__(self, directory: str = "model") -> None:
        self.directory = directory

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.fast_dev_run:
            return
        with exportable(pl_module, here=trainer.is_global_zero):
            if trainer.is_global_zero:
                pl_module.export(Path(trainer.default_root_dir) / self.directory)
