"""Evaluation results as files: `predictions.jsonl`, a line per clip, and `metrics.json`."""

from pathlib import Path
from typing import Any

import torch.distributed
from lightning import Callback, LightningModule, Trainer

from callbacks.scoring import score_rows, write_metrics, write_rows
from datamodules.batch import ClipBatch
from lightning_modules.policy import Evaluation, PolicyModule

PREDICTIONS_FILE = "predictions.jsonl"
METRICS_FILE = "metrics.json"


class PredictionWriter(Callback):
    """Writes to the run directory after `test` and `predict`; the row schema is that of `score`, plus the completion.

    Files appear whole or not at all.
    """

    def __init__(self) -> None:
        self._rows: list[dict[str, Any]] = []

    def _collect(self, module: LightningModule, evaluation: Evaluation) -> None:
        assert isinstance(module, PolicyModule), "only a policy returns evaluations"
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
                "media": batch.media[i],
                "completion": evaluation.responses[i].completion,
            }
            if batch.failures[i]:
                row["failure"] = batch.failures[i]
        self._rows += rows

    def _write_rows(self, trainer: Trainer) -> None:
        rows, self._rows = self._rows, []
        if trainer.world_size > 1:
            gathered: list[list[dict[str, Any]]] = [[] for _ in range(trainer.world_size)]
            torch.distributed.all_gather_object(gathered, rows)
            rows = [row for part in gathered for row in part]
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
            self._collect(pl_module, outputs)

    on_predict_batch_end = on_test_batch_end

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._write_rows(trainer)
        # Every process takes part in computing: the metrics are summed over processes.
        report = pl_module.metrics_report()
        if trainer.is_global_zero:
            write_metrics(Path(trainer.default_root_dir) / METRICS_FILE, report)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._write_rows(trainer)
