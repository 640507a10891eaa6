"""`python main.py judge`: a judge's verdicts on the rationales of a prediction file."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

from datamodules.emotions import Taxonomy
from datamodules.files.json_log import JsonLog
from datamodules.files.writing import json_line, write_rows
from datamodules.rationale import read_response
from lightning_modules.judges import Judge
from lightning_modules.judges.prompt import PromptedJudge, Verdict, each_verdict, follow
from lightning_modules.metrics.predictions import Prediction, read_predictions
from lightning_modules.metrics.records import read_records
from lightning_modules.protocol import Protocol


def rationale_of(prediction: Prediction, taxonomy: Taxonomy) -> str:
    """The rationale that a judge reads: that of the completion, or, in `rows.jsonl`, the sentences in their order."""
    if prediction.completion is None:
        return " ".join(sentence.text for sentence in prediction.sentences)
    return read_response(prediction.completion, taxonomy).rationale


class VerdictFile:
    """Verdicts on clips, `{"id", "emotion", "reply", "judge", "taxonomy", "rationale"}` per line.

    While judging lasts, they go to `PATH.partial`, each at once; the file itself appears when all are there.

    Args:
        path: the file; it need not exist.
        judge: name of the judge.
        taxonomy: the classes.

    Raises:
        ValueError: the file is there and holds something else than verdicts of this judge in this taxonomy.
    """

    def __init__(self, path: str | Path, judge: str, taxonomy: Taxonomy) -> None:
        self.path = Path(path)
        self.partial = self.path.with_name(f"{self.path.name}.partial")
        self.judge = judge
        self.taxonomy = taxonomy
        self._rows: dict[str, dict[str, Any]] = {}
        JsonLog(self.partial).drop_cut_line()
        for file in (self.path, self.partial):
            if file.is_file() and file.stat().st_size:
                self._read(file)

    def _read(self, file: Path) -> None:
        own = {"judge": self.judge, "taxonomy": self.taxonomy.name}
        for record in read_records(file, ["emotion", "reply", "judge", "taxonomy", "rationale"]):
            if other := {name: record.fields[name] for name in own if record.fields[name] != own[name]}:
                raise ValueError(
                    f"{record.where} holds a verdict with {other}; expected { {name: own[name] for name in other} }. "
                    "Give each judge and taxonomy an output of its own."
                )
            self._rows[record.id] = {"id": record.id, **record.fields}

    def keep(self, rationales: Mapping[str, str]) -> list[str]:
        """Forget what is not a verdict on these rationales; returns the ids without one.

        Kept is a verdict on the same words that is valid, or came with a reply. Requests that failed are made again.

        Args:
            rationales: id → rationale.
        """
        kept = {
            identifier: row
            for identifier, row in self._rows.items()
            if row["rationale"] == rationales.get(identifier)
            and (row["emotion"] is not None or row["reply"] is not None)
        }
        self._rows = kept
        return [identifier for identifier in rationales if identifier not in kept]

    def judge_missing(self, judge: Judge, missing: Mapping[str, str]) -> None:
        """Judge rationales and write each verdict as it comes.

        Args:
            judge: whose name the file was opened with.
            missing: id → rationale, as `keep` found.
        """
        ids = list(missing)
        write_rows(self.partial, self._rows.values())
        log = JsonLog(self.partial)
        judged = each_verdict(judge, list(missing.values()), self.taxonomy)
        for i, verdict in track(judged, total=len(ids), description="Judging rationales"):
            row = self._row(ids[i], missing[ids[i]], verdict)
            log.append(json_line(row))
            self._rows[ids[i]] = row

    def _row(self, identifier: str, rationale: str, verdict: Verdict) -> dict[str, Any]:
        return {
            "id": identifier,
            "emotion": verdict.emotion,
            "reply": verdict.reply,
            "judge": self.judge,
            "taxonomy": self.taxonomy.name,
            "rationale": rationale,
        }

    def finish(self, ids: Sequence[str]) -> list[str | None]:
        """Write the file, in the order of these clips, all judged; returns their emotions."""
        rows = [self._rows[identifier] for identifier in ids]
        write_rows(self.path, rows)
        self.partial.unlink(missing_ok=True)
        return [row["emotion"] for row in rows]


def judge_predictions(predictions: str, judge: Judge, output: str, protocol: Protocol = "paper") -> dict[str, Any]:
    """Have a judge read the rationales of a prediction file, and write its verdicts.

    Verdicts are kept as they come: the same command again judges only what is missing, rationales that have changed
    among it. The output serves `score --judge` and `agreement`.

    Args:
        predictions: predictions.jsonl of `test` or `predict`, or rows.jsonl of `score`.
        judge: class of the judge, its options as `--judge.OPTION`.
        output: JSONL file for `{"id", "emotion", "reply", "judge", "taxonomy", "rationale"}` per line; emotion is null
            where the verdict is invalid.
        protocol: whose question is asked: the paper's, or its released code's.

    Returns:
        `judge`, `taxonomy`, `num_clips`, `kept` (verdicts of an earlier run), `invalid`, and `emotions` (emotion →
        verdicts).

    Raises:
        FileNotFoundError: no prediction file.
        ValueError: a malformed line or a repeated id (names file and line), or an output that holds something else.
        EndpointError: a judge behind an endpoint gives no reply.
    """
    if Path(output).is_dir():
        raise ValueError(f"The output {output} is a directory. Give a file, such as {output}/verdicts.jsonl.")
    follow(judge, protocol)
    given = read_predictions(predictions)
    rationales = {own.id: rationale_of(own, given.taxonomy) for own in given.predictions}
    file = VerdictFile(output, judge.name, given.taxonomy)
    missing = file.keep(rationales)
    try:
        if missing:
            file.judge_missing(judge, {identifier: rationales[identifier] for identifier in missing})
    finally:
        if isinstance(judge, PromptedJudge):
            Console().print(judge.report(), markup=False)
    emotions = file.finish(list(rationales))
    counts = Counter(emotions)
    result = {
        "judge": judge.name,
        "taxonomy": given.taxonomy.name,
        "num_clips": len(emotions),
        "kept": len(emotions) - len(missing),
        "invalid": counts[None],
        "emotions": {emotion: counts[emotion] for emotion in given.taxonomy.classes},
    }
    _print(result, output)
    return result


def _print(result: dict[str, Any], output: str) -> None:
    table = Table(title=f"{result['num_clips']} rationales")
    table.add_column("verdict")
    table.add_column("clips", justify="right")
    for emotion, count in result["emotions"].items():
        table.add_row(emotion, str(count))
    table.add_section()
    table.add_row("invalid", str(result["invalid"]))
    console = Console()
    console.print(table)
    console.print(f"Judge: {result['judge']}.", markup=False, soft_wrap=True)
    console.print(f"{result['kept']} verdicts were there before. Written: {output}", markup=False, soft_wrap=True)
