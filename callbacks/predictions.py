"""The figures of a clip: what a model said of it, its rewards and its sentences' emotions.

A run's files, alarms and ablations, and `score`, all take them from here.
"""

from collections.abc import Sequence
from dataclasses import replace

from callbacks.rewards import accuracy_score, format_score
from datamodules.emotions import Taxonomy
from datamodules.files.printable import readable_name
from datamodules.rationale import Response
from lightning_modules.coherence import explanation_score
from lightning_modules.emotion_verifier import SentenceReading
from lightning_modules.evaluation import Evaluation
from lightning_modules.metrics.predictions import PredictedSentence, Prediction
from lightning_modules.metrics.reliance import Reliance


def score_responses(
    ids: Sequence[str],
    responses: Sequence[Response],
    targets: Sequence[str | None],
    readings: Sequence[Sequence[SentenceReading]] | None,
    verdicts: Sequence[str | None] | None,
    taxonomy: Taxonomy,
    reliances: Sequence[Sequence[Reliance]] | None = None,
) -> list[Prediction]:
    """Completions with their rewards before weighting.

    Args:
        ids: the clips' ids.
        responses: the completions, read.
        targets: canonical emotions; None where a clip has no label: then `accuracy` and `explanation` are None.
        readings: what the verifier read in each completion's sentences. None without a verifier: then `explanation`
            and the sentences' `emotions` and `probabilities` are None.
        verdicts: the judge's emotion of each rationale; None where its reply is invalid. None without a judge.
        taxonomy: the classes.
        reliances: what each completion's sentences rest on; None where that was not measured.
    """
    judged: Sequence[str | None] = [None] * len(responses) if verdicts is None else verdicts
    read: Sequence[Sequence[SentenceReading] | None] = [None] * len(responses) if readings is None else readings
    rested: Sequence[Sequence[Reliance] | None] = [None] * len(responses) if reliances is None else reliances
    clips = zip(ids, responses, targets, read, judged, rested, strict=True)
    return [
        Prediction(
            id=identifier,
            target=target,
            prediction=response.prediction,
            format=format_score(response.completion, tuple(response.sections)),
            accuracy=None if target is None else accuracy_score(response.prediction, target),
            explanation=(
                None
                if target is None or own is None
                else explanation_score([one.emotions for one in own], target, taxonomy)
            ),
            sentences=_sentences(response, own, reliance),
            judged=verdict,
        )
        for identifier, response, target, own, verdict, reliance in clips
    ]


def score_evaluation(evaluation: Evaluation, taxonomy: Taxonomy) -> list[Prediction]:
    """The clips of an evaluated batch, with corpus, file, completion, transcript and why one could not be decoded."""
    batch, responses = evaluation.batch, evaluation.responses
    read = (evaluation.readings, evaluation.verdicts, taxonomy, evaluation.reliances)
    scored = score_responses(batch.ids, responses, batch.targets, *read)
    return [
        replace(
            prediction,
            dataset=batch.datasets[i],
            media=readable_name(batch.media[i]),
            completion=responses[i].completion,
            failure=batch.failures[i] or None,
            transcript=batch.transcripts[i],
        )
        for i, prediction in enumerate(scored)
    ]


def _sentences(
    response: Response, readings: Sequence[SentenceReading] | None, reliances: Sequence[Reliance] | None
) -> tuple[PredictedSentence, ...]:
    rested: Sequence[Reliance | None] = [None] * len(response.sentences) if reliances is None else reliances
    if readings is None:
        pairs = zip(response.sentences, rested, strict=True)
        return tuple(PredictedSentence(sentence, reliance=reliance) for sentence, reliance in pairs)
    return tuple(
        PredictedSentence(
            reading.text,
            reading.emotions,
            dict(zip(reading.labels, reading.probabilities.tolist(), strict=True)),
            reliance,
        )
        for reading, reliance in zip(readings, rested, strict=True)
    )
