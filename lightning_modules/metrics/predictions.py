"""Prediction files read back: what `score`, `test` and `predict` wrote, for tools that look at finished runs."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from datamodules.emotions import Taxonomy, get_taxonomy, members
from datamodules.files.printable import printable
from lightning_modules.metrics.records import Record, read_records
from lightning_modules.metrics.reliance import Reliance

UNKNOWN = "unknown"
"""Column of a confusion matrix for answers that name no class."""

INVALID = "invalid"
"""Column of rationales that the judge named no class for."""


@dataclass(frozen=True)
class PredictedSentence:
    """A sentence of a rationale.

    Args:
        text: the sentence.
        emotions: the verifier's label set, most probable first; None where no verifier read it.
        probabilities: verifier label → probability; None where no verifier read it.
        reliance: what it rests on; None where that was not measured.
    """

    text: str
    emotions: tuple[str, ...] | None = None
    probabilities: Mapping[str, float] | None = None
    reliance: Reliance | None = None


@dataclass(frozen=True)
class Prediction:
    """What a model said of one clip, and what it earned: a line of `predictions.jsonl` or `rows.jsonl`.

    Args:
        id: the clip's id.
        target: canonical emotion, several joined by `_`; None without a label.
        prediction: canonical emotion of the answer; None when it names no class.
        format: format reward, 0 or 1.
        accuracy: accuracy reward, 0 or 1; None without a label.
        explanation: explanation reward in [0, 1]; None without a label or a verifier.
        sentences: of the rationale.
        judged: emotion that the judge reads in the rationale; None: an invalid reply, or no judge.
        dataset: name of the corpus; None in `rows.jsonl`.
        media: path of the clip; None in `rows.jsonl`.
        completion: the text as generated; None in `rows.jsonl`.
        failure: why the clip could not be decoded, or None.
        transcript: what is said in the clip, where the corpus knows it; None in `rows.jsonl`.
    """

    id: str
    target: str | None
    prediction: str | None
    format: float
    accuracy: float | None
    explanation: float | None
    sentences: tuple[PredictedSentence, ...]
    judged: str | None
    dataset: str | None = None
    media: str | None = None
    completion: str | None = None
    failure: str | None = None
    transcript: str | None = None

    def row(self, taxonomy: Taxonomy, judge: str | None) -> dict[str, Any]:
        """The line as plain JSON values; `read_predictions` reads it.

        Args:
            taxonomy: the classes of target, prediction and verdict.
            judge: name of the judge; None without one.
        """
        own = asdict(self)
        for sentence in own["sentences"]:
            if sentence["reliance"] is None:
                del sentence["reliance"]
        clip = {name: own.pop(name) for name in ("dataset", "media", "completion", "failure", "transcript")}
        return {
            **own,
            "judge": judge,
            "taxonomy": taxonomy.name,
            **{name: value for name, value in clip.items() if value is not None},
        }


@dataclass(frozen=True)
class PredictionFile:
    """All predictions of a file, which share taxonomy and judge.

    Args:
        path: the file.
        taxonomy: the classes.
        judge: name of the judge; None without one.
        predictions: in the order of the file, each id once.
    """

    path: Path
    taxonomy: Taxonomy
    judge: str | None
    predictions: tuple[Prediction, ...]


def read_predictions(path: str | Path) -> PredictionFile:
    """Read `predictions.jsonl` or `rows.jsonl`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no line at all, a malformed line (a cut one, for instance), a repeated id, an emotion that is no
            class, or lines of several taxonomies or judges; names file and line.
    """
    required = ["target", "prediction", "format", "accuracy", "explanation", "sentences", "taxonomy"]
    optional = ["judged", "judge", "dataset", "media", "completion", "failure", "transcript"]
    records = read_records(path, required, optional)
    first = records[0]
    for record in records:
        for name in ("taxonomy", "judge"):
            if record.fields[name] != first.fields[name]:
                raise ValueError(
                    f"{record.where}: {name} is {record.fields[name]!r}, and {first.fields[name]!r} at {first.where}. "
                    "Expected predictions of one taxonomy and one judge in a file: give one file each."
                )
    try:
        taxonomy = get_taxonomy(str(first.fields["taxonomy"]))
    except (FileNotFoundError, ValueError) as error:
        raise ValueError(f"{first.where}: the taxonomy: {error}") from error
    predictions = tuple(_prediction(record, taxonomy) for record in records)
    return PredictionFile(Path(path), taxonomy, _name(first, "judge"), predictions)


def _prediction(record: Record, taxonomy: Taxonomy) -> Prediction:
    target = _text(record, "target")
    for name, emotions in (
        ("target", () if target is None else members(target)),
        ("prediction", (_text(record, "prediction"),)),
        ("judged", (_text(record, "judged"),)),
    ):
        for emotion in emotions:
            if emotion is not None and emotion not in taxonomy.classes:
                raise ValueError(
                    f"{record.where}: {name} is {emotion!r}; expected null or a {taxonomy.name} emotion: "
                    f"{', '.join(taxonomy.classes)}."
                )
    sentences = record.fields["sentences"]
    if not isinstance(sentences, list):
        raise ValueError(f"{record.where}: sentences must be a list; got {json.dumps(sentences)[:80]}.")
    rewards = {name: _number(record, name) for name in ("format", "accuracy", "explanation")}
    if rewards["format"] is None:
        raise ValueError(f"{record.where}: format must be a number; got null.")
    return Prediction(
        id=record.id,
        target=target,
        prediction=_text(record, "prediction"),
        format=rewards["format"],
        accuracy=rewards["accuracy"],
        explanation=rewards["explanation"],
        sentences=tuple(_sentence(sentence, record.where) for sentence in sentences),
        judged=_text(record, "judged"),
        dataset=_name(record, "dataset"),
        media=_text(record, "media"),
        completion=_text(record, "completion"),
        failure=_name(record, "failure"),
        transcript=_text(record, "transcript"),
    )


def _text(record: Record, name: str) -> str | None:
    value = record.fields[name]
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{record.where}: {name} must be text or null; got {value!r}.")
    return value


def _name(record: Record, name: str) -> str | None:
    """A text that is shown on screens."""
    value = _text(record, name)
    return None if value is None else printable(value)


def _number(record: Record, name: str) -> float | None:
    value = record.fields[name]
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ValueError(f"{record.where}: {name} must be a number in [0, 1] or null; got {value!r}.")
    return float(value)


def _sentence(sentence: Any, where: str) -> PredictedSentence:
    expected = (
        "expected an object with text, emotions (a list or null), probabilities (label to number in [0, 1], or null), "
        "and perhaps reliance (pictures, sound and both, each a number or null)"
    )
    if not isinstance(sentence, dict) or not isinstance(sentence.get("text"), str):
        raise ValueError(f"{where}: a sentence is {json.dumps(sentence)[:80]}; {expected}.")
    emotions, probabilities = sentence.get("emotions"), sentence.get("probabilities")
    readable = emotions is None or (isinstance(emotions, list) and all(isinstance(e, str) for e in emotions))
    readable &= probabilities is None or (
        isinstance(probabilities, dict)
        and all(isinstance(p, int | float) and not isinstance(p, bool) and 0 <= p <= 1 for p in probabilities.values())
    )
    reliance = sentence.get("reliance")
    readable &= reliance is None or _is_reliance(reliance)
    if not readable:
        raise ValueError(f"{where}: a sentence is {json.dumps(sentence)[:80]}; {expected}.")
    return PredictedSentence(
        sentence["text"],
        None if emotions is None else tuple(emotions),
        probabilities,
        None if reliance is None else Reliance(**reliance),
    )


def _is_reliance(value: Any) -> bool:
    names = {own.name for own in fields(Reliance)}
    if not isinstance(value, dict) or not value.keys() <= names:
        return False
    nats = [own for own in value.values() if own is not None]
    return bool(nats) and all(isinstance(n, int | float) and not isinstance(n, bool) for n in nats)


def by_corpus(predictions: Sequence[Prediction]) -> dict[str, list[Prediction]]:
    """Corpus → its clips; empty where there are fewer than two corpora, or clips of none."""
    corpora: dict[str, list[Prediction]] = {}
    for prediction in predictions:
        corpora.setdefault(prediction.dataset or "", []).append(prediction)
    return corpora if len(corpora) > 1 and "" not in corpora else {}


def joint_ids(files: Sequence[PredictionFile], intersect: bool) -> tuple[list[str], dict[Path, int]]:
    """The clips that all of several files have.

    Args:
        files: at least one.
        intersect: leave clips that some file lacks out, instead of refusing them.

    Returns:
        The ids, in the order of the first file, and how many clips of each file are left out.

    Raises:
        ValueError: the files have different clips (without `intersect`), no clip in common, different targets for a
            clip, or different taxonomies.
    """
    first = files[0]
    targets = {prediction.id: prediction.target for prediction in first.predictions}
    shared = set(targets)
    for other in files[1:]:
        if other.taxonomy != first.taxonomy:
            raise ValueError(
                f"{first.path} has the taxonomy {first.taxonomy.name} and {other.path} {other.taxonomy.name}. "
                "Only predictions over the same classes can be put side by side."
            )
        for prediction in other.predictions:
            if prediction.id in targets and prediction.target != targets[prediction.id]:
                raise ValueError(
                    f"Clip {prediction.id!r} has the target {targets[prediction.id]!r} in {first.path} and "
                    f"{prediction.target!r} in {other.path}: these are predictions over different label sets."
                )
        shared &= {prediction.id for prediction in other.predictions}
    dropped = {file.path: len(file.predictions) - len(shared) for file in files}
    if not shared:
        raise ValueError(f"No clip is in all of {', '.join(str(file.path) for file in files)}.")
    if any(dropped.values()) and not intersect:
        counts = ", ".join(f"{file.path}: {len(file.predictions)} clips" for file in files)
        raise ValueError(
            f"The files are over different clips ({counts}; {len(shared)} are in all of them). Compare runs over the "
            "same clips, or leave the others out with --intersect."
        )
    return [identifier for identifier in targets if identifier in shared], dropped
