"""The names of the files in a run directory, for those that write and those that read them."""

PREDICTIONS_FILE = "predictions.jsonl"
ROWS_FILE = "rows.jsonl"
"""What `score` writes in place of predictions."""
METRICS_FILE = "metrics.json"
RUN_FILE = "run.json"
PARTIAL = "partial"
"""Key of `run.json` and `metrics.json`: how much was evaluated, where that is not all."""


def sample_file(index: int) -> str:
    """Name of the file with one of several samples of each clip, counted from 0."""
    return PREDICTIONS_FILE if index == 0 else f"predictions_{index + 1}.jsonl"
