"""The figures of a study: each arm's over its seeds, and its differences to a baseline."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Literal

import numpy as np

from callbacks.run_files import METRICS_FILE, PREDICTIONS_FILE, ROWS_FILE
from datamodules.emotions import Taxonomy
from datamodules.files.json_files import read_json_object
from datamodules.synthetic.truth import CorpusTruth, read_truth
from lightning_modules.metrics.claims import FIGURES, Counts, clip_counts, grounding_figures, prediction_truths
from lightning_modules.metrics.intervals import RATES, Interval, Outcomes, clip_outcomes
from lightning_modules.metrics.paired import PairedRate, compare_runs, holm
from lightning_modules.metrics.paired_grounding import compare_grounding
from lightning_modules.metrics.predictions import Prediction, read_predictions
from lightning_modules.metrics.seeds import (
    Values,
    crossed_difference,
    nested_difference,
    rate_values,
    ratio_values,
    recall_values,
)

Design = Literal["one seed", "own clips", "shared clips"]
"""Whether each seed tests on clips of its own, or all on the same."""


@dataclass(frozen=True)
class Tested:
    """An arm's test with one seed.

    Args:
        clips: by id.
        taxonomy: the classes.
        judge: name of the judge; None without one.
        outcomes: what each clip counts.
        counts: what each clip adds to the figures of `claims`; None where the truth is not known.
        figures: name → value, a fraction in [0, 1] or, of the study's own, any number; None where nothing counts.
    """

    clips: tuple[Prediction, ...]
    taxonomy: Taxonomy
    judge: str | None
    outcomes: Outcomes
    counts: Counts | None
    figures: Mapping[str, float | None]


@dataclass(frozen=True)
class Difference:
    """An arm less a baseline, in one figure.

    Args:
        difference: with its 95 % interval.
        num_seeds: that both arms have.
        p_value: of no difference, two-sided; None where there is no test.
        p_holm: the same, adjusted over the arms.
    """

    difference: Interval
    num_seeds: int
    p_value: float | None
    p_holm: float | None = None


Arms = Mapping[str, Mapping[int, Tested]]
"""Arm → seed → its test; without those that failed."""


def read_test(run: Path, truth: CorpusTruth | None, own: Mapping[str, str]) -> Tested:
    """Read what `test` or `score` wrote.

    Args:
        run: its directory.
        truth: about the clips, where it is known.
        own: further figures: name → where `metrics.json` has it, keys joined by dots.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is malformed, or lacks a figure; names it.
    """
    path = run / PREDICTIONS_FILE
    file = read_predictions(run / ROWS_FILE if not path.is_file() and (run / ROWS_FILE).is_file() else path)
    clips = tuple(sorted(file.predictions, key=lambda clip: clip.id))
    judged = file.judge is not None
    outcomes = clip_outcomes(clips, file.taxonomy, judged)
    figures: dict[str, float | None] = dict(outcomes.values())
    counts = None
    if truth is not None:
        counts = clip_counts(clips, prediction_truths(clips, file.path, truth), judged)
        figures |= {name: own["value"] for name, own in grounding_figures(counts.sum(axis=0)).items()}
    figures |= {name: _figure(run / METRICS_FILE, place) for name, place in own.items()}
    return Tested(clips, file.taxonomy, file.judge, outcomes, counts, figures)


def _figure(file: Path, place: str) -> float | None:
    value: Any = read_json_object(file)
    for key in place.split("."):
        value = value.get(key, "missing") if isinstance(value, dict) else "missing"
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise ValueError(f"{file}: {place} is {value!r}. Expected a number.")
    return value


def read_truths(files: Mapping[int, Path]) -> dict[int, CorpusTruth]:
    """The truth that each seed's clips have, from the files that are there."""
    return {seed: read_truth(file) for seed, file in files.items() if file.is_file()}


def design(arms: Arms) -> Design:
    """Whether seeds have clips of their own, by the paths of the clips' files.

    Raises:
        ValueError: seeds share a part of their clips: neither design.
    """
    by_seed: dict[int, set[tuple[str, str | None]]] = {}
    for tests in arms.values():
        for seed, tested in tests.items():
            by_seed.setdefault(seed, {(clip.id, clip.media) for clip in tested.clips})
    sets = list(by_seed.values())
    if len(sets) < 2:
        return "one seed"
    if all(own == sets[0] for own in sets):
        return "shared clips"
    if sum(map(len, sets)) > len(set().union(*sets)):
        raise ValueError(
            "The seeds test on clips that are the same in part. Expected the same clips for all seeds, or other clips "
            "for each."
        )
    return "own clips"


def spread(values: Sequence[float | None]) -> tuple[float | None, float | None]:
    """Mean and sample standard deviation over seeds; None of a figure that a seed lacks, and of one seed's spread."""
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return None, None
    return fmean(known), stdev(known) if len(known) > 1 else None


def compare_arms(arms: Arms, baseline: str, kind: Design) -> dict[str, dict[str, Difference]]:
    """Differences of every other arm to a baseline, with p-values adjusted (Holm) over the arms, figure by figure.

    Args:
        arms: of the study.
        baseline: one of them.
        kind: the study's design; a comparison over one seed has the clips' interval alone.

    Returns:
        Arm → figure → difference, of the figures for which there is an interval.
    """
    found = {name: _compare(arms[baseline], own, kind) for name, own in arms.items() if name != baseline}
    for figure in {figure for own in found.values() for figure in own}:
        tests = {
            name: own[figure].p_value
            for name, own in found.items()
            if figure in own and own[figure].p_value is not None
        }
        for name, p_holm in zip(tests, holm([p for p in tests.values() if p is not None]), strict=True):
            found[name][figure] = replace(found[name][figure], p_holm=p_holm)
    return found


def _compare(baseline: Mapping[int, Tested], other: Mapping[int, Tested], kind: Design) -> dict[str, Difference]:
    pairs = [(baseline[seed], other[seed]) for seed in baseline if seed in other]
    if not pairs:
        return {}
    if len(pairs) == 1:
        return _one_seed(*pairs[0])
    differences = {}
    for figure in _figures(pairs):
        if kind == "own clips":
            seeds = np.array([second.figures[figure] - first.figures[figure] for first, second in pairs])  # type: ignore[operator]
            own = nested_difference(seeds)
        else:
            values = _clip_values(pairs, figure)
            if values is None:
                continue
            own = crossed_difference(values)
        differences[figure] = Difference(own.difference, len(pairs), own.p_value)
    return differences


def _figures(pairs: Sequence[tuple[Tested, Tested]]) -> list[str]:
    """Figures that all tests have."""
    tests = [tested for pair in pairs for tested in pair]
    return [name for name in tests[0].figures if all(own.figures.get(name) is not None for own in tests)]


def _one_seed(first: Tested, second: Tested) -> dict[str, Difference]:
    judged = first.judge is not None and second.judge is not None
    rates: dict[str, PairedRate] = compare_runs(first.clips, second.clips, first.taxonomy, judged).overall
    if first.counts is not None and second.counts is not None:
        rates = {**rates, **compare_grounding(first.counts, second.counts)}
    return {
        name: Difference(own.difference, 1, None if own.test is None else own.test.p_value)
        for name, own in rates.items()
    }


def _clip_values(pairs: Sequence[tuple[Tested, Tested]], figure: str) -> Values | None:
    """What each clip adds to a figure's difference, `[S, C]`; None of a figure that is known as a whole only."""
    sides = list(zip(*pairs, strict=True))
    if figure in FIGURES:
        index = list(FIGURES).index(figure)
        before, after = (np.stack([_counts(own)[:, index] for own in side]) for side in sides)
        return ratio_values(before, after)
    if figure not in RATES:
        return None
    before, after = (
        np.stack([own.outcomes.hits["war" if figure == "uar" else figure] for own in side]) for side in sides
    )
    classes = pairs[0][0].outcomes.classes
    return rate_values(before, after) if figure != "uar" or classes is None else recall_values(before, after, classes)


def _counts(own: Tested) -> Counts:
    assert own.counts is not None
    return own.counts


def as_json(difference: Difference) -> dict[str, Any]:
    """A difference as plain JSON values."""
    own = difference.difference
    return {
        "value": own.value,
        "low": own.low,
        "high": own.high,
        "num_seeds": difference.num_seeds,
        "p_value": difference.p_value,
        "p_holm": difference.p_holm,
    }
