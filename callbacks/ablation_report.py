"""What a policy says of ablated and of full clips, compared per clip and overall, as table and figure."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from callbacks.colours import RUNS
from datamodules.ablation import SWAPPED, Ablation, Part
from datamodules.emotions import members
from lightning_modules.metrics.intervals import RATES
from lightning_modules.metrics.paired import PairedRate, compare_runs
from lightning_modules.metrics.predictions import Prediction, PredictionFile

CHANGES = {
    "answers_changed": "answer changed",
    "answers_unknown": "answer unknown",
    "verdicts_changed": "judged emotion changed",
    "word_distance": "word distance",
    "sentences_kept": "sentences kept",
    "completions_kept": "same completion",
}
"""Figures of a mode, over clips → what table and figure call them."""

_WORD = re.compile(r"\w+(?:['’-]\w+)*")
_DRAWN = {"answers_changed": "#2f3e4d", "verdicts_changed": "#7d8b99", "word_distance": "#c5ced6"}


def changes(
    files: Mapping[Ablation, PredictionFile], swaps: Mapping[tuple[str, str], Mapping[str, Any]] | None = None
) -> list[dict[str, Any]]:
    """What changes in each clip, a row per mode and clip; rows of `ablation.jsonl`.

    Args:
        files: predictions over the same clips in the same order; with `full`, which the others are held against.
        swaps: clip id and mode of `SWAPPED` → `sound_of` and `sound_target`, or the same of `transcript`: the clip
            whose part it is given, and its target.

    Returns:
        For each mode but `full` and each clip: `id`, `mode`, `target`, `prediction` and `judged` with
        `prediction_full` and `judged_full`, `word_distance` and `sentences_kept` of the rationale (the
        latter None without a sentence), `completion_kept`, and what `swaps` holds.
    """
    rows = []
    for mode, file in files.items():
        if mode != "full":
            for before, after in zip(files["full"].predictions, file.predictions, strict=True):
                swap = (swaps or {}).get((after.id, mode), {})
                rows.append({"id": after.id, "mode": mode, **_change(before, after), **swap})
    return rows


def _change(before: Prediction, after: Prediction) -> dict[str, Any]:
    first, second = ([sentence.text for sentence in own.sentences] for own in (before, after))
    return {
        "target": after.target,
        "prediction": after.prediction,
        "prediction_full": before.prediction,
        "judged": after.judged,
        "judged_full": before.judged,
        "word_distance": word_distance(" ".join(first), " ".join(second)),
        "sentences_kept": share_of_sentences_kept(first, second),
        "completion_kept": after.completion == before.completion,
    }


def ablation_report(files: Mapping[Ablation, PredictionFile], rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The report over all clips, as plain JSON values: `ablation.json`. Rates and shares are fractions in [0, 1].

    Args:
        files: predictions over the same clips in the same order, with `full`.
        rows: from `changes`.

    Returns:
        `taxonomy`, `judge`, `num_samples`; `full`, rate → value; `modes`, mode → `rates` (rate → `value`, and
        `difference` to `full` with the ends `low` and `high` of its paired 95 % interval) and the figures of `CHANGES`:
        the shares of clips whose answer is another one, whose answer names no class, and whose judged emotion is
        another one (None without a judge), the mean word distance, the mean share of sentences kept (None without a
        sentence), and the share of clips with the same completion. Under `swapped_audio` also `answers_of_the_sound`,
        the share of answers that are the target of the clip that the sound is of, and `answers_of_the_sound_full`, the
        share that were so with the clip's own sound; under `swapped_transcript` the same of the transcript.
    """
    full = files["full"]
    judged = full.judge is not None
    baseline: dict[str, float] = {}
    modes = {}
    for mode, file in files.items():
        if mode == "full":
            continue
        rates = compare_runs(full.predictions, file.predictions, full.taxonomy, judged).overall
        baseline = {rate: paired.baseline for rate, paired in rates.items()}
        own = [row for row in rows if row["mode"] == mode]
        modes[mode] = {
            "rates": {rate: _rate(paired) for rate, paired in rates.items()},
            **_shares(own, judged),
            **(_followed(own, SWAPPED[mode]) if mode in SWAPPED else {}),
        }
    return {
        "taxonomy": full.taxonomy.name,
        "judge": full.judge,
        "num_samples": len(full.predictions),
        "full": baseline,
        "modes": modes,
    }


def _rate(paired: PairedRate) -> dict[str, float]:
    difference = asdict(paired.difference)
    return {"value": paired.other, "difference": difference.pop("value"), **difference}


def _shares(rows: Sequence[Mapping[str, Any]], judged: bool) -> dict[str, float | None]:
    kept = [row["sentences_kept"] for row in rows if row["sentences_kept"] is not None]
    return {
        "answers_changed": fmean(row["prediction"] != row["prediction_full"] for row in rows),
        "answers_unknown": fmean(row["prediction"] is None for row in rows),
        "verdicts_changed": fmean(row["judged"] != row["judged_full"] for row in rows) if judged else None,
        "word_distance": fmean(row["word_distance"] for row in rows),
        "sentences_kept": fmean(kept) if kept else None,
        "completions_kept": fmean(row["completion_kept"] for row in rows),
    }


def _followed(rows: Sequence[Mapping[str, Any]], part: Part) -> dict[str, float | None]:
    """How many answers are those of the clip that the sound or the transcript is of."""
    names = {f"answers_of_the_{part}": "prediction", f"answers_of_the_{part}_full": "prediction_full"}
    target = f"{part}_target"
    known = [row for row in rows if row.get(target) is not None]
    if not known:
        return dict.fromkeys(names)
    return {name: fmean(row[answer] in members(row[target]) for row in known) for name, answer in names.items()}


def print_report(report: Mapping[str, Any], path: Path) -> None:
    """Two tables, rates and changes, and what they say of a model that does not look or listen.

    Args:
        report: from `ablation_report`.
        path: where it is written.
    """
    rates = _table(f"{report['num_samples']} test clips ({report['taxonomy']}), in percent: rate, change, its interval")
    shares = _table("What changes against the full clips, in percent")
    for rate in RATES:
        rates.add_column(rate.upper(), justify="right")
    for name in CHANGES.values():
        shares.add_column(name, justify="right")
    rates.add_row("full", *(_percent(report["full"].get(rate)) for rate in RATES))
    for mode, own in report["modes"].items():
        rates.add_row(_spaced(mode), *(_rate_cell(own["rates"].get(rate)) for rate in RATES))
        shares.add_row(_spaced(mode), *(_percent(own[name]) for name in CHANGES))
    console = Console()
    console.print(rates)
    console.print(shares)
    for line in remarks(report):
        console.print(line, highlight=False)
    console.print(f"Judge: {report['judge']}. Results: {path}", markup=False, soft_wrap=True)


def _table(title: str) -> Table:
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=0, leading=1)
    table.add_column("given", min_width=8)
    return table


def _spaced(mode: str) -> str:
    return mode.replace("_", " ")


def remarks(report: Mapping[str, Any]) -> list[str]:
    """What the figures mean: modes that change nothing at all, and answers that follow a wrong sound or transcript."""
    lines = [
        f"{mode}: every completion is the one of the full clips. What is taken away has no part in the answers."
        for mode, own in report["modes"].items()
        if own["completions_kept"] == 1
    ]
    for mode, part in SWAPPED.items():
        swapped, name = report["modes"].get(mode, {}), f"answers_of_the_{part}"
        if swapped.get(name) is not None:
            lines.append(
                f"{mode}: {_percent(swapped[name])} % of the answers are the emotion of the clip that the {part} is "
                f"of; {_percent(swapped[f'{name}_full'])} % were with the clip's own {part}."
            )
    return lines


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f}"


def _rate_cell(rate: Mapping[str, float] | None) -> str:
    if rate is None:
        return "–"
    low, high = (f"{100 * rate[end]:+.1f}" for end in ("low", "high"))
    return f"{_percent(rate['value'])}\n{100 * rate['difference']:+.1f}\n{low}…{high}"


def draw(report: Mapping[str, Any], path: Path) -> None:
    """Draw changes of rates with their intervals, and what changes in answers and rationales, a row per mode.

    Args:
        report: from `ablation_report`.
        path: the PNG file.
    """
    # Matplotlib takes a second to import: only this function needs it. "Agg" draws without a display.
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    modes = report["modes"]
    figure, (left, right) = pyplot.subplots(
        1, 2, figsize=(10, 1.8 + 0.7 * len(modes)), layout="constrained", sharey=True, width_ratios=(3, 2)
    )
    _draw_rates(left, report)
    _draw_shares(right, modes)
    left.set_yticks(range(len(modes)), [_spaced(mode) for mode in modes])
    left.set_ylim(len(modes) - 0.5, -0.5)
    for axes, columns in ((left, 3), (right, 2)):
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_axisbelow(True)
        axes.grid(axis="x", color="#e4e7ea")
        for border in range(1, len(modes)):
            axes.axhline(border - 0.5, color="#c9ced4", lw=0.8)
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=columns, fontsize=8, frameon=False)
    figure.suptitle(f"{report['num_samples']} test clips ({report['taxonomy']}), judge: {report['judge']}", fontsize=10)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def _draw_rates(axes: Any, report: Mapping[str, Any]) -> None:
    modes = report["modes"].values()
    for i, (rate, full) in enumerate(report["full"].items()):
        own = [mode["rates"][rate] for mode in modes]
        places = [j + (i - (len(report["full"]) - 1) / 2) * 0.15 for j in range(len(own))]
        values = [100 * point["difference"] for point in own]
        # An end that bisection finds may miss the value itself by a rounding error.
        below = [max(value - 100 * point["low"], 0) for value, point in zip(values, own, strict=True)]
        above = [max(100 * point["high"] - value, 0) for value, point in zip(values, own, strict=True)]
        label = f"{rate.upper()} (full: {_percent(full)})"
        axes.errorbar(values, places, xerr=[below, above], fmt="o", ms=5, lw=2, color=RUNS[i], label=label)
    axes.axvline(0, color="#5f6b76", lw=1)
    axes.set_xlabel("change against the full clips, in percentage points, 95 % interval", fontsize=9)


def _draw_shares(axes: Any, modes: Mapping[str, Mapping[str, Any]]) -> None:
    for i, (name, colour) in enumerate(_DRAWN.items()):
        widths = [100 * (mode[name] or 0) for mode in modes.values()]
        places = [j + (i - (len(_DRAWN) - 1) / 2) * 0.25 for j in range(len(modes))]
        bars = axes.barh(places, widths, 0.22, color=colour, label=CHANGES[name])
        axes.bar_label(bars, [_percent(mode[name]) for mode in modes.values()], padding=3, fontsize=8)
    axes.set_xlim(0, 112)
    axes.set_xlabel("clips, in percent; mean word distance, in percent", fontsize=9)


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
