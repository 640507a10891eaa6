"""Teacher labels for stage 2: `python main.py label_sentences`.

With `fit` of stage 2 after it, this is the paper's distillation of a language model into the verifier.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table

from datamodules.clip_source import ClipSource
from datamodules.emotions import GO_EMOTIONS, MAFW_TAXONOMY
from datamodules.files.writing import write_rows
from datamodules.labelled_sentences import LabelledSentence
from datamodules.rationale import read_response, split_sentences
from lightning_modules.judges import EndpointJudge, Judge
from lightning_modules.metrics.records import Record, read_records
from tools.label_sentences.label_file import LabelFile, balanced, count_labels
from tools.label_sentences.teacher import label_each, require_teacher


def read_rationales(path: str | Path) -> list[tuple[str, ...]]:
    """The sentences of each rationale in a JSONL file.

    A line has an `id` and `sentences` (`predictions.jsonl`, `rows.jsonl`), a `completion` with `<think>` (as `score`
    takes), or a `rationale` without tags; the first of these counts.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a malformed line (a cut one, for instance), a repeated id, or no line; names file and line.
    """
    return [_sentences(record) for record in read_records(path, [], ["sentences", "completion", "rationale"])]


def _sentences(record: Record) -> tuple[str, ...]:
    sentences = record.fields["sentences"]
    if isinstance(sentences, list):
        texts = [sentence.get("text") if isinstance(sentence, dict) else None for sentence in sentences]
        if all(isinstance(text, str) for text in texts):
            return tuple(stripped for text in texts if (stripped := text.strip()))
    if sentences is None:
        completion, rationale = record.fields["completion"], record.fields["rationale"]
        if isinstance(completion, str):
            return _completion_sentences(completion)
        if completion is None and isinstance(rationale, str):
            return split_sentences(rationale)
    raise ValueError(
        f"{record.where}: expected sentences (a list of objects with text), a completion or a rationale (text); got "
        f"{ {name: value for name, value in record.fields.items() if value is not None}!r:.120}."
    )


def _completion_sentences(completion: str) -> tuple[str, ...]:
    # The taxonomy matters for the answer only.
    return read_response(completion, MAFW_TAXONOMY).sentences


def corpus_rationales(data: ClipSource) -> list[tuple[str, ...]]:
    """The sentences of each rationale that a corpus' training split has.

    Raises:
        FileNotFoundError, ValueError: the label files cannot be read, or have no rationale.
    """
    responses = [record.response for record in data.read_splits()["train"] if record.response is not None]
    if not responses:
        raise ValueError(f"{data.name} at {data.root} has no rationales to label in its training split.")
    return [_completion_sentences(response) for response in responses]


def label_sentences(
    labeller: Judge,
    output: str,
    predictions: list[str] | None = None,
    data: ClipSource | None = None,
    max_per_label: int | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Give the sentences of rationales one or several of GoEmotions' 28 labels, for stage 2.

    Each distinct sentence is labelled once and written at once. A second run with the same output labels only what is
    missing: what was interrupted, had no reply, or a reply that is no list of labels. An EndpointJudge keeps replies of
    the last kind, too: another `--labeller.cache` has them asked for anew.

    Args:
        labeller: who labels: `VerifierJudge`, `LanguageModelJudge` or `EndpointJudge`, e.g. `--labeller VerifierJudge
            --labeller.verifier runs/verifier/model`.
        output: JSONL file for `{"text", "emotions", "labeller"}` per line, as `RationaleText` takes it.
        predictions: JSONL files with an `id` and `sentences` (predictions.jsonl), a `completion` or a `rationale` per
            line.
        data: a corpus, whose training rationales are taken, e.g. `--data EMER --data.root data/emer`.
        max_per_label: also write a balanced choice, in which no label has more sentences, to OUTPUT.balanced.jsonl.
        seed: of the balanced choice.

    Returns:
        `rationales`, `sentences`, `distinct`, `already_labelled`, `labelled`, `failed`, and `per_label`: sentences in
        the output, by label.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: nothing to label, a malformed line (names file and line), an output of another labeller, a judge
            that cannot label, or `max_per_label` below 1.
    """
    if max_per_label is not None and max_per_label < 1:
        raise ValueError(f"max_per_label must be at least 1; got {max_per_label}.")
    require_teacher(labeller)
    rationales = [rationale for path in predictions or [] for rationale in read_rationales(path)]
    if data is not None:
        rationales += corpus_rationales(data)
    distinct = list(dict.fromkeys(sentence for rationale in rationales for sentence in rationale))
    if not distinct:
        raise ValueError(
            "There is no sentence to label. Give --predictions FILE [FILE ...] or --data with a corpus of rationales."
        )
    file = LabelFile(output, labeller.name)
    known = {sentence.text for sentence in file.sentences}
    missing = [sentence for sentence in distinct if sentence not in known]
    unread = _label_missing(labeller, missing, file)
    counts = count_labels(file.sentences)
    result = {
        "rationales": len(rationales),
        "sentences": sum(map(len, rationales)),
        "distinct": len(distinct),
        "already_labelled": len(distinct) - len(missing),
        "labelled": len(missing) - len(unread),
        "failed": len(unread),
        "per_label": {label: counts[label] for label in GO_EMOTIONS},
    }
    chosen = None
    if max_per_label is not None:
        chosen = balanced(file.sentences, max_per_label, seed)
        rows = [{"text": sentence.text, "emotions": list(sentence.emotions)} for sentence in chosen]
        write_rows(_balanced_path(file.path), rows)
    _print(result, file, chosen, unread)
    if isinstance(labeller, EndpointJudge):
        Console().print(labeller.usage_report(), markup=False)
    return result


def _balanced_path(path: Path) -> Path:
    return path.with_name(f"{path.stem}.balanced.jsonl")


def _label_missing(labeller: Judge, missing: Sequence[str], file: LabelFile) -> list[str | None]:
    """Label and write; returns the replies that were no labels, None where there was no reply."""
    unread = []
    for i, given in track(label_each(labeller, missing), description="Labelling sentences", total=len(missing)):
        if given.emotions is None:
            unread.append(given.reply)
        else:
            file.add(LabelledSentence(missing[i], given.emotions))
    return unread


def _print(
    result: dict[str, Any], file: LabelFile, chosen: Sequence[LabelledSentence] | None, unread: Sequence[str | None]
) -> None:
    console = Console()
    table = Table(title=f"{len(file.sentences)} labelled sentences")
    table.add_column("label")
    table.add_column("sentences", justify="right")
    chosen_counts = None if chosen is None else count_labels(chosen)
    if chosen_counts is not None:
        table.add_column("balanced", justify="right")
    for label, number in sorted(result["per_label"].items(), key=lambda item: -item[1]):
        if number:
            table.add_row(label, str(number), *([] if chosen_counts is None else [str(chosen_counts[label])]))
    if file.sentences:
        console.print(table)
    console.print(f"Labelled by {file.labeller}", markup=False, soft_wrap=True)
    console.print(
        f"{result['rationales']} rationales, {result['sentences']} sentences, {result['distinct']} distinct: "
        f"{result['already_labelled']} labelled before, {result['labelled']} now, {result['failed']} failed."
    )
    absent = [label for label, number in result["per_label"].items() if not number]
    if file.sentences and absent:
        console.print(
            f"[bold yellow]Warning:[/] {len(absent)} of {len(GO_EMOTIONS)} labels never occur, and stage 2 cannot "
            f"learn them: {', '.join(absent)}."
        )
    if unread:
        replies = [reply for reply in unread if reply is not None]
        example = f" {len(replies)} of the replies are no labels, such as {replies[0][:60]!r}." if replies else ""
        console.print(
            f"[bold yellow]Warning:[/] {len(unread)} sentences have no labels.{escape(example)} They are not in the "
            "output, and the next run tries them again."
        )
    written = [str(file.path)] + ([] if chosen is None else [f"{_balanced_path(file.path)} ({len(chosen)} sentences)"])
    console.print(f"Written: {' and '.join(written)}", markup=False, soft_wrap=True)
