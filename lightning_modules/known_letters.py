"""Was what reads a text made for its language? A vocabulary tells which letters it knows.

An English encoder gives any text some label: bytes or unknown tokens are input, too. A table of English words reads no
Chinese answer. Only scripts are told apart, as English from Chinese, not languages of one script.
"""

import string
from collections.abc import Iterable, Set
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ENOUGH = 500
"""Letters that are read before anything is said."""

_ASCII = frozenset(string.ascii_lowercase)

LARGEST_SHARE = 0.5
"""Of letters that are not known."""


def letters_of(texts: Iterable[str]) -> frozenset[str]:
    """Letters that some text has, in lower case."""
    return frozenset(letter for text in texts for letter in text.lower() if letter.isalpha())


def unknown_letters(text: str, known: Set[str]) -> tuple[int, list[str]]:
    """Number of letters in a text, and those that are not known."""
    letters = [letter for letter in text.lower() if letter.isalpha()]
    return len(letters), [letter for letter in letters if letter not in known]


class KnownLetters:
    """Counts the letters that a tokenizer has in no token.

    Args:
        tokenizer: of the classifier.
        path: of the classifier, for the message.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", path: str) -> None:
        self.tokenizer = tokenizer
        self.path = path
        self.num_letters = 0
        self.num_unknown = 0

    @cached_property
    def known(self) -> frozenset[str]:
        """Letters that some token spells, in any case."""
        return letters_of(self.tokenizer.batch_decode([[i] for i in range(len(self.tokenizer))]))

    def see(self, text: str) -> None:
        """Count the letters of a text.

        Raises:
            ValueError: of `ENOUGH` letters so far, more than `LARGEST_SHARE` are in no token.
        """
        num_letters, foreign = unknown_letters(text, _ASCII)
        foreign = [letter for letter in foreign if letter not in self.known]
        self.num_letters += num_letters
        self.num_unknown += len(foreign)
        if self.num_letters >= ENOUGH and self.num_unknown > LARGEST_SHARE * self.num_letters:
            raise ValueError(
                f"{100 * self.num_unknown / self.num_letters:.0f} % of the letters in the rationales (such as "
                f"{''.join(dict.fromkeys(foreign))[-8:]}) are in no token of the verifier {self.path}: it was made for "
                "another language. Train one from a multilingual encoder (stage 2 with --model.path "
                "FacebookAI/xlm-roberta-base) on sentences of this language, or name a verifier of it."
            )
