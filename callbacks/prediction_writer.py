"""Evaluation results as files: `predictions.jsonl`, a line per clip, and `metrics.json`."""

from pathlib import Path
from typing import Any

import torch.distributed
from lightning import Callback, LightningModule, Trainer

from callbacks.scoring import score_rows
from datamodules.batch import ClipBatch
from datamodules.files.printable import readable_name
from datamodules.files.writing import write_json, write_rows
from lightning_modules.policy import Evaluation, PolicyModule

PREDICTIONS_FILE = "predictions.jsonl"
METRICS_FILE = "metrics.json"


def prediction_rows(module: PolicyModule, evaluation: Evaluation) -> list[dict[str, Any]]:
    """Rows of `predictions.jsonl`: those of `score_rows`, and each clip's corpus, file and completion.

    Args:
        module: the policy that was evaluated.
        evaluation: what it returned.
    """
    batch = evaluation.batch
    rows = score_rows(
        batch.ids,
        evaluation.responses,
        batch.targets,
        evaluation.readings,
        evaluation.verdicts,
        module.judge_name,
        module.taxonomy,
    )
    for i, row in enumerate(rows):
        row |= {
            "dataset": batch.datasets[i],
            "media": readable_name(batch.media[i]),
            "completion": evaluation.responses[i].completion,
        }
        if batch.failures[i]:
            row["failure"] = batch.failures[i]
    return rows


def gather_rows(trainer: Trainer, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of all processes, one process after the other; every process calls it and gets all."""
    if trainer.world_size == 1:
        return rows
    gathered: list[list[dict[str, Any]]] = [[] for _ in range(trainer.world_size)]
    torch.distributed.all_gather_object(gathered, rows)
    return [row for part in gathered for row in part]


class PredictionWriter(Callback):
    """Writes to the run directory after `test` and `predict`; the row schema is that of `score`, plus the completion.

    Files appear whole or not at all.
    """

    def __init__(self) -> None:
        self._rows: list[dict[str, Any]] = []

    def _write_rows(self, trainer: Trainer) -> None:
        rows, self._rows = gather_rows(trainer, self._rows), []
        if trainer.is_global_zero and rows:
            write_rows(Path(trainer.default_root_dir) / PREDICTIONS_FILE, rows)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: object,
        batch: ClipBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if isinstance(outputs, Evaluation):
            assert isinstance(pl_module, PolicyModule), "only a policy returns evaluations"
            self._rows += prediction_rows(pl_module, outputs)

    on_predict_batch_end = on_test_batch_end

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._write_rows(trainer)
        # Every process takes part in computing: the metrics are summed over processes.
        report = pl_module.metrics_report()
        if trainer.is_global_zero:
            write_json(Path(trainer.default_root_dir) / METRICS_FILE, report)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._write_rows(trainer)
