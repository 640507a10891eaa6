"""Completions with their rewards and their sentences' emotions: rows of `rows.jsonl` and `predictions.jsonl`."""

from collections.abc import Sequence
from typing import Any

from callbacks.rewards import accuracy_score, format_score
from datamodules.emotions import Taxonomy
from datamodules.rationale import Response
from lightning_modules.coherence import explanation_score
from lightning_modules.emotion_verifier import SentenceReading


def score_rows(
    ids: Sequence[str],
    responses: Sequence[Response],
    targets: Sequence[str | None],
    readings: Sequence[Sequence[SentenceReading]] | None,
    verdicts: Sequence[str | None] | None,
    judge: str | None,
    taxonomy: Taxonomy,
) -> list[dict[str, Any]]:
    """Rows of `rows.jsonl` and `predictions.jsonl`, as plain JSON values; `read_predictions` reads them.

    Args:
        ids: the clips' ids.
        responses: the completions, read.
        targets: canonical emotions; None where a clip has no label: then `accuracy` and `explanation` are None.
        readings: what the verifier read in each completion's sentences. None without a verifier: then `explanation`
            and the sentences' `emotions` and `probabilities` are None.
        verdicts: the judge's emotion of each rationale; None where its reply is invalid. None without a judge.
        judge: name of the judge; None without one.
        taxonomy: the classes of targets, predictions and verdicts.

    Returns:
        One dictionary per completion: `id`, `target`, `prediction` (canonical, or None when unknown), `format`,
        `accuracy`, `explanation` (rewards before weighting), `sentences`, each with `text`, `emotions` (label set,
        most probable first) and `probabilities` (label → p), and `judged` (the verdict), `judge` and `taxonomy`.
    """
    judged: Sequence[str | None] = [None] * len(responses) if verdicts is None else verdicts
    read: Sequence[Sequence[SentenceReading] | None] = [None] * len(responses) if readings is None else readings
    rows = []
    for identifier, response, target, own, verdict in zip(ids, responses, targets, read, judged, strict=True):
        accuracy = explanation = None
        if target is not None:
            accuracy = accuracy_score(response.prediction, target)
            if own is not None:
                explanation = explanation_score([reading.emotions for reading in own], target)
        rows.append(
            {
                "id": identifier,
                "target": target,
                "prediction": response.prediction,
                "format": format_score(response.completion),
                "accuracy": accuracy,
                "explanation": explanation,
                "sentences": _sentence_rows(response, own),
                "judged": verdict,
                "judge": judge,
                "taxonomy": taxonomy.name,
            }
        )
    return rows


def _sentence_rows(response: Response, readings: Sequence[SentenceReading] | None) -> list[dict[str, Any]]:
    if readings is None:
        return [{"text": sentence, "emotions": None, "probabilities": None} for sentence in response.sentences]
    return [
        {
            "text": reading.text,
            "emotions": list(reading.emotions),
            "probabilities": dict(zip(reading.labels, reading.probabilities.tolist(), strict=True)),
        }
        for reading in readings
    ]
