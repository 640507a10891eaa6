"""What the model says and what the verifier reads in it, in the run's trackers; only process zero draws."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from callbacks.inspection.confusion import confusion_matrices, draw_confusion
from callbacks.inspection.drawing import draw_panel
from callbacks.inspection.hparams import METRICS, hyperparameters
from callbacks.inspection.markdown import clips_markdown, group_markdown
from callbacks.inspection.panel import Panel, choose_groups, clip_panels, group_panel, panel_rows
from callbacks.trackers import Tracker, trackers
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
    """Logs pictures, tables, figures and settings to the trackers that take them (`trackers`).

    - Stage 3: the best, the worst and the most divided group of a step (of process zero's prompts).
    - Each evaluation: the first clips, the same every time; confusion matrices of all clips; while training also
      curves per class, which `monitor` may name.
    - At the end of `fit` and `test`: the run's main settings, and what it reached.

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
        drawing = _drawing(trainer)
        if not drawing:
            return
        for name, prompt in choose_groups(experience.total, pl_module.group_size).items():
            panel = group_panel(experience, prompt, pl_module.taxonomy)
            tag = f"rollouts/{name}_group"
            _show(drawing, tag, panel, trainer.global_step)
            for tracker in drawing:
                tracker.send(tracker.table, tag, group_markdown(panel), panel_rows([panel]), trainer.global_step)

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
            and _drawing(trainer)
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
        drawing, step = _drawing(trainer), trainer.global_step
        for place, panel in enumerate(panels, 1):
            _show(drawing, f"{prefix}_clips/{place:02d}", panel, step)
        # Compound targets have no single row in a confusion matrix.
        matrices = [] if metrics["compound_clips"] else confusion_matrices(counts, module.taxonomy, report.judge)
        for tracker in drawing:
            if panels:
                tracker.send(
                    tracker.table, f"{prefix}_clips/completions", clips_markdown(panels), panel_rows(panels), step
                )
            for matrix in matrices:
                tracker.send(tracker.figure, f"{prefix}_confusion/{matrix.tag}", draw_confusion(matrix), step)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        reached = {tag: float(value) for tag, value in trainer.callback_metrics.items() if tag in METRICS}
        for tracker in trackers(trainer):
            tracker.send(tracker.settings, hyperparameters(trainer, pl_module), reached)

    on_test_end = on_fit_end


def _drawing(trainer: Trainer) -> list[Tracker]:
    """Those that take pictures: none on the other processes."""
    return [tracker for tracker in trackers(trainer) if tracker.draws]


def _summed_counts(report: EmotionReport) -> Tensor:
    """The counts of all processes; every process calls it."""
    with report.sync_context():
        return report.counts.clone()


def _show(drawing: Sequence[Tracker], tag: str, panel: Panel, step: int) -> None:
    picture = np.asarray(draw_panel(panel))
    for tracker in drawing:
        tracker.send(tracker.picture, tag, picture, step)
