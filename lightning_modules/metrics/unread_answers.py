"""Which answers named no class: a model that says `surprised` is not one that says nothing."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from datamodules.files.printable import printable
from datamodules.rationale import Response

NUM_ANSWERS = 10
"""The commonest so many are listed."""
_MAX_CHARACTERS = 60
_MAX_DIFFERENT = 10_000
"""Answers that are told apart; a model that answers with essays would fill the memory."""


class UnreadAnswers:
    """Counts the answers of completions that name no class."""

    def __init__(self) -> None:
        self.counts: Counter[str | None] = Counter()

    def update(self, responses: Iterable[Response]) -> None:
        """Count those of some completions."""
        for response in responses:
            if response.prediction is None:
                answer = None if response.answer is None else printable(response.answer[:_MAX_CHARACTERS])
                if answer in self.counts or len(self.counts) < _MAX_DIFFERENT:
                    self.counts[answer] += 1

    def commonest(self) -> list[dict[str, Any]]:
        """`answer` (None: the completion has none) and `count`, the commonest first."""
        ranked = sorted(self.counts.items(), key=lambda item: (-item[1], item[0] or ""))
        return [{"answer": answer, "count": count} for answer, count in ranked[:NUM_ANSWERS]]


def unread_summary(unread: Sequence[dict[str, Any]]) -> str:
    """The answers as a sentence for the screen."""
    named = ", ".join(
        f"{'no answer' if own['answer'] is None else repr(own['answer'])} ({own['count']})" for own in unread
    )
    return f"Answers that name no class: {named}."
