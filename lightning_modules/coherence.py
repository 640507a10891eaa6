"""How sentences of a rationale relate to an emotion: what the explanation reward, the colours and the alarms count."""

from collections.abc import Collection, Sequence
from typing import Literal

from datamodules.emotions import Taxonomy

Relation = Literal["matching", "neutral", "contradicting"]
"""A sentence expresses the emotion, no emotion, or other emotions only."""


def relation(emotions: Collection[str], target: str | None, taxonomy: Taxonomy) -> Relation | None:
    """Relation of a sentence to a target, as the explanation reward counts it.

    Args:
        emotions: the verifier's label set of the sentence.
        target: canonical emotion, or several joined by `_`, of which any may match; None: there is no label.
        taxonomy: whose classes these are.

    Returns:
        None without a target or a verifier label of it, except for a sentence that is only neutral.
    """
    goals = frozenset() if target is None else taxonomy.target_labels(target)
    if not goals.isdisjoint(emotions):
        return "matching"
    if set(emotions) == {"neutral"}:
        return "neutral"
    return "contradicting" if goals else None


def explanation_score(label_sets: Sequence[Sequence[str]], target: str, taxonomy: Taxonomy) -> float:
    """Share of a rationale's emotional sentences that express the target.

    With g the target's verifier label, n sentences, m of them with g in their label set and e of them with a label set
    other than {neutral}: m / n for g = neutral, else m / e; 0 where the denominator is 0 (decision 17). A compound
    target has several labels g, and a sentence that expresses any of them counts (decision 18).

    Args:
        label_sets: verifier labels read in each sentence.
        target: canonical emotion, or several of a compound clip; with verifier labels.
        taxonomy: whose classes these are.
    """
    goals = taxonomy.target_labels(target)
    matching = sum(not goals.isdisjoint(labels) for labels in label_sets)
    emotional = sum(set(labels) != {"neutral"} for labels in label_sets)
    denominator = len(label_sets) if goals == {"neutral"} else emotional
    return matching / denominator if denominator else 0.0
