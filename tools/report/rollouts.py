"""What a report of a training run holds, as plain JSON values: figures of every step, and some of the groups."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from hashlib import sha256
from typing import Any

from datamodules.emotions import Taxonomy, members
from datamodules.rationale import leading_sections
from lightning_modules.coherence import relation
from lightning_modules.metrics.intervals import LEVEL, Z
from lightning_modules.metrics.rollouts import Group, Rollouts, SampledCompletion
from lightning_modules.metrics.seeds import student_quantile
from tools.report.data import colours
from tools.report.media import ClipMedia

_FREEDOMS = 60
"""Degrees of freedom up to which the page has quantiles of the t distribution; the normal one's is 2 % off there."""

_KINDS = 3
"""Of groups that are on the page whatever their clip: highest and lowest mean reward, most divided."""


def choose_groups(groups: Sequence[Group], max_groups: int) -> list[Group]:
    """The groups that a page shows, in the order of steps.

    Half of the room is for the best, the worst and the most divided groups of the run, the rest for clips with all
    their visits, so that one sees how a clip's rationale changed. Which clips is drawn by their ids: the same in every
    report.

    Args:
        groups: in the order of steps.
        max_groups: how many at most.
    """
    if len(groups) <= max_groups:
        return list(groups)
    figures = [group.figures() for group in groups]
    share = max_groups // (2 * _KINDS)
    kept: set[int] = set()
    for name, sign in (("reward", -1), ("reward", 1), ("spread", -1)):
        kept |= set(sorted(range(len(groups)), key=lambda i: sign * figures[i][name])[:share])
    visits: dict[str, list[int]] = {}
    for place, group in enumerate(groups):
        visits.setdefault(group.id, []).append(place)
    for identifier in sorted(visits, key=_scattered):
        missing = set(visits[identifier]) - kept
        if len(kept) + len(missing) <= max_groups:
            kept |= missing
    return [groups[place] for place in sorted(kept)]


def _scattered(identifier: str) -> int:
    """A number that looks drawn by chance, and is the same in every process."""
    return int.from_bytes(sha256(identifier.encode("utf-8", "replace")).digest()[:8])


def rollouts_data(title: str, run: Rollouts, shown: Sequence[Group], media: Mapping[str, ClipMedia]) -> dict[str, Any]:
    """All that the page shows.

    Args:
        title: of the page.
        run: the rollouts.
        shown: the groups that one can look at; see `choose_groups`.
        media: clip id → its pictures and player, for every clip of these groups.
    """
    total = len(run.groups)
    notes = list(run.notes)
    if len(shown) < total:
        notes.append(
            f"{len(shown):,} of {total:,} groups can be looked at (--max_groups): the best, the worst, the most "
            "divided, and some clips with all their visits. Curves and comparison count all of them."
        )
    names = list(dict.fromkeys(name for group in run.groups for name in group.figures()))
    return {
        "title": title,
        "run": str(run.directory.parent),
        "taxonomy": {"name": run.taxonomy.name, "classes": list(run.taxonomy.classes)},
        "colours": colours(run.taxonomy),
        "notes": notes,
        "figures": names,
        "num_groups": total,
        "num_completions": sum(len(group.completions) for group in run.groups),
        "steps": step_sums(run.groups, names),
        "quantiles": [*(student_quantile((1 + LEVEL) / 2, freedom) for freedom in range(1, _FREEDOMS + 1)), Z],
        "clips": _clips(shown, media),
        "groups": [_group_data(group, run.taxonomy) for group in shown],
    }


def step_sums(groups: Sequence[Group], names: Sequence[str]) -> list[dict[str, Any]]:
    """Of each step, in their order: `step`, and for each figure the number of groups that have it, their sum and their
    sum of squares. Those of several steps add up to those of a window, whose mean and interval follow.
    """
    steps: dict[int, list[list[float]]] = {}
    for group in groups:
        sums = steps.setdefault(group.step, [[0, 0.0, 0.0] for _ in names])
        figures = group.figures()
        for own, name in zip(sums, names, strict=True):
            if name in figures:
                own[0] += 1
                own[1] += figures[name]
                own[2] += figures[name] ** 2
    return [{"step": step, "sums": sums} for step, sums in steps.items()]


def _clips(groups: Sequence[Group], media: Mapping[str, ClipMedia]) -> dict[str, dict[str, Any]]:
    return {
        group.id: {
            "target": group.target,
            "targets": list(members(group.target)),
            "dataset": group.dataset,
            "transcript": group.transcript,
            **asdict(media[group.id]),
        }
        for group in groups
    }


def _group_data(group: Group, taxonomy: Taxonomy) -> dict[str, Any]:
    figures = group.figures()
    return {
        "step": group.step,
        "id": group.id,
        "reward": figures["reward"],
        "spread": figures["spread"],
        "right": figures["right"],
        "completions": [_completion_data(own, group.target, taxonomy) for own in group.completions],
    }


def _completion_data(own: SampledCompletion, target: str, taxonomy: Taxonomy) -> dict[str, Any]:
    return {
        "completion": own.completion,
        "sections": leading_sections(own.completion),
        "prediction": own.prediction,
        "right": own.prediction in members(target),
        "rewards": dict(own.rewards),
        "total": own.total,
        "advantage": own.advantage,
        "tokens": own.tokens,
        "truncated": own.truncated,
        "sentences": [
            {
                "text": sentence.text,
                "emotions": None if sentence.emotions is None else list(sentence.emotions),
                "relation": None if sentence.emotions is None else relation(sentence.emotions, target, taxonomy),
            }
            for sentence in own.sentences
        ],
    }
