"""Reading a completion: rationale, answer, canonical emotion, sentences."""

import re
from dataclasses import dataclass

from datamodules.emotions import Taxonomy

_QUOTE_OR_GAP = re.compile(r"\"|(?<=[.!?])\s+")

TAGS = ("<think>", "</think>", "<answer>", "</answer>")
"""Of a response: rationale, then answer."""

_TAG = re.compile("|".join(TAGS))


@dataclass
class Response:
    """A completion, read.

    Args:
        completion: the text as generated, without special tokens.
        rationale: text of the first `<think>`, stripped; empty when there is none.
        answer: text of the first `<answer>`, stripped; None when there is none.
        prediction: canonical emotion of the answer; None when it names no class (unknown).
        sentences: the rationale's sentences.
    """

    completion: str
    rationale: str
    answer: str | None
    prediction: str | None
    sentences: tuple[str, ...]


def split_sentences(rationale: str) -> tuple[str, ...]:
    """Split at white space that follows `.`, `!` or `?` and has an even number of ASCII `"` to its right.

    Empty pieces are dropped. Abbreviations, list numbers and full-width punctuation get no special care.
    """
    text = rationale.strip()
    pieces, start, quotes_to_the_right = [], 0, text.count('"')
    for found in _QUOTE_OR_GAP.finditer(text):
        if found[0] == '"':
            quotes_to_the_right -= 1
        elif quotes_to_the_right % 2 == 0:
            pieces.append(text[start : found.start()])
            start = found.end()
    return tuple(piece for piece in (*pieces, text[start:]) if piece)


def first_tagged(completion: str, tag: str) -> str | None:
    """Text between the first opening tag and the next closing one, stripped; None without the two."""
    _, opened, rest = completion.partition(f"<{tag}>")
    text, closed, _ = rest.partition(f"</{tag}>")
    return text.strip() if opened and closed else None


def is_well_formed(completion: str) -> bool:
    """Whether a completion has each tag once and in order, nothing before or after, white space in the middle."""
    if tuple(_TAG.findall(completion)) != TAGS:
        return False
    before, _, between, _, after = _TAG.split(completion)
    return not (before or between.strip() or after)


def read_response(completion: str, taxonomy: Taxonomy, bare: bool = False, strict: bool = False) -> Response:
    """Read a completion; malformed text gets a defined value, never an exception.

    Args:
        completion: the generated text.
        taxonomy: the classes that an answer may name.
        bare: take the whole completion as the answer, for baselines trained without tags (decision 1).
        strict: a completion that is not well-formed has neither rationale nor answer (decision 46).
    """
    if strict and not bare and not is_well_formed(completion):
        return Response(completion, "", None, None, ())
    rationale = first_tagged(completion, "think") or ""
    answer = completion.strip() if bare else first_tagged(completion, "answer")
    return Response(completion, rationale, answer, taxonomy.canonical(answer), split_sentences(rationale))
