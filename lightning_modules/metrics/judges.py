"""Judges: read only a rationale and name one emotion of the taxonomy (spec "Metrics").

An invalid reply is None: it equals nothing, is counted as a failure, and never becomes `neutral`. Use a judge that is
not the verifier which gave the reward; otherwise stage 3 optimises its own metric.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch

from datamodules.emotions import Taxonomy
from lightning_modules.emotion_verifier import EmotionVerifier, SentenceReading
from lightning_modules.metrics.records import read_records
from lightning_modules.rationale import split_sentences


@runtime_checkable
class Judge(Protocol):
    """Names the emotion that a rationale speaks of."""

    name: str
    """Stands in `metrics.json`: who judged."""

    def judge(self, rationales: Sequence[str], taxonomy: Taxonomy) -> list[str | None]:
        """Canonical emotion of each rationale, or None where the reply is invalid."""
        ...


def verifier_verdict(readings: Sequence[SentenceReading], taxonomy: Taxonomy) -> str | None:
    """Class whose verifier label has the highest mean probability over a rationale's sentences.

    Args:
        readings: what the verifier read in each sentence.
        taxonomy: the classes to choose from; the first of them wins a tie.

    Returns:
        The canonical emotion; None without a sentence (invalid).
    """
    if not readings:
        return None
    columns = [readings[0].labels.index(label) for label in taxonomy.verifier_labels]
    means = torch.stack([reading.probabilities[columns] for reading in readings]).mean(dim=0)
    return taxonomy.classes[int(means.argmax())]


class VerifierJudge:
    """The verifier, restricted to the taxonomy's classes, as judge: the offline default.

    Args:
        verifier: reads the sentences; preferably not the verifier that gave the reward.
    """

    def __init__(self, verifier: EmotionVerifier) -> None:
        self.verifier = verifier
        self.name = f"verifier:{verifier.path}"

    def judge(self, rationales: Sequence[str], taxonomy: Taxonomy) -> list[str | None]:
        """Canonical emotion of each rationale, or None where it has no sentence.

        Raises:
            ValueError: the verifier lacks a label that the taxonomy needs.
        """
        self.verifier.require(taxonomy)
        groups = self.verifier.read_groups([split_sentences(rationale) for rationale in rationales])
        return [verifier_verdict(readings, taxonomy) for readings in groups]


class FileJudge:
    """Verdicts that a judge outside this program (a person, an LLM) wrote to a file, by clip.

    Args:
        path: JSONL, `{"id", "emotion"}` per line; the emotion is the judge's reply, as it came, or null.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a malformed line or a repeated id; names file and line.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.name = f"file:{path}"
        self._replies: dict[str, str | None] = {}
        for record in read_records(self.path, ["emotion"]):
            reply = record.fields["emotion"]
            if reply is not None and not isinstance(reply, str):
                raise ValueError(f"{record.where}: emotion must be text or null; got {reply!r}.")
            self._replies[record.id] = reply

    def verdicts(self, ids: Sequence[str], taxonomy: Taxonomy) -> list[str | None]:
        """Canonical emotion for each clip; None (invalid) where the file has no line or no class is named.

        Raises:
            ValueError: the file has a verdict for none of the clips, so it belongs to other completions.
        """
        if ids and not self._replies.keys() & set(ids):
            raise ValueError(
                f"{self.path} has no verdict for any of the {len(ids)} clips (the first is {ids[0]!r}; the file's "
                f"first is {next(iter(self._replies))!r}). Give the judge file that belongs to these completions."
            )
        return [taxonomy.canonical(self._replies.get(identifier)) for identifier in ids]
