"""Published class counts, and what they tell of a label file: other repositories' copies use other codings.

A copy that counts classes from 0, or in another order, loads without a murmur and trains on wrong labels. The class
shares of a whole split give it away (decision 11).
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from datamodules.emotions import COMPOUND_SEPARATOR, members

NUM_FOLDS = 5
"""Of MAFW and DFEW."""

Label = str | int | tuple[int, ...]
"""A label as a file has it: an emotion's name or several joined by `_`, a code, or several codes."""

_TOLERANCE = 0.02
"""Largest total variation distance between class shares that are taken for the same. Folds of DFEW and MAFW differ by
at most 0.011 (compound), their known wrong codings by 0.16 and more."""
_WHOLE = 0.9
"""A file with this share of the published clips or more is judged; of a smaller subset, class shares tell nothing."""


@dataclass(frozen=True)
class Published:
    """What is published of a split.

    Args:
        num_clips: its size, with the clips whose label has no class here.
        classes: canonical label → clips; empty where only the size is published.
        exact: False where `classes` is inferred, see `published_fold`.
    """

    num_clips: int
    classes: Mapping[str, int]
    exact: bool


@dataclass(frozen=True)
class Coding:
    """A numbering of the classes that circulates.

    Args:
        name: whose it is.
        classes: canonical emotions in the order of their codes.
        first: the first class' code.
    """

    name: str
    classes: tuple[str, ...]
    first: int


def published_fold(totals: Mapping[str, int], fold: int, split: str, exact: bool) -> Published:
    """What is published of one split of a corpus whose five test splits partition it.

    Each class is cut into five equal runs; the first test splits take one clip more where it does not come out even:
    n // 5 + (fold <= n % 5) clips. That gives all published sizes of DFEW's and MAFW's folds, single and compound, the
    class counts of all of DFEW's split files, and those of MAFW's fold 5; of its other folds they are inferred.

    Args:
        totals: clips per class in the whole corpus.
        fold: which fold, from 1.
        split: `train`, else the test split is meant.
        exact: whether the class counts of this fold are published ones.
    """
    test = {name: total // NUM_FOLDS + (fold <= total % NUM_FOLDS) for name, total in totals.items()}
    classes = {name: total - test[name] for name, total in totals.items()} if split == "train" else test
    return Published(sum(classes.values()), classes, exact)


def _distance(counts: Mapping[str, int], published: Published) -> float:
    """Total variation distance between two distributions over classes, 0..1."""
    total, expected = sum(counts.values()), sum(published.classes.values())
    names = set(counts) | set(published.classes)
    return sum(abs(counts.get(n, 0) / total - published.classes.get(n, 0) / expected) for n in names) / 2


def wrong_coding(
    labels: Sequence[Label], own: Coding, others: Sequence[Coding], published: Published | None
) -> str | None:
    """The likely cause if a whole split's labels are in another coding than the corpus' own; else None.

    Args:
        labels: one per clip; names are canonical ones.
        own: the corpus' coding.
        others: codings that circulate, of the same classes.
        published: of this split; None when nothing is.
    """
    if published is None or not published.classes or len(labels) < _WHOLE * published.num_clips:
        return None
    counts = Counter(_codes(label, own) for label in labels)
    as_own = _decode(counts, own, own.first, own.classes)
    if as_own is not None and _distance(as_own, published) <= _TOLERANCE:
        return None
    named = all(isinstance(label, str) for label in labels)
    for coding in others:
        # Names can only come from codes that were read with the corpus' own table, by position.
        decoded = _decode(counts, coding, own.first if named else coding.first, own.classes)
        if decoded is not None and _distance(decoded, published) <= _TOLERANCE:
            what = "the codes behind its names" if named else "its codes"
            return (
                f"its class counts are the published ones if {what} are read as those of {coding.name} "
                f"({coding.first}={coding.classes[0]}, {coding.first + 1}={coding.classes[1]}, ...), and not with the "
                f"corpus' own ({own.first}={own.classes[0]}, {own.first + 1}={own.classes[1]}, ...). "
                "Use the label files as the corpus' authors distribute them."
            )
    if as_own is None:
        return None  # the rows that are out of range are named one by one
    sizes, expected = sorted(as_own.values()), sorted(published.classes.values())
    spread = sum(abs(a - b) for a, b in zip(sizes, expected, strict=False)) / (2 * len(labels))
    # In another order the sizes match, and the classes do not; clips that are missing from one class change both.
    if len(sizes) == len(expected) and spread <= min(_TOLERANCE, _distance(as_own, published) / 4):
        found = ", ".join(f"{name} {as_own.get(name, 0)} (published: {n})" for name, n in published.classes.items())
        return (
            f"its classes have the published sizes, but in another order: {found}. Its label codes are in an order "
            "that is not the corpus' own; use the label files as the corpus' authors distribute them."
        )
    return None


def _codes(label: Label, own: Coding) -> tuple[int, ...] | None:
    """Codes of a label, those of a name by the corpus' own coding; None for a name that is no class."""
    if isinstance(label, int):
        return (label,)
    if isinstance(label, tuple):
        return label
    names = members(label)
    if not set(names) <= set(own.classes):
        return None
    return tuple(own.first + own.classes.index(name) for name in names)


def _decode(
    counts: Mapping[tuple[int, ...] | None, int], coding: Coding, first: int, order: Sequence[str]
) -> dict[str, int] | None:
    """Clips per class if the codes are those of a coding that starts at `first`; None if some are out of its range.

    Several emotions of a clip are joined in `order`, the corpus' own.
    """
    decoded = Counter[str]()
    for codes, count in counts.items():
        if codes is None or not all(0 <= code - first < len(coding.classes) for code in codes):
            return None
        names = {coding.classes[code - first] for code in codes}
        decoded[COMPOUND_SEPARATOR.join(sorted(names, key=order.index))] += count
    return decoded
