"""`python main.py score`: score the completions of any model.

It writes a row per completion and the metrics over all.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jsonargparse.typing import restricted_string_type
from rich.console import Console
from rich.progress import track
from rich.table import Table

from datamodules.emotions import Aliases, Taxonomy, get_taxonomy
from datamodules.files.printable import printable
from datamodules.files.writing import require_directory, write_json, write_rows
from datamodules.rationale import read_response
from lightning_modules.judges import FileJudge, Judge
from lightning_modules.judges.base import find_device
from lightning_modules.judges.prompt import PromptedJudge, each_verdict, follow
from lightning_modules.judges.verifier_judge import verifier_judge_name, verifier_verdict
from lightning_modules.metrics.records import read_records
from lightning_modules.metrics.unread_answers import UnreadAnswers, unread_summary
from lightning_modules.protocol import Protocol

JsonlFile = restricted_string_type("JsonlFile", r".+\.jsonl?", docstring="Path of a JSON Lines file.")
"""A path that the command line can tell from the name of a class."""

_CHUNK_SIZE = 256
"""Completions whose sentences the verifier reads together: the step of the progress bar."""


@dataclass(frozen=True)
class Completion:
    """A completion to score.

    Args:
        id: the clip's id.
        text: the completion as generated.
        target: canonical emotion of the clip, several joined by `_`.
        corpus: its name; empty where the file does not say.
    """

    id: str
    text: str
    target: str
    corpus: str = ""


def read_completions(path: str | Path, taxonomy: Taxonomy) -> list[Completion]:
    """Completions of a JSONL file with `{"id", "completion", "target"}` per line, and perhaps `dataset`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no completion, a malformed line, a repeated id or a target that is no class; names file and line.
    """
    completions = []
    for record in read_records(path, ["completion", "target"], ["dataset"]):
        text, target, corpus = (record.fields[name] for name in ("completion", "target", "dataset"))
        for name, value in (("completion", text), ("target", target), ("dataset", corpus or "")):
            if not isinstance(value, str):
                raise ValueError(f"{record.where}: {name} must be text; got {value!r}.")
        target = taxonomy.compound_target(target, record.where)
        completions.append(Completion(record.id, text, target, printable(corpus or "")))
    return completions


def score(
    completions: str,
    taxonomy: str,
    output: str,
    verifier: str | None = None,
    judge: JsonlFile | Judge | None = None,
    bare: bool = False,
    device: str = "auto",
    protocol: Protocol = "paper",
    aliases: Aliases = "published",
) -> dict[str, Any]:
    """Score a file of completions: rewards and sentence emotions per completion, metrics over all.

    Writes `rows.jsonl` (in input order) and `metrics.json` into the output directory.

    Args:
        completions: JSONL file with `{"id", "completion", "target"}` per line.
        taxonomy: the classes that targets and answers name: a name of `configs/taxonomy/`, or the path of such a file.
        output: directory for the results.
        verifier: Hugging Face directory or hub id of the sentence classifier; null: no explanation reward.
        judge: JSONL file with `{"id", "emotion"}` per line, as `python main.py judge` or a person writes it; or the
            class of a judge that reads the rationales now, its options as `--judge.OPTION`. A missing or invalid
            verdict counts as a failure. Without it the verifier, if there is one, is the judge, restricted to the
            taxonomy.
        bare: take the whole completion as the answer, for models trained without `<answer>` tags.
        device: where the verifier runs, e.g. `cpu` or `cuda:1`; `auto` is a GPU if there is one.
        protocol: whose EEA, UAR and question to the judge: the paper's, or what its released code computes.
        aliases: how answers are read: as published, to the letter; or `extended`, with other forms of a class' words
            (surprised, sad.).

    Returns:
        What `metrics.json` holds.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a malformed line, an unknown target or a repeated id (names file and line), answers of another
            language than the taxonomy's words, a verifier that does not load or lacks labels, or a judge file for other
            clips or another taxonomy.
        EndpointError: a judge behind an endpoint gives no reply.
    """
    # Torch and transformers take seconds to import, and `--help` does without.
    from callbacks.predictions import score_responses
    from lightning_modules.emotion_verifier import EmotionVerifier, SentenceReading
    from lightning_modules.metrics.emotion_report import CountedClip, EmotionReport
    from lightning_modules.metrics.emotion_sets import SetCounts

    require_directory(output, "rows.jsonl and metrics.json")
    classes = get_taxonomy(taxonomy, aliases)
    given = read_completions(completions, classes)
    ids, targets = [item.id for item in given], [item.target for item in given]
    responses = [read_response(item.text, classes, bare) for item in given]
    unread = UnreadAnswers()
    unread.update(responses)
    if foreign := unread.foreign(len(responses), classes):
        raise ValueError(f"{completions}: {foreign}")
    rationales = [response.rationale for response in responses]
    file_judge = FileJudge(judge) if isinstance(judge, str) else None
    verdicts = file_judge.verdicts(ids, classes, rationales) if file_judge else None
    readings: list[list[SentenceReading]] | None = None
    if verifier is not None:
        model = EmotionVerifier(verifier, taxonomy=taxonomy)
        model.to(find_device(device))
        readings = []
        for start in track(range(0, len(responses), _CHUNK_SIZE), description="Reading rationales"):
            readings += model.read_groups([response.sentences for response in responses[start : start + _CHUNK_SIZE]])
    reader = judge if isinstance(judge, Judge) else None
    follow(reader, protocol)
    if reader is not None:
        verdicts = judge_rationales(reader, rationales, classes)
    elif verdicts is None and readings is not None:
        verdicts = [verifier_verdict(own, classes) for own in readings]

    named = file_judge or reader
    judge_name = named.name if named else None if verifier is None else verifier_judge_name(verifier)
    report = EmotionReport(classes, judge_name, protocol)
    predicted, corpora = [response.prediction for response in responses], [item.corpus for item in given]
    report.update_clips(predicted, targets, verdicts)
    counted = map(CountedClip, corpora, predicted, targets, verdicts or [None] * len(ids))
    corpora_figures = report.of_corpora(Counter(counted))
    metrics = report.compute() | {"unread_answers": unread.commonest()}
    metrics |= {"corpora": corpora_figures} if corpora_figures else {}
    sets = SetCounts()
    sets.update([response.answer for response in responses], targets, classes)
    metrics |= {"emotion_sets": sets.compute()} if sets.has_sets else {}
    predictions = score_responses(ids, responses, targets, readings, verdicts, classes)
    write_rows(Path(output) / "rows.jsonl", [prediction.row(classes, judge_name) for prediction in predictions])
    write_json(Path(output) / "metrics.json", metrics)
    _print_summary(metrics, output)
    return metrics


def judge_rationales(judge: Judge, rationales: Sequence[str], taxonomy: Taxonomy) -> list[str | None]:
    """Canonical emotion of each rationale, None where invalid; with a progress bar, and a language model's report."""
    emotions: list[str | None] = [None] * len(rationales)
    judged = each_verdict(judge, rationales, taxonomy)
    try:
        for i, verdict in track(judged, total=len(rationales), description="Judging rationales"):
            emotions[i] = verdict.emotion
    finally:
        if isinstance(judge, PromptedJudge):
            Console().print(judge.report(), markup=False)
    return emotions


def _cells(metrics: dict[str, Any], names: Sequence[str]) -> list[str]:
    return ["–" if metrics[name] is None else f"{100 * metrics[name]:.2f}" for name in names]


def _print_summary(metrics: dict[str, Any], output: str) -> None:
    table = Table(title=f"{metrics['num_samples']} completions ({metrics['taxonomy']}), in percent")
    names = ("war", "uar", "eea", "epc", "fcr")
    for name in names:
        table.add_column(name.upper(), justify="right")
    table.add_row(*_cells(metrics, names))
    console = Console()
    console.print(table)
    for corpus, own in metrics.get("corpora", {}).items():
        figures = ", ".join(f"{name.upper()} {cell}" for name, cell in zip(names, _cells(own, names), strict=True))
        console.print(f"{corpus or 'no corpus'}: {own['num_samples']} completions, {figures}", markup=False)
    failures = "" if metrics["judge"] is None else f" Judge failures: {metrics['judge_failures']}."
    console.print(f"Unknown answers: {metrics['unknown_answers']}.{failures}")
    if metrics["unread_answers"]:
        console.print(unread_summary(metrics["unread_answers"]), markup=False)
    console.print(f"Judge: {metrics['judge'] or 'none'}. Results: {output}", markup=False)
