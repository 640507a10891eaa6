"""Seeded draws of a part of a data set, stratified by class."""

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence


def draw_stratified(classes: Iterable[tuple[str | None, Sequence[int]]], fraction: float, seed: int) -> set[int]:
    """Positions of the items drawn: round(fraction · n) of each class, at least one where it has two or more.

    Args:
        classes: name and positions of its items.
        fraction: in [0, 1); 0 draws none.
        seed: of the draw within each class.
    """
    drawn: set[int] = set()
    for name, positions in classes:
        wanted = min(max(round(fraction * len(positions)), 1), len(positions) - 1) if fraction > 0 else 0
        drawn.update(random.Random(f"{seed}/{name}").sample(positions, wanted))
    return drawn


def draw_groups(groups: Sequence[str], classes: Sequence[str], fraction: float, seed: int) -> set[int]:
    """Positions of the items drawn: groups as a whole, by chance, as long as each brings the classes' shares nearer
    (decision 53).

    Args:
        groups: of the items, e.g. their speakers.
        classes: of the items.
        fraction: share of each class that is wanted, in [0, 1); 0 draws none.
        seed: of the order in which groups are tried.

    Returns:
        At least one group and not all of them, where there are two or more.
    """
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for group, name in zip(groups, classes, strict=True):
        counts[group][name] += 1
    order = sorted(counts)
    if fraction <= 0 or len(order) < 2:
        return set()
    random.Random(seed).shuffle(order)
    missing = {name: fraction * total for name, total in Counter(classes).items()}
    drawn: set[str] = set()
    for group in order[:-1] or order:
        change = sum(abs(missing[name] - count) - abs(missing[name]) for name, count in counts[group].items())
        if change < 0:
            drawn.add(group)
            for name, count in counts[group].items():
                missing[name] -= count
    drawn = drawn or {min(order, key=lambda group: counts[group].total())}
    return {position for position, group in enumerate(groups) if group in drawn}
