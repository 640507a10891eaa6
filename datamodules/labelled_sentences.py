"""Sentences with GoEmotions labels, and the files that they stand in.

Two forms, told apart by the file's ending: `.jsonl`, one `{"text": sentence, "emotions": [labels]}` per line, and
`.tsv`, GoEmotions' own `text<TAB>id,id<TAB>comment_id` without a header.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from datamodules.emotions import GO_EMOTIONS
from datamodules.files.json_files import read_json_lines, shown
from datamodules.files.text import numbered_lines, read_text, require_file

_LABEL_IDS = {str(number): label for number, label in enumerate(GO_EMOTIONS)}


@dataclass(frozen=True)
class LabelledSentence:
    """A sentence and the GoEmotions labels it expresses, in the order of `GO_EMOTIONS`."""

    text: str
    emotions: tuple[str, ...]


def read_sentences(path: str | Path) -> list[LabelledSentence]:
    """Sentences of a `.jsonl` or `.tsv` file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another ending, a malformed row, an unknown label (both name file and row), or no sentence at all.
    """
    path = Path(path)
    require_file(path, "Expected labelled sentences.")
    readers = {".jsonl": _read_json_lines, ".tsv": _read_tsv}
    if path.suffix.lower() not in readers:
        raise ValueError(f"{path}: cannot tell its form. Expected an ending among {', '.join(readers)}.")
    sentences = list(readers[path.suffix.lower()](path))
    if not sentences:
        raise ValueError(f"{path} has no sentences.")
    return sentences


def _read_json_lines(path: Path) -> Iterator[LabelledSentence]:
    for row, source in read_json_lines(path):
        content = row if isinstance(row, dict) else {}
        if not isinstance(content.get("text"), str) or not isinstance(content.get("emotions"), list):
            raise ValueError(
                f'{source}: got {shown(row, 120)}. Expected {{"text": sentence, "emotions": [GoEmotions labels]}}.'
            )
        yield _labelled(content["text"], content["emotions"], source)


def _read_tsv(path: Path) -> Iterator[LabelledSentence]:
    for line, source in numbered_lines(read_text(path), path):
        columns = line.split("\t")
        ids = columns[1].split(",") if len(columns) == 3 else []
        if not ids or not all(value.isdecimal() for value in ids):
            raise ValueError(f"{source}: got {line[:120]!r}. Expected text<TAB>ids with commas<TAB>comment id.")
        unknown = [value for value in ids if value not in _LABEL_IDS]
        if unknown:
            raise ValueError(f"{source}: label id {unknown[0]} is not one of GoEmotions' 0 to {len(GO_EMOTIONS) - 1}.")
        yield _labelled(columns[0], [_LABEL_IDS[value] for value in ids], source)


def _labelled(text: str, labels: list, source: str) -> LabelledSentence:
    if not text.strip():
        raise ValueError(f"{source}: the text is empty.")
    if not labels:
        raise ValueError(f"{source}: no label. A sentence without emotion has the label 'neutral'.")
    unknown = [label for label in labels if label not in GO_EMOTIONS]
    if unknown:
        raise ValueError(f"{source}: {unknown[0]!r:.80} is not a GoEmotions label. Expected: {', '.join(GO_EMOTIONS)}.")
    return LabelledSentence(text, tuple(label for label in GO_EMOTIONS if label in labels))


def split_by_text(
    sentences: Sequence[LabelledSentence], fraction: float, seed: int
) -> tuple[list[LabelledSentence], list[LabelledSentence]]:
    """Training and validation part; equal texts stay on one side, so that validation sentences are unseen.

    Args:
        sentences: the training file.
        fraction: share of the distinct texts held out, in [0, 1); at least one text when above 0 and there are two.
        seed: of the draw.
    """
    texts = list(dict.fromkeys(sentence.text for sentence in sentences))
    wanted = min(max(round(fraction * len(texts)), 1), len(texts) - 1) if fraction > 0 else 0
    held_out = set(random.Random(seed).sample(texts, wanted))
    return (
        [sentence for sentence in sentences if sentence.text not in held_out],
        [sentence for sentence in sentences if sentence.text in held_out],
    )
