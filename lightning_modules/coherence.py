"""How a sentence of a rationale relates to an emotion: what the inspection colours and the alarms count."""

from collections.abc import Collection
from typing import Literal

from datamodules.emotions import target_labels

Relation = Literal["matching", "neutral", "contradicting"]
"""A sentence expresses the emotion, no emotion, or other emotions only."""


def relation(emotions: Collection[str], target: str | None) -> Relation | None:
    """Relation of a sentence to a target, as the explanation reward counts it (spec "Rewards").

    Args:
        emotions: the verifier's label set of the sentence.
        target: canonical emotion, or several joined by `_`, of which any may match; None: there is no label.

    Returns:
        None without a target, except for a sentence that is only neutral.
    """
    if target is not None and not target_labels(target).isdisjoint(emotions):
        return "matching"
    if set(emotions) == {"neutral"}:
        return "neutral"
    return None if target is None else "contradicting"
