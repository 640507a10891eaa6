"""Rollouts to read back: groups made by hand, and files of them."""

import gzip
from pathlib import Path
from typing import Any

from datamodules.emotions import DFEW_TAXONOMY
from datamodules.files.writing import json_line
from lightning_modules.metrics.predictions import PredictedSentence
from lightning_modules.metrics.rollouts import ROLLOUTS_DIRECTORY, Group, RolloutFile, SampledCompletion


def completion(total: float = 1.0, text: str = "She grins.", emotion: str = "joy", **fields: Any) -> SampledCompletion:
    """A right answer, of a clip whose target is happiness."""
    values = {
        "completion": f"<think>{text}</think><answer>happy</answer>",
        "prediction": "happiness",
        "rewards": {"accuracy": 1.0, "explanation": total - 1.0},
        "total": total,
        "advantage": 0.0,
        "tokens": 10,
        "truncated": False,
        "sentences": (PredictedSentence(text, (emotion,)),),
    }
    return SampledCompletion(**values | fields)


def group(step: int, identifier: str, *completions: SampledCompletion, **fields: Any) -> Group:
    """A group of a happy clip."""
    values = {"target": "happiness", "dataset": "dfew", "media": "/not/here.mp4", "transcript": None}
    return Group(step=step, id=identifier, completions=completions or (completion(),), **values | fields)


def write_groups(run: Path, file: RolloutFile, *steps: list[Group]) -> Path:
    """A file as a run writes it: a gzip member per step."""
    path = run / ROLLOUTS_DIRECTORY / file.name
    path.parent.mkdir(parents=True, exist_ok=True)
    for groups in steps:
        lines = "".join(f"{json_line(own.row(DFEW_TAXONOMY))}\n" for own in groups)
        with path.open("ab") as out:
            out.write(gzip.compress(lines.encode()))
    return path
