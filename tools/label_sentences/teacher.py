"""A judge as teacher of stage 2: the question about a sentence, and how the reply is read.

The paper's verifier learns from sentences of rationales that a GPT model gave several of GoEmotions' 28 labels each.
Its prompt is not published; this one is our own (decision 15).
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from datamodules.emotions import GO_EMOTIONS
from lightning_modules.judges import Judge, VerifierJudge
from lightning_modules.judges.base import find_device
from lightning_modules.judges.prompt import PromptedJudge, shown_reply

MAX_TEACHER_LABELS = 3
"""Most labels that a teacher may give one sentence."""

_CHUNK_SIZE = 64
"""Sentences that a verifier reads together: the step of the progress bar."""

_DECORATION = " \t\r\n\"'`*_“”‘’.![]"
# Begun at the first of some spaces only: tried at each, it would take quadratic time.
_SEPARATOR = re.compile(r"[,;]|(?<![^\S\n])[^\S\n]*\n\s*")


@dataclass(frozen=True)
class Labelled:
    """What a teacher says of a sentence.

    Args:
        emotions: GoEmotions labels, each once, in the order of `GO_EMOTIONS`; None: no reply, or one that is invalid.
        reply: a language model's own words; None without one.
    """

    emotions: tuple[str, ...] | None
    reply: str | None = None


def label_prompt(sentence: str) -> str:
    """The question to the teacher."""
    return (
        "Which emotions does the sentence below express in the person that it describes? Choose the one to "
        f"{MAX_TEACHER_LABELS} labels that fit best from: {', '.join(GO_EMOTIONS)}. Choose neutral alone if it "
        "expresses no emotion. Reply with the labels only, separated by commas.\n"
        f"Sentence: {sentence}\nLabels:"
    )


def read_labels(reply: str | None) -> tuple[str, ...] | None:
    """The labels that a reply names, in the order of `GO_EMOTIONS`; None where the reply is invalid.

    Labels stand between commas, semicolons or line ends; case does not matter, nor do quotation marks, brackets,
    Markdown's emphasis and a full stop around them. One word that is no label, no label at all, or more than
    `MAX_TEACHER_LABELS` make the whole reply invalid: a part of an answer is another answer.
    """
    if reply is None:
        return None
    parts = _SEPARATOR.split(reply.strip(_DECORATION))
    named = {part.strip(_DECORATION).lower() for part in parts}
    if len(named) > MAX_TEACHER_LABELS or not named <= set(GO_EMOTIONS):
        return None
    return tuple(label for label in GO_EMOTIONS if label in named)


def require_teacher(judge: Judge) -> None:
    """Check that a judge can label sentences.

    Raises:
        ValueError: it cannot; the message says which can.
    """
    if isinstance(judge, VerifierJudge):
        if unknown := [label for label in judge.verifier.labels if label not in GO_EMOTIONS]:
            raise ValueError(f"{judge.name} has labels that are not GoEmotions': {', '.join(unknown)}.")
    elif not isinstance(judge, PromptedJudge):
        raise ValueError(
            f"{judge.name} cannot label sentences. Expected a VerifierJudge, a LanguageModelJudge or an EndpointJudge."
        )


def label_each(judge: Judge, sentences: Sequence[str]) -> Iterator[tuple[int, Labelled]]:
    """The labels of sentences as they come, each with the position of its sentence.

    A verifier gives the label sets that the reward would read; a language model is asked `label_prompt`.

    Args:
        judge: as `require_teacher` allows.
        sentences: no two alike.
    """
    if isinstance(judge, PromptedJudge):
        for i, reply in judge.ask([label_prompt(sentence) for sentence in sentences]):
            yield i, Labelled(read_labels(reply), shown_reply(reply))
        return
    assert isinstance(judge, VerifierJudge), "see require_teacher"
    judge.verifier.to(find_device(judge.device))
    for start in range(0, len(sentences), _CHUNK_SIZE):
        for i, reading in enumerate(judge.verifier.read(sentences[start : start + _CHUNK_SIZE]), start):
            yield i, Labelled(tuple(label for label in GO_EMOTIONS if label in reading.emotions))
