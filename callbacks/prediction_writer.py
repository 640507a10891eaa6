"""Evaluation results as files: `predictions.jsonl`, a line per clip, and `metrics.json`."""

import tempfile
from pathlib import Path
from typing import Any, TypeVar

import torch.distributed
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn

from callbacks.predictions import score_evaluation
from callbacks.run_files import METRICS_FILE, sample_file
from callbacks.run_record import evaluated_part
from datamodules.batch import ClipBatch
from datamodules.files.writing import write_json, write_rows
from lightning_modules.evaluation import Evaluation
from lightning_modules.metrics.predictions import read_predictions
from lightning_modules.metrics.several_samples import samples_summary, several_samples
from lightning_modules.policy import PolicyModule

Row = TypeVar("Row")


def prediction_rows(module: PolicyModule, evaluation: Evaluation) -> list[dict[str, Any]]:
    """Rows of `predictions.jsonl`: of each clip of a batch, what the policy said and earned."""
    return [
        prediction.row(module.taxonomy, module.judge_name)
        for prediction in score_evaluation(evaluation, module.taxonomy)
    ]


def gather_rows(trainer: Trainer, rows: list[Row]) -> list[Row]:
    """The rows of all processes, one process after the other; every process calls it and gets all."""
    if trainer.world_size == 1:
        return rows
    gathered: list[list[Row]] = [[] for _ in range(trainer.world_size)]
    torch.distributed.all_gather_object(gathered, rows)
    return [row for part in gathered for row in part]


class PredictionWriter(Callback):
    """Writes to the run directory after `test` and `predict`; the row schema is that of `score`, plus the completion.

    Of several samples of each clip, the second is in `predictions_2.jsonl`, and so on. Files appear whole or not at
    all; `trainer.fast_dev_run` writes none. Metrics of a part of the batches say so.
    """

    def __init__(self) -> None:
        self._rows: list[tuple[int, dict[str, Any]]] = []

    def _write_rows(self, trainer: Trainer) -> list[Path]:
        """Write the rows of all processes; a file for each of the samples."""
        rows, self._rows = gather_rows(trainer, self._rows), []
        if not trainer.is_global_zero or trainer.fast_dev_run:
            return []
        paths = []
        for index in sorted({index for index, _ in rows}):
            paths.append(Path(trainer.default_root_dir) / sample_file(index))
            _write_somewhere(paths[-1], [row for own, row in rows if own == index])
        return paths

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
            for index, evaluation in enumerate([outputs, *outputs.more]):
                self._rows += [(index, row) for row in prediction_rows(pl_module, evaluation)]

    on_predict_batch_end = on_test_batch_end

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        paths = self._write_rows(trainer)
        # Every process takes part in computing: the metrics are summed over processes.
        report = pl_module.metrics_report() | evaluated_part(trainer, "test")
        if len(paths) > 1:
            files = [read_predictions(path) for path in paths]
            own = [file.predictions for file in files]
            report["samples"] = several_samples(own, files[0].taxonomy, judged=files[0].judge is not None)
            for line in samples_summary(report["samples"]):
                print(line)
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
