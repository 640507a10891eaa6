"""How far two rationales of a clip are apart, by their words and by their sentences."""

import re
from collections import Counter
from collections.abc import Sequence

_WORD = re.compile(r"\w+(?:['’-]\w+)*")


def word_distance(first: str, second: str) -> float:
    """Jaccard distance of the sets of words, 1 − |A ∩ B| / |A ∪ B|, in [0, 1]; case and punctuation do not count.

    Args:
        first: a text.
        second: a text; 0 where both have no word, 1 where one has none.
    """
    one, other = (set(_WORD.findall(text.casefold())) for text in (first, second))
    union = one | other
    return 1 - len(one & other) / len(union) if union else 0.0


def share_of_sentences_kept(before: Sequence[str], after: Sequence[str]) -> float | None:
    """Share of the sentences before that are there after, verbatim, in any order; each counts as often as it stands.

    Args:
        before: sentences.
        after: sentences.

    Returns:
        The share in [0, 1]; None where there was no sentence before.
    """
    if not before:
        return None
    return (Counter(before) & Counter(after)).total() / len(before)
