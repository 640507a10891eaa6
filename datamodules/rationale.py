"""Reading a completion: rationale, answer, canonical emotion, sentences (spec "Reading a completion")."""

import re
from dataclasses import dataclass

from datamodules.emotions import Taxonomy

_THINK = re.compile(r"<think>(.*?)</think>", re.DOTALL)
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_SENTENCE_GAP = re.compile(r"(?<=[.!?])\s+(?=(?:[^\"]*\"[^\"]*\")*[^\"]*$)")


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

    Empty pieces are dropped. Abbreviations, list numbers and full-width punctuation get no special care (spec).
    """
    return tuple(piece for piece in _SENTENCE_GAP.split(rationale.strip()) if piece)


def read_response(completion: str, taxonomy: Taxonomy, bare: bool = False) -> Response:
    """Read a completion; malformed text gets a defined value, never an exception.

    Args:
        completion: the generated text.
        taxonomy: the classes that an answer may name.
        bare: take the whole completion as the answer, for baselines trained without tags.
    """
    think = _THINK.search(completion)
    rationale = think.group(1).strip() if think else ""
    if bare:
        answer: str | None = completion.strip()
    else:
        found = _ANSWER.search(completion)
        answer = found.group(1).strip() if found else None
    return Response(completion, rationale, answer, taxonomy.canonical(answer), split_sentences(rationale))
