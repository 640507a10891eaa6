"""What the model says and what the verifier reads in it, in TensorBoard; only process zero draws."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from callbacks.inspection.confusion import confusion_matrices, draw_confusion
from callbacks.inspection.drawing import draw_panel
from callbacks.inspection.hparams import hyperparameters, write_hyperparameters
from callbacks.inspection.markdown import clips_markdown, group_markdown
from callbacks.inspection.panel import Panel, choose_groups, clip_panels, group_panel
from datamodules.batch import ClipBatch
from lightning_modules.evaluation import Evaluation
from lightning_modules.grpo import GRPOModule
from lightning_modules.metrics.emotion_report import EmotionReport
from lightning_modules.policy import PolicyModule
from lightning_modules.rl.experience import experience_of

_PER_CLASS = ("recall", "eea", "epc", "fcr")


def class_curves(metrics: dict[str, Any], prefix: str) -> dict[str, float]:
    """Per-class recall, EEA, EPC and FCR as scalars, a TensorBoard section each: `val_recall/anger`.

    Args:
        metrics: see `emotion_report`.
        prefix: of the tags.

    Returns:
        Tag → fraction in [0, 1], without what is not defined: classes without a clip, all but recall without a judge.
    """
    return {
        f"{prefix}_{name}/{emotion}": figures[name]
        for name in _PER_CLASS
        for emotion, figures in metrics["per_class"].items()
        if figures[name] is not None
    }


class InspectionCallback(Callback):
    """Logs pictures, texts, figures and settings to TensorBoard.

    - Stage 3: the best, the worst and the most divided group of a step (of process zero's prompts).
    - Each evaluation: the first clips, the same every time; confusion matrices of all clips; while training also
      curves per class, which `monitor` may name.
    - At the end of `fit` and `test`: a row of the HPARAMS tab.

    Without a TensorBoard logger it logs the curves only.

    Args:
        every_n_steps: training steps between two logged steps.
        num_clips: validation or test clips shown; with several processes, the first of process zero's.

    Raises:
        ValueError: a value below 1.
    """

    def __init__(self, every_n_steps: int = 20, num_clips: int = 8) -> None:
        if every_n_steps < 1 or num_clips < 1:
            raise ValueError(f"Expected every_n_steps >= 1 and num_clips >= 1, got {every_n_steps} and {num_clips}.")
        self.every_n_steps = every_n_steps
        self.num_clips = num_clips
        self._panels: list[Panel] = []

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: ClipBatch, batch_idx: int
    ) -> None:
        experience = experience_of(outputs)
        if not isinstance(pl_module, GRPOModule) or experience is None or batch_idx % self.every_n_steps:
            return
        writers = _writers(trainer)
        if not writers:
            return
        for name, prompt in choose_groups(experience.total, pl_module.group_size).items():
            panel = group_panel(experience, prompt, pl_module.taxonomy)
            tag = f"rollouts/{name}_group"
            _add_picture(writers, tag, panel, trainer.global_step)
            for writer in writers:
                writer.add_text(tag, group_markdown(panel), trainer.global_step)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._panels = []

    on_test_epoch_start = on_validation_epoch_start

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: object,
        batch: ClipBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        missing = self.num_clips - len(self._panels)
        if (
            missing > 0
            and isinstance(outputs, Evaluation)
            and isinstance(pl_module, PolicyModule)
            and _writers(trainer)
        ):
            self._panels += clip_panels(outputs, pl_module.taxonomy, pl_module.judge_name, missing)

    on_test_batch_end = on_validation_batch_end

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if isinstance(pl_module, PolicyModule) and not trainer.sanity_checking:
            self._show_evaluation(trainer, pl_module, pl_module.validation_report, "val")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if isinstance(pl_module, PolicyModule):
            self._show_evaluation(trainer, pl_module, pl_module.test_figures.report, "test")

    def _show_evaluation(self, trainer: Trainer, module: PolicyModule, report: EmotionReport, prefix: str) -> None:
        metrics, counts = report.compute(), _summed_counts(report).cpu().numpy()
        if trainer.state.fn == "fit":
            # The values are the same on every process; `sync_dist` says so to Lightning.
            module.log_dict(class_curves(metrics, prefix), sync_dist=True)
        panels, self._panels = self._panels, []
        writers, step = _writers(trainer), trainer.global_step
        for place, panel in enumerate(panels, 1):
            _add_picture(writers, f"{prefix}_clips/{place:02d}", panel, step)
        # Compound targets have no single row in a confusion matrix.
        matrices = [] if metrics["compound_clips"] else confusion_matrices(counts, module.taxonomy, report.judge)
        for writer in writers:
            if panels:
                writer.add_text(f"{prefix}_clips/completions", clips_markdown(panels), step)
            for matrix in matrices:
                writer.add_figure(f"{prefix}_confusion/{matrix.tag}", draw_confusion(matrix), step)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for writer in _writers(trainer):
            write_hyperparameters(writer, hyperparameters(trainer, pl_module))

    on_test_end = on_fit_end


def _writers(trainer: Trainer) -> list[SummaryWriter]:
    """Where to draw to: nowhere on the other processes."""
    if not trainer.is_global_zero:
        return []
    return [logger.experiment for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]


def _summed_counts(report: EmotionReport) -> Tensor:
    """The counts of all processes; every process calls it."""
    with report.sync_context():
        return report.counts.clone()


def _add_picture(writers: Sequence[SummaryWriter], tag: str, panel: Panel, step: int) -> None:
    picture = np.asarray(draw_panel(panel))
    for writer in writers:
        writer.add_image(tag, picture, step, dataformats="HWC")
