"""Reading a completion: rationale, answer, canonical emotion, sentences."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from datamodules.emotions import Taxonomy

_QUOTE_OR_GAP = re.compile(
    r"\"|(?<=[.!?。！？])\s+|(?<=[。！？])(?![\s。！？”’」』）\"])|(?<=[。！？][”’」』）])(?!\s)"
)
"""An ASCII quotation mark, or where a sentence ends: after `.`, `!`, `?` and white space; full-width ends need none."""

TAGS = ("<think>", "</think>", "<answer>", "</answer>")
"""Of a response: rationale, then answer."""

_OPENING = re.compile(r"<(\w+)>")


@dataclass
class Response:
    """A completion, read.

    Args:
        completion: the text as generated, without special tokens.
        rationale: text of the first `<think>`, stripped; empty when there is none.
        answer: text of the first `<answer>`, stripped; None when there is none.
        prediction: canonical emotion of the answer; None when it names no class (unknown).
        sentences: the rationale's sentences.
        sections: of each section that stands before the rationale, in the order in which they are asked for: the text
            of its first tag, stripped; empty where there is none.
    """

    completion: str
    rationale: str
    answer: str | None
    prediction: str | None
    sentences: tuple[str, ...]
    sections: Mapping[str, str] = field(default_factory=dict)


def split_sentences(rationale: str) -> tuple[str, ...]:
    """Split at white space that follows `.`, `!` or `?` and has an even number of ASCII `"` to its right.

    Full-width ends (`。！？`, with a closing quotation mark behind them) need no white space. Empty pieces are dropped.
    Abbreviations and list numbers get no special care.
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


def leading_sections(completion: str) -> dict[str, str]:
    """Whatever stands in tags before `<think>`: name → text of the first of that name."""
    before, opened, _ = completion.partition(TAGS[0])
    names = dict.fromkeys(_OPENING.findall(before)) if opened else ()
    texts = {name: first_tagged(before, name) for name in names}
    return {name: text for name, text in texts.items() if text is not None}


def is_well_formed(completion: str, sections: Sequence[str] = ()) -> bool:
    """Whether a completion has each tag once and in order, nothing before or after, white space in between.

    Args:
        completion: the generated text.
        sections: names of the tags that come before `<think>`.
    """
    tags = (*(f"<{slash}{name}>" for name in sections for slash in ("", "/")), *TAGS)
    pattern = re.compile("|".join(tags))
    if tuple(pattern.findall(completion)) != tags:
        return False
    before, *texts, after = pattern.split(completion)
    return not (before or any(between.strip() for between in texts[1::2]) or after)


def read_response(
    completion: str, taxonomy: Taxonomy, bare: bool = False, strict: bool = False, sections: Sequence[str] = ()
) -> Response:
    """Read a completion; malformed text gets a defined value, never an exception.

    Args:
        completion: the generated text.
        taxonomy: the classes that an answer may name.
        bare: take the whole completion as the answer, for baselines trained without tags (decision 1).
        strict: a completion that is not well-formed has neither rationale nor answer (decision 46).
        sections: names of the tags that come before `<think>`.
    """
    if strict and not bare and not is_well_formed(completion, sections):
        return Response(completion, "", None, None, (), dict.fromkeys(sections, ""))
    rationale = first_tagged(completion, "think") or ""
    answer = completion.strip() if bare else first_tagged(completion, "answer")
    before = {name: first_tagged(completion, name) or "" for name in sections}
    return Response(completion, rationale, answer, taxonomy.canonical(answer), split_sentences(rationale), before)
