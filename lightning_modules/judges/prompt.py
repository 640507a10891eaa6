"""Language models as judges: the paper's question, how a reply is read, and what every such judge shares."""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from datamodules.emotions import Taxonomy
from datamodules.files.printable import printable
from lightning_modules.judges.base import Judge
from lightning_modules.protocol import Protocol

_CHUNK_SIZE = 64
"""Rationales that a judge which asks nobody reads together: the step of a progress bar."""

DECORATION = " \t\r\n\"'`*_“”‘’.!"
"""Around a word, these leave it the same word: quotation marks, Markdown's emphasis, the end of a sentence."""


_RELEASED = " (released)"


def judge_prompt(rationale: str, taxonomy: Taxonomy, protocol: Protocol = "paper") -> str:
    """The question to the judge.

    The paper's prompt to GPT-4.1-mini. The names are the taxonomy's for a judge, or its classes, in their order,
    separated by a comma and a space (decision 31).
    """
    others = {**taxonomy.judge_names, **(taxonomy.released_names if protocol == "released" else {})}
    names = ", ".join(others.get(emotion, emotion) for emotion in taxonomy.classes)
    return (
        f"Read the reasoning content and respond with the appropriate emotion in {names}. "
        f"Reply with only the emotion word.\nReason: {rationale}\nAnswer Emotion:"
    )


def read_reply(reply: str | None, taxonomy: Taxonomy) -> str | None:
    """Canonical emotion of a language model's reply, or None (invalid).

    The whole reply must be one class or alias (decision 32). Quotation marks, Markdown's emphasis and a full stop or
    exclamation mark around it are taken off (`**Sad**.` is sadness).
    """
    return None if reply is None else taxonomy.canonical(reply.strip(DECORATION))


def shown_reply(reply: str | None) -> str | None:
    """A reply as files and screens have it: a model, or whoever is behind an endpoint, may write escape sequences."""
    return None if reply is None else printable(reply, multiline=True)


@dataclass(frozen=True)
class Verdict:
    """What a judge says of a rationale.

    Args:
        emotion: canonical; None: invalid.
        reply: a language model's own words; None without one.
    """

    emotion: str | None
    reply: str | None = None


class PromptedJudge(Judge):
    """A judge that asks a language model; a subclass says how."""

    protocol: Protocol = "paper"
    """Whose question is asked; set by who evaluates."""

    def __init__(self, name: str) -> None:
        self.name = printable(name)
        self.num_judged = 0
        self.num_invalid = 0
        self.unread_reply: str | None = None
        """The first reply that names no class, for the report."""

    @abstractmethod
    def ask(self, prompts: Sequence[str]) -> Iterator[tuple[int, str | None]]:
        """Replies as they come, each with the position of its prompt; None where there was none to be had.

        Args:
            prompts: no two alike.
        """

    def stream(self, rationales: Sequence[str], taxonomy: Taxonomy) -> Iterator[tuple[int, Verdict]]:
        """Verdicts as they come, each with the position of its rationale.

        An empty rationale is invalid without being asked about; equal rationales are asked about once.
        """
        positions: dict[str, list[int]] = {}
        for i, rationale in enumerate(rationales):
            if rationale.strip():
                positions.setdefault(judge_prompt(rationale, taxonomy, self.protocol), []).append(i)
            else:
                yield i, self._counted(Verdict(None))
        prompts = list(positions)
        for asked, reply in self.ask(prompts):
            emotion = read_reply(reply, taxonomy)
            for i in positions[prompts[asked]]:
                yield i, self._counted(Verdict(emotion, shown_reply(reply)))

    def _counted(self, verdict: Verdict) -> Verdict:
        self.num_judged += 1
        if verdict.emotion is None:
            self.num_invalid += 1
            if self.unread_reply is None:
                self.unread_reply = verdict.reply
        return verdict

    def judge(self, rationales: Sequence[str], taxonomy: Taxonomy) -> list[str | None]:
        """Canonical emotion of each rationale, or None where it is empty or the reply names no class."""
        emotions: list[str | None] = [None] * len(rationales)
        for i, verdict in self.stream(rationales, taxonomy):
            emotions[i] = verdict.emotion
        return emotions

    def report(self) -> str:
        """What was judged so far by this process, for the screen."""
        example = "" if self.unread_reply is None else f", such as the reply {self.unread_reply[:60]!r}"
        return f"{self.name}: {self.num_judged} rationales judged, {self.num_invalid} invalid{example}."


def follow(judge: Judge | None, protocol: Protocol) -> None:
    """Let a judge that asks a language model ask as a protocol says; others have nothing to ask.

    Its name says so where it is not the paper's: verdicts on another question are another judge's.
    """
    if isinstance(judge, PromptedJudge):
        judge.name = judge.name.removesuffix(_RELEASED) + (_RELEASED if protocol == "released" else "")
        judge.protocol = protocol


def each_verdict(judge: Judge, rationales: Sequence[str], taxonomy: Taxonomy) -> Iterator[tuple[int, Verdict]]:
    """Any judge's verdicts as they come, each with the position of its rationale."""
    if isinstance(judge, PromptedJudge):
        yield from judge.stream(rationales, taxonomy)
        return
    for start in range(0, len(rationales), _CHUNK_SIZE):
        emotions = judge.judge(rationales[start : start + _CHUNK_SIZE], taxonomy)
        yield from ((start + i, Verdict(emotion)) for i, emotion in enumerate(emotions))
