"""`python main.py compare`: prediction files against a baseline, clip by clip, with intervals and tests."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table

from datamodules.emotions import Taxonomy, members
from datamodules.files.writing import require_directory, write_json
from datamodules.synthetic.truth import ClipTruth, read_truth
from lightning_modules.metrics.claims import FIGURES, clip_counts, prediction_truths, run_grounding
from lightning_modules.metrics.intervals import LEVEL, RATES, rate_intervals
from lightning_modules.metrics.paired import Comparison, PairedRate, compare_runs
from lightning_modules.metrics.paired_grounding import compare_grounding
from lightning_modules.metrics.predictions import Prediction, PredictionFile, by_corpus, joint_ids, read_predictions
from tools.compare.forest_plot import draw_forest

_JUDGED = "EEA, EPC and FCR"
_SHORT = {
    "grounded_face_contradicting": "face ≠ label",
    "label_face_contradicting": "  says label",
    "grounded_voice_contradicting": "voice ≠ label",
    "label_voice_contradicting": "  says label",
}
"""Figures of `claims` whose names are too long for a table."""


def compare(
    predictions: dict[str, str],
    output: str,
    baseline: str | None = None,
    intersect: bool = False,
    allow_different_judges: bool = False,
    num_resamples: int = 10_000,
    seed: int = 0,
    truth: str | None = None,
) -> dict[str, Any]:
    """Compare runs clip by clip: differences of all metrics with 95 % intervals, and McNemar's test, also per class.

    Writes `compare.json` and `compare.png` into the output directory.

    Args:
        predictions: name → predictions.jsonl or rows.jsonl, e.g. cold_start=a.jsonl grpo_erv=b.jsonl.
        output: directory for compare.json and compare.png.
        baseline: name of the run that the others are compared with; the first if not given.
        intersect: leave clips that some file lacks out, instead of refusing the files.
        allow_different_judges: compare EEA, EPC and FCR of runs whose judges have different names, for instance because
            each run has its own file of the same judge's verdicts.
        num_resamples: bootstrap resamples of the intervals of claims, with `truth`; the others need none.
        seed: of the resamples; the same seed gives the same intervals.
        truth: the synthetic.json of the generated corpus that the clips come from: how much of what the rationales
            claim is true of the clips is compared, too.

    Returns:
        What `compare.json` holds.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: fewer than two runs, a baseline that is none of them, a malformed line or a repeated id (names file
            and line), files over different clips, targets or taxonomies, clips without truth or with that of another
            corpus, or nothing that could be compared.
    """
    first = _checked_baseline(predictions, output, baseline)
    names = [first, *(name for name in predictions if name != first)]
    files = {name: read_predictions(predictions[name]) for name in names}
    ids, dropped = joint_ids(list(files.values()), intersect)
    runs = {name: _in_order(file, ids) for name, file in files.items()}
    known = None if truth is None else read_truth(truth)
    truths = {} if known is None else {name: prediction_truths(runs[name], files[name].path, known) for name in names}
    notes = _clip_notes(runs[first], files, dropped)
    comparisons, corpora, judge_notes = {}, {}, {}
    for name in track(names[1:], description="Comparing runs"):
        judged, judge_notes[name] = _judging(files, first, name, allow_different_judges)
        comparisons[name] = compare_runs(runs[first], runs[name], files[first].taxonomy, judged)
        corpora[name] = _corpora(runs[first], runs[name], files[first].taxonomy, judged)
        if not comparisons[name].overall:
            reasons = " ".join(notes + judge_notes[name])
            raise ValueError(f"Nothing can be compared between {first} and {name}. {reasons}")
        if truths:
            said = [clip_counts(runs[own], truths[own], judged) for own in (first, name)]
            grounding = compare_grounding(*said, num_resamples, seed)
            comparisons[name] = replace(comparisons[name], grounding=grounding)

    result = {
        "taxonomy": files[first].taxonomy.name,
        "num_clips": len(ids),
        "baseline": first,
        "level": LEVEL,
        "num_resamples": num_resamples,
        "seed": seed,
        "notes": notes,
        "runs": {
            name: _run(file, runs[name], dropped[file.path])
            | _grounding(runs[name], truths.get(name), file.judge is not None)
            for name, file in files.items()
        },
        "comparisons": {
            name: {
                "notes": judge_notes[name],
                **asdict(own),
                **({"corpora": {one: asdict(its) for one, its in corpora[name].items()}} if corpora[name] else {}),
            }
            for name, own in comparisons.items()
        },
    }
    write_json(Path(output) / "compare.json", result)
    _draw(comparisons, first, Path(output) / "compare.png")
    _print(comparisons, corpora, first, notes, judge_notes)
    Console().print(f"Written: {output}/compare.json and {output}/compare.png", markup=False, soft_wrap=True)
    return result


def _checked_baseline(predictions: Mapping[str, str], output: str, baseline: str | None) -> str:
    if len(predictions) < 2:
        got = ", ".join(predictions) or "none"
        raise ValueError(f"Expected at least two runs, got {got}. Give --predictions NAME=FILE NAME=FILE.")
    first = next(iter(predictions)) if baseline is None else baseline
    if first not in predictions:
        raise ValueError(f"The baseline {first!r} is none of the runs: {', '.join(predictions)}.")
    require_directory(output, "compare.json and compare.png")
    return first


def _run(file: PredictionFile, clips: Sequence[Prediction], dropped: int) -> dict[str, Any]:
    rates = rate_intervals(clips, file.taxonomy, judged=file.judge is not None)
    return {
        "path": str(file.path),
        "judge": file.judge,
        "num_clips": len(file.predictions),
        "dropped": dropped,
        "rates": {rate: asdict(interval) for rate, interval in rates.items()},
    }


def _grounding(clips: Sequence[Prediction], truths: Sequence[ClipTruth] | None, judged: bool) -> dict[str, Any]:
    """How much of what a run says is true; nothing where the truth is not known."""
    return {} if truths is None else {"grounding": run_grounding(clips, truths, judged)}


def _in_order(file: PredictionFile, ids: list[str]) -> list[Prediction]:
    own = {prediction.id: prediction for prediction in file.predictions}
    return [own[identifier] for identifier in ids]


def _clip_notes(clips: list[Prediction], files: Mapping[str, PredictionFile], dropped: Mapping[Path, int]) -> list[str]:
    """What the reader must know of the clips: which are left out, and which metrics their targets do not give."""
    notes = [
        f"{name}: {dropped[file.path]} of {len(file.predictions)} clips dropped, not in every file."
        for name, file in files.items()
        if dropped[file.path]
    ]
    targets = [None if clip.target is None else members(clip.target) for clip in clips]
    if unlabelled := targets.count(None):
        notes.append(f"{unlabelled} of {len(clips)} clips have no target: EPC is the only metric.")
    elif compound := sum(len(own) > 1 for own in targets if own):
        notes.append(f"{compound} of {len(clips)} clips have several emotions: WAR is the only metric.")
    else:
        present = {own[0] for own in targets if own}
        taxonomy = next(iter(files.values())).taxonomy
        if absent := [emotion for emotion in taxonomy.classes if emotion not in present]:
            notes.append(f"UAR leaves out classes without a clip: {', '.join(absent)}.")
    return notes


def _corpora(
    baseline: Sequence[Prediction], other: Sequence[Prediction], taxonomy: Taxonomy, judged: bool
) -> dict[str, Comparison]:
    """The comparison over each corpus' clips, where there are several."""
    first, second = by_corpus(baseline), by_corpus(other)
    if any(len(first[name]) != len(second.get(name, ())) for name in first):
        return {}  # the files do not name the same corpora
    return {name: compare_runs(own, second[name], taxonomy, judged) for name, own in first.items()}


def _judging(files: Mapping[str, PredictionFile], first: str, name: str, allowed: bool) -> tuple[bool, list[str]]:
    """Whether judged metrics of two runs can be compared, and what to say of it."""
    judges = {run: files[run].judge for run in (first, name)}
    if without := [run for run, judge in judges.items() if judge is None]:
        return False, [f"{_JUDGED} are left out: {' and '.join(without)} without a judge."]
    if judges[first] == judges[name]:
        return True, []
    who = f"{first} is judged by {judges[first]!r}, {name} by {judges[name]!r}"
    if allowed:
        return True, [f"Different judges: {who}. Differences of {_JUDGED} may be the judges'."]
    return False, [
        f"{_JUDGED} are left out, for the judges differ: {who}. Judge both runs alike, or, where both names stand for "
        "the same judge, give --allow_different_judges."
    ]


def _print(
    comparisons: Mapping[str, Comparison],
    corpora: Mapping[str, Mapping[str, Comparison]],
    first: str,
    notes: list[str],
    judge_notes: Mapping[str, list[str]],
) -> None:
    console = Console()
    for note in notes:
        console.print(f"[yellow]Note:[/] {escape(note)}")
    for name, comparison in comparisons.items():
        for note in judge_notes[name]:
            console.print(f"[bold yellow]Warning:[/] {escape(note)}")
        console.print(_table(comparison, corpora[name], first, name))
    console.print(
        "Percent; changes in percentage points, with their 95 % interval over clips; * excludes 0.\n"
        "won/lost: clips that count in one of the two runs only. p: McNemar's test of these; Holm: p adjusted "
        "over the classes.",
        markup=False,
    )
    shown = {name for own in comparisons.values() for name in own.grounding}
    for name in FIGURES:
        if name in shown:
            console.print(f"{_heading(name).strip()}: {FIGURES[name]}.", markup=False, highlight=False)


def _table(comparison: Comparison, corpora: Mapping[str, Comparison], first: str, name: str) -> Table:
    table = Table(title=escape(f"{first} → {name}"), box=box.SIMPLE_HEAD, padding=0)
    table.add_column("clips", no_wrap=True)
    table.add_column("metric", no_wrap=True)
    for header in ("from", "to", "change", "95 % interval", "won/lost", "p", "Holm"):
        table.add_column(header, justify="right", no_wrap=True)
    _add_section(table, "all", comparison.num_clips, comparison.overall)
    for corpus, own in corpora.items():
        _add_section(table, escape(corpus), own.num_clips, own.overall)
    _add_section(table, "claims of", comparison.num_clips, comparison.grounding)
    for emotion, own in comparison.per_class.items():
        _add_section(table, emotion, own.num_clips, own.rates)
    return table


def _add_section(table: Table, clips: str, num_clips: int, rates: Mapping[str, PairedRate]) -> None:
    table.add_section()
    labels = [clips, f"{num_clips} clips"] if len(rates) > 1 else [f"{clips}\n{num_clips} clips"]
    for i, (rate, paired) in enumerate(rates.items()):
        difference, test = paired.difference, paired.test
        table.add_row(
            labels[i] if i < len(labels) else "",
            _heading(rate),
            f"{100 * paired.baseline:.1f}",
            f"{100 * paired.other:.1f}",
            f"{_points(difference.value)} {'*' if difference.excludes_zero else ' '}",
            f"{_points(difference.low)}, {_points(difference.high)}",
            "" if test is None else f"{test.gained}/{test.lost}",
            "" if test is None else _p_value(test.p_value),
            "" if test is None or test.p_holm is None else _p_value(test.p_holm),
            style="bold" if difference.excludes_zero else "",
        )


def _heading(rate: str) -> str:
    return rate.upper() if rate in RATES else _SHORT.get(rate, rate)


def _points(fraction: float) -> str:
    """A difference in percentage points; one that rounds to 0 has no sign."""
    points = round(100 * fraction, 1)
    return f"{points:+.1f}" if points else "0.0"


def _p_value(p_value: float) -> str:
    return f"{p_value:.3f}" if p_value >= 0.001 else "<0.001"


def _draw(comparisons: Mapping[str, Comparison], first: str, file: Path) -> None:
    panels = {
        "all clips": {
            name: {_heading(rate): paired.difference for rate, paired in own.overall.items()}
            for name, own in comparisons.items()
        }
    }
    if any(own.grounding for own in comparisons.values()):
        panels["claims that are true"] = {
            name: {
                rate: own.grounding[rate].difference for rate in ("grounded", "grounded_fcr") if rate in own.grounding
            }
            for name, own in comparisons.items()
        }
    for rate in ("recall", "fcr"):
        rows = {
            name: {
                f"{emotion} ({one.num_clips})": one.rates[rate].difference
                for emotion, one in own.per_class.items()
                if rate in one.rates
            }
            for name, own in comparisons.items()
        }
        if any(rows.values()):
            panels[f"{_heading(rate)} per class (clips)"] = rows
    num_clips = next(iter(comparisons.values())).num_clips
    title = f"Difference to {first}, {num_clips} clips, percentage points\n95 % interval over clips; filled: excludes 0"
    draw_forest(panels, title, file)
