"""Stage 2's file of labelled sentences, written line by line."""

import json
import logging
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from datamodules.files.json_log import JsonLog
from datamodules.files.writing import json_line
from datamodules.labelled_sentences import LabelledSentence, read_sentences

logger = logging.getLogger(__name__)


class LabelFile:
    """A JSONL file that only grows, `{"text", "emotions", "labeller"}` per line; `RationaleText` reads it.

    Args:
        path: the file; it need not exist. A last line that a kill cut short is taken away.
        labeller: who labels. Lines without the field, a person's for instance, may stand beside.

    Raises:
        ValueError: another ending than `.jsonl`, a malformed line (names file and line), or a line of another labeller.
    """

    def __init__(self, path: str | Path, labeller: str) -> None:
        self.path = Path(path)
        self.labeller = labeller
        self.sentences: list[LabelledSentence] = []
        if self.path.suffix != ".jsonl":
            raise ValueError(f"The output {path} must end in .jsonl: stage 2 tells the form of its files by it.")
        self._log = JsonLog(self.path)
        if self._log.drop_cut_line():
            logger.warning("%s: the last line was cut short; its sentence is labelled again.", self.path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            self.sentences = read_sentences(self.path) if self.path.stat().st_size else []
            self._require_one_labeller()

    def _require_one_labeller(self) -> None:
        with self.path.open(encoding="utf-8-sig", newline="\n") as file:
            for number, line in enumerate(file, start=1):
                other = json.loads(line).get("labeller", self.labeller) if line.strip() else self.labeller
                if other != self.labeller:
                    raise ValueError(
                        f"{self.path}:{number} was labelled by {other!r}, not by {self.labeller!r}. Give each labeller "
                        "a file of its own."
                    )

    def add(self, sentence: LabelledSentence) -> None:
        """Append a sentence; it is in the file when this returns."""
        row = {"text": sentence.text, "emotions": list(sentence.emotions), "labeller": self.labeller}
        self._log.append(json_line(row))
        self.sentences.append(sentence)


def count_labels(sentences: Sequence[LabelledSentence]) -> Counter[str]:
    """Number of sentences that have each label."""
    return Counter(label for sentence in sentences for label in sentence.emotions)


def balanced(sentences: Sequence[LabelledSentence], max_per_label: int, seed: int) -> list[LabelledSentence]:
    """Sentences of which at most a given number has any one label; those with rare labels are taken first.

    The paper's labels are balanced, it does not say how (decision 14). A sentence is taken if none of its labels is
    full; sentences come in the order of their rarest label's number, and at random among equals.

    Args:
        sentences: labelled.
        max_per_label: largest number of sentences with one label.
        seed: of the order among equals.

    Returns:
        In the order of `sentences`.
    """
    frequency = count_labels(sentences)
    order = list(range(len(sentences)))
    random.Random(seed).shuffle(order)
    order.sort(key=lambda i: min(frequency[label] for label in sentences[i].emotions))
    taken, counts = [], Counter[str]()
    for i in order:
        if all(counts[label] < max_per_label for label in sentences[i].emotions):
            counts.update(sentences[i].emotions)
            taken.append(i)
    return [sentences[i] for i in sorted(taken)]
