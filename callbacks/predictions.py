"""The figures of a clip: what a model said of it, its rewards and its sentences' emotions.

A run's files, alarms and ablations, and `score`, all take them from here.
"""

from collections.abc import Sequence
from dataclasses import replace

from callbacks.rewards import accuracy_score, format_score
from datamodules.files.printable import readable_name
from datamodules.rationale import Response
from lightning_modules.coherence import explanation_score
from lightning_modules.emotion_verifier import SentenceReading
from lightning_modules.metrics.predictions import PredictedSentence, Prediction
from lightning_modules.policy import Evaluation


def score_responses(
    ids: Sequence[str],
    responses: Sequence[Response],
    targets: Sequence[str | None],
    readings: Sequence[Sequence[SentenceReading]] | None,
    verdicts: Sequence[str | None] | None,
) -> list[Prediction]:
    """Completions with their rewards before weighting.

    Args:
        ids: the clips' ids.
        responses: the completions, read.
        targets: canonical emotions; None where a clip has no label: then `accuracy` and `explanation` are None.
        readings: what the verifier read in each completion's sentences. None without a verifier: then `explanation`
            and the sentences' `emotions` and `probabilities` are None.
        verdicts: the judge's emotion of each rationale; None where its reply is invalid. None without a judge.
    """
    judged: Sequence[str | None] = [None] * len(responses) if verdicts is None else verdicts
    read: Sequence[Sequence[SentenceReading] | None] = [None] * len(responses) if readings is None else readings
    return [
        Prediction(
            id=identifier,
            target=target,
            prediction=response.prediction,
            format=format_score(response.completion),
            accuracy=None if target is None else accuracy_score(response.prediction, target),
            explanation=(
                None if target is None or own is None else explanation_score([one.emotions for one in own], target)
            ),
            sentences=_sentences(response, own),
            judged=verdict,
        )
        for identifier, response, target, own, verdict in zip(ids, responses, targets, read, judged, strict=True)
    ]


def score_evaluation(evaluation: Evaluation) -> list[Prediction]:
    """The clips of an evaluated batch, with corpus, file, completion and why a clip could not be decoded."""
    batch, responses = evaluation.batch, evaluation.responses
    scored = score_responses(batch.ids, responses, batch.targets, evaluation.readings, evaluation.verdicts)
    return [
        replace(
            prediction,
            dataset=batch.datasets[i],
            media=readable_name(batch.media[i]),
            completion=responses[i].completion,
            failure=batch.failures[i] or None,
        )
        for i, prediction in enumerate(scored)
    ]


def _sentences(response: Response, readings: Sequence[SentenceReading] | None) -> tuple[PredictedSentence, ...]:
    if readings is None:
        return tuple(PredictedSentence(sentence) for sentence in response.sentences)
    return tuple(
        PredictedSentence(
            reading.text, reading.emotions, dict(zip(reading.labels, reading.probabilities.tolist(), strict=True))
        )
        for reading in readings
    )
