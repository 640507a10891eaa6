"""What a report holds, as plain JSON values: runs with their figures, and clips with what each run said of them."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from callbacks.colours import EMOTIONS, RELATIONS, SYMBOLS, colour_of
from datamodules.emotions import Taxonomy, members
from datamodules.rationale import leading_sections, read_response
from datamodules.synthetic.truth import ClipTruth
from lightning_modules.coherence import relation
from lightning_modules.metrics.claims import FIGURES, run_grounding, sentence_support
from lightning_modules.metrics.intervals import LEVEL, RATES, rate_intervals
from lightning_modules.metrics.predictions import (
    INVALID,
    UNKNOWN,
    PredictedSentence,
    Prediction,
    PredictionFile,
    by_corpus,
)
from lightning_modules.metrics.reward_hacking import prediction_alarms
from tools.report.media import ClipMedia

_SHOWN_LABELS = 6
"""The verifier's most probable labels of a sentence that the page shows, beside its label set and the target's."""


@dataclass(frozen=True)
class Run:
    """A prediction file under the name that the page gives it.

    Args:
        name: differs from that of the other runs.
        file: its predictions.
    """

    name: str
    file: PredictionFile


def run_names(paths: Sequence[Path]) -> list[str]:
    """The folders of prediction files without what all of them share; all of the last two folders for a single file.

    `runs/a/test/predictions.jsonl` and `runs/b/test/predictions.jsonl` are `a` and `b`.
    """
    parts = [path.absolute().with_suffix("").parts for path in paths]
    if len(paths) == 1:
        return ["/".join(parts[0][-3:-1]) or parts[0][-1]]
    shortest = min(map(len, parts))
    head = next((i for i in range(shortest) if len({own[i] for own in parts}) > 1), shortest)
    tail = next((i for i in range(shortest - head) if len({own[-1 - i] for own in parts}) > 1), shortest - head)
    return ["/".join(own[head : len(own) - tail]) or own[-1] for own in parts]


def check_runs(runs: Sequence[Run]) -> None:
    """Refuse runs that cannot stand on one page.

    Raises:
        ValueError: two runs of one name, different taxonomies, or a clip with two targets.
    """
    first = runs[0]
    if len({run.name for run in runs}) < len(runs):
        raise ValueError(
            f"Each run needs a name of its own; got {', '.join(run.name for run in runs)}. Give --names, or each file "
            "only once."
        )
    targets: dict[str, tuple[str, str]] = {}
    for run in runs:
        if run.file.taxonomy != first.file.taxonomy:
            raise ValueError(
                f"{first.file.path} has the taxonomy {first.file.taxonomy.name} and {run.file.path} "
                f"{run.file.taxonomy.name}. Make one report for each taxonomy."
            )
        for prediction in run.file.predictions:
            if prediction.target is None:
                continue
            target, name = targets.setdefault(prediction.id, (prediction.target, run.name))
            if target != prediction.target:
                raise ValueError(
                    f"Clip {prediction.id!r} has the target {target!r} in {name} and {prediction.target!r} in "
                    f"{run.name}: the files are of different corpora or label sets. Make one report for each."
                )


def page_data(
    title: str, runs: Sequence[Run], media: Mapping[str, ClipMedia], truths: Mapping[str, ClipTruth] | None = None
) -> dict[str, Any]:
    """All that the page shows.

    Args:
        title: of the page.
        runs: at least one; of one taxonomy, see `check_runs`.
        media: clip id → its pictures and player, for every clip of the runs.
        truths: clip id → what the clip shows, for every clip of the runs; None where it is not known.
    """
    taxonomy = runs[0].file.taxonomy
    return {
        "title": title,
        "taxonomy": {
            "name": taxonomy.name,
            "classes": list(taxonomy.classes),
            "labels": dict(taxonomy.labels),
        },
        "colours": colours(taxonomy),
        "intervals": f"below them {100 * LEVEL:.0f} % intervals over clips (score intervals).",
        "notes": _notes(media),
        "grounding": FIGURES,
        "runs": [_run_data(run, truths) for run in runs],
        "clips": _clips(runs, media, truths or {}),
    }


def colours(taxonomy: Taxonomy) -> dict[str, dict[str, str]]:
    """Colours and symbols of relations, colours of emotions."""
    return {
        "relations": RELATIONS,
        "symbols": SYMBOLS,
        "emotions": EMOTIONS | {emotion: colour_of(emotion, taxonomy) for emotion in taxonomy.classes},
    }


def _notes(media: Mapping[str, ClipMedia]) -> list[str]:
    """What is missing in the whole report."""
    without_file = sum(own.source is None for own in media.values())
    undecoded = sum(own.source is not None and own.strip is None and bool(own.notes) for own in media.values())
    silent = sum(own.strip is not None and own.spectrogram is None for own in media.values())
    counts = (
        (without_file, "have no media file at hand: no pictures and no player"),
        (undecoded, "do not decode: no pictures"),
        (silent, "have no sound that decodes: no spectrogram"),
    )
    return [f"{count} of {len(media)} clips {what}." for count, what in counts if count]


def _run_data(run: Run, truths: Mapping[str, ClipTruth] | None) -> dict[str, Any]:
    predictions, taxonomy, judge = run.file.predictions, run.file.taxonomy, run.file.judge
    known = None if truths is None else [truths[prediction.id] for prediction in predictions]
    return {
        "name": run.name,
        "path": str(run.file.path),
        "judge": judge,
        "num_clips": len(predictions),
        "num_labelled": sum(prediction.target is not None for prediction in predictions),
        "unknown_answers": sum(prediction.prediction is None for prediction in predictions),
        "judge_failures": sum(prediction.judged is None for prediction in predictions) if judge else None,
        "num_undecoded": sum(prediction.failure is not None for prediction in predictions),
        "rates": _rates(predictions, taxonomy),
        "corpora": {
            name: {"num_clips": len(own), "rates": _rates(own, taxonomy)}
            for name, own in by_corpus(predictions).items()
        },
        "grounding": None if known is None else run_grounding(predictions, known, judge is not None),
        "confusions": confusions(predictions, taxonomy, judge is not None),
        "alarms": [asdict(alarm) | {"warns": alarm.warns} for alarm in prediction_alarms(predictions, taxonomy)],
    }


def _rates(predictions: Sequence[Prediction], taxonomy: Taxonomy) -> dict[str, dict[str, float] | None]:
    rates = rate_intervals(predictions, taxonomy)
    return {name: asdict(rates[name]) if name in rates else None for name in RATES}


def confusions(predictions: Sequence[Prediction], taxonomy: Taxonomy, judged: bool) -> dict[str, dict[str, Any] | None]:
    """Answer × target, explanation × target and explanation × answer.

    Args:
        predictions: compound targets are left out of the matrices that have targets.
        taxonomy: the classes.
        judged: whether there was a judge.

    Returns:
        Matrix → `rows`, `columns` and `counts` of clips, or None where there is no pair to count.
    """
    classes = list(taxonomy.classes)
    answers, verdicts = [*classes, UNKNOWN], [*classes, INVALID]
    single = [own for own in predictions if own.target is not None and len(members(own.target)) == 1]
    explained = predictions if judged else ()
    return {
        "answer_target": _matrix([(own.target, own.prediction or UNKNOWN) for own in single], classes, answers),
        "explanation_target": _matrix(
            [(own.target, own.judged or INVALID) for own in single if judged], classes, verdicts
        ),
        "explanation_answer": _matrix(
            [(own.prediction or UNKNOWN, own.judged or INVALID) for own in explained], answers, verdicts
        ),
    }


def _matrix(pairs: Sequence[tuple[str | None, str]], rows: list[str], columns: list[str]) -> dict[str, Any] | None:
    if not pairs:
        return None
    counts = [[0] * len(columns) for _ in rows]
    for row, column in pairs:
        counts[rows.index(str(row))][columns.index(column)] += 1
    return {"rows": rows, "columns": columns, "counts": counts}


def _clips(
    runs: Sequence[Run], media: Mapping[str, ClipMedia], truths: Mapping[str, ClipTruth]
) -> list[dict[str, Any]]:
    """The clips of all runs, in the order of the first run that has them."""
    by_id = [{prediction.id: prediction for prediction in run.file.predictions} for run in runs]
    clips = []
    for identifier in dict.fromkeys(identifier for own in by_id for identifier in own):
        said = [own.get(identifier) for own in by_id]
        target = next((own.target for own in said if own is not None and own.target is not None), None)
        truth = truths.get(identifier)
        clips.append(
            {
                "id": identifier,
                "target": target,
                "targets": [] if target is None else list(members(target)),
                "dataset": next((own.dataset for own in said if own is not None and own.dataset), None),
                "transcript": next((own.transcript for own in said if own is not None and own.transcript), None),
                "truth": None if truth is None else asdict(truth),
                **asdict(media[identifier]),
                "runs": [
                    None if own is None else _said(own, target, truth, run.file)
                    for own, run in zip(said, runs, strict=True)
                ],
            }
        )
    return clips


def _said(prediction: Prediction, target: str | None, truth: ClipTruth | None, file: PredictionFile) -> dict[str, Any]:
    """What a run said of a clip, and how target, answer and explanation agree (None where one of two is not there)."""
    judged, answer = prediction.judged, prediction.prediction
    has_judge = file.judge is not None
    return {
        "prediction": answer,
        "answer": None if prediction.completion is None else read_response(prediction.completion, file.taxonomy).answer,
        "judged": judged,
        "right": None if target is None else answer in members(target),
        "judged_is_answer": judged is not None and judged == answer if has_judge else None,
        "judged_is_target": judged in members(target) if has_judge and target is not None else None,
        "format": prediction.format,
        "accuracy": prediction.accuracy,
        "explanation": prediction.explanation,
        "completion": prediction.completion,
        "sections": leading_sections(prediction.completion or ""),
        "failure": prediction.failure,
        "sentences": [_sentence(sentence, target, truth, file.taxonomy) for sentence in prediction.sentences],
    }


def _sentence(
    sentence: PredictedSentence, target: str | None, truth: ClipTruth | None, taxonomy: Taxonomy
) -> dict[str, Any]:
    emotions, probabilities = sentence.emotions, sentence.probabilities
    goals = () if target is None else taxonomy.target_labels(target)
    return {
        "text": sentence.text,
        "emotions": None if emotions is None else list(emotions),
        "relation": None if emotions is None else relation(emotions, target, taxonomy),
        "support": None if truth is None else sentence_support(sentence.text, truth),
        "reliance": None if sentence.reliance is None else asdict(sentence.reliance),
        "probabilities": None if probabilities is None else _shown(probabilities, {*(emotions or ()), *goals}),
    }


def _shown(probabilities: Mapping[str, float], also: Collection[str]) -> list[tuple[str, float]]:
    """The labels of a sentence that are worth showing with their probabilities, most probable first."""
    ranked = sorted(probabilities, key=lambda label: -probabilities[label])
    wanted = {*ranked[:_SHOWN_LABELS], *also}
    return [(label, round(probabilities[label], 4)) for label in ranked if label in wanted]
