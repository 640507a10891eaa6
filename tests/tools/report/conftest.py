"""Prediction files to report on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from datamodules.files.writing import write_rows

GOLDEN_CLIP = Path(__file__).parents[2] / "golden" / "preprocess" / "av_stereo44k.mp4"


@pytest.fixture(scope="session")
def clip() -> Path:
    """A media file with pictures and sound."""
    return GOLDEN_CLIP


@pytest.fixture(scope="session")
def sentence() -> Callable[..., dict[str, Any]]:
    """A sentence as the verifier reads it: the given labels at 0.7, 0.3, ..., and a little of ten others."""

    def make(text: str, *emotions: str) -> dict[str, Any]:
        others = ["anger", "caring", "fear", "grief", "joy", "love", "neutral", "pride", "relief", "sadness"]
        probabilities = dict.fromkeys(others, 0.01) | dict(zip(emotions, (0.7, 0.3), strict=False))
        return {"text": text, "emotions": list(emotions), "probabilities": probabilities}

    return make


@pytest.fixture(scope="session")
def row(sentence: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """A line of predictions.jsonl: right and coherent, unless told otherwise."""

    def make(identifier: str, **fields: Any) -> dict[str, Any]:
        answer = fields.get("prediction", "happiness")
        said = fields.get("sentences", [sentence("She grins.", "joy"), sentence("She sits.", "neutral")])
        rationale = " ".join(own["text"] for own in said)
        return {
            "id": identifier,
            "target": "happiness",
            "prediction": answer,
            "format": 1.0,
            "accuracy": 1.0,
            "explanation": 1.0,
            "sentences": said,
            "judged": "happiness",
            "judge": "file:judge.jsonl",
            "taxonomy": "dfew",
            "dataset": "dfew",
            "media": None,
            "completion": f"<think>{rationale}</think><answer>{answer}</answer>",
        } | fields

    return make


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., str]:
    """Write rows as the prediction file of a run; its path."""

    def make(name: str, rows: list[dict[str, Any]]) -> str:
        path = tmp_path / "runs" / name / "test" / "predictions.jsonl"
        write_rows(path, rows)
        return str(path)

    return make
