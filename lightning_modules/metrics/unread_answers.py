"""Which answers named no class: a model that says `surprised` is not one that says nothing."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from datamodules.emotions import Taxonomy
from datamodules.files.printable import printable
from datamodules.rationale import Response
from lightning_modules.known_letters import LARGEST_SHARE, letters_of, unknown_letters

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

    def foreign(self, num_samples: int, taxonomy: Taxonomy) -> str | None:
        """What is wrong where most answers are of another language than the words that they are read with; else None.

        Args:
            num_samples: how many completions there are.
            taxonomy: that the answers were read with.
        """
        known = letters_of((*taxonomy.classes, *taxonomy.aliases, *taxonomy.words))
        foreign: Counter[str] = Counter()
        for answer, count in self.counts.items():
            num_letters, unknown = unknown_letters(answer or "", known)
            if answer is not None and len(unknown) > LARGEST_SHARE * num_letters:
                foreign[answer] += count
        if foreign.total() <= LARGEST_SHARE * num_samples:
            return None
        return (
            f"{100 * foreign.total() / num_samples:.0f} % of the answers (such as {foreign.most_common(1)[0][0]}) are "
            f"spelled in letters that no class or alias of the taxonomy {taxonomy.name} has: it was made for another "
            "language. Read them with `aliases: extended`, which knows Chinese, or add the words to the aliases in a "
            "taxonomy of your own."
        )


def unread_summary(unread: Sequence[dict[str, Any]]) -> str:
    """The answers as a sentence for the screen."""
    named = ", ".join(
        f"{'no answer' if own['answer'] is None else repr(own['answer'])} ({own['count']})" for own in unread
    )
    return f"Answers that name no class: {named}."
