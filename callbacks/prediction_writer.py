"""Evaluation results as files: `predictions.jsonl`, a line per clip, and `metrics.json`."""

import tempfile
from pathlib import Path
from typing import Any

import torch.distributed
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn

from callbacks.predictions import score_evaluation
from callbacks.run_files import METRICS_FILE, PREDICTIONS_FILE
from callbacks.run_record import evaluated_part
from datamodules.batch import ClipBatch
from datamodules.files.writing import write_json, write_rows
from lightning_modules.policy import Evaluation, PolicyModule


def prediction_rows(module: PolicyModule, evaluation: Evaluation) -> list[dict[str, Any]]:
    """Rows of `predictions.jsonl`: of each clip of a batch, what the policy said and earned."""
    return [
        prediction.row(module.taxonomy, module.judge_name)
        for prediction in score_evaluation(evaluation, module.taxonomy)
    ]


def gather_rows(trainer: Trainer, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of all processes, one process after the other; every process calls it and gets all."""
    if trainer.world_size == 1:
        return rows
    gathered: list[list[dict[str, Any]]] = [[] for _ in range(trainer.world_size)]
    torch.distributed.all_gather_object(gathered, rows)
    return [row for part in gathered for row in part]


class PredictionWriter(Callback):
    """Writes to the run directory after `test` and `predict`; the row schema is that of `score`, plus the completion.

    Files appear whole or not at all; `trainer.fast_dev_run` writes none. Metrics of a part of the batches say so.
    """

    def __init__(self) -> None:
        self._rows: list[dict[str, Any]] = []

    def _write_rows(self, trainer: Trainer) -> None:
        rows, self._rows = gather_rows(trainer, self._rows), []
        if trainer.is_global_zero and rows and not trainer.fast_dev_run:
            _write_somewhere(Path(trainer.default_root_dir) / PREDICTIONS_FILE, rows)

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
        report = pl_module.metrics_report() | evaluated_part(trainer, "test")
        if trainer.is_global_zero and not trainer.fast_dev_run:
            write_json(Path(trainer.default_root_dir) / METRICS_FILE, report)
        _warn_of_part(trainer, "test")

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._write_rows(trainer)
        _warn_of_part(trainer, "predict")


def _write_somewhere(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows, which may have taken days to make, or leave them where there is room.

    Raises:
        OSError: they cannot be written to the path; says where they are.
    """
    try:
        write_rows(path, rows)
        rank_zero_info(f"Written: {path} ({len(rows):,} clips)")
    except OSError as error:
        spare = Path(tempfile.mkdtemp(prefix="predictions-")) / path.name
        write_rows(spare, rows)
        raise OSError(f"Cannot write {path} ({error}): its {len(rows)} rows are in {spare}.") from error


def _warn_of_part(trainer: Trainer, stage: str) -> None:
    for part in evaluated_part(trainer, stage).values():
        rank_zero_warn(
            f"Only {part['batches']} of {part['of']} batches were evaluated (trainer.limit_{stage}_batches): the "
            "results are those of a part."
        )
