"""How sentences of a rationale relate to an emotion: what the explanation reward, the colours and the alarms count."""

from collections.abc import Collection, Sequence
from typing import Literal

from datamodules.emotions import target_labels

Relation = Literal["matching", "neutral", "contradicting"]
"""A sentence expresses the emotion, no emotion, or other emotions only."""


def relation(emotions: Collection[str], target: str | None) -> Relation | None:
    """Relation of a sentence to a target, as the explanation reward counts it.

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


def explanation_score(label_sets: Sequence[Sequence[str]], target: str) -> float:
    """Share of a rationale's emotional sentences that express the target.

    With g the target's verifier label, n sentences, m of them with g in their label set and e of them with a label set
    other than {neutral}: m / n for g = neutral, else m / e; 0 where the denominator is 0 (decision 17). A compound
    target has several labels g, and a sentence that expresses any of them counts (decision 18).

    Args:
        label_sets: verifier labels read in each sentence.
        target: canonical emotion, or several of a compound clip.
    """
    goals = target_labels(target)
    matching = sum(not goals.isdisjoint(labels) for labels in label_sets)
    emotional = sum(set(labels) != {"neutral"} for labels in label_sets)
    denominator = len(label_sets) if goals == {"neutral"} else emotional
    return matching / denominator if denominator else 0.0
