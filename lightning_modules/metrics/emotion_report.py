"""All metrics of an evaluation as one dictionary: what `metrics.json` holds."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from datamodules.emotions import Taxonomy, members
from lightning_modules.metrics.counts import EmotionMetric, class_indices, num_clips
from lightning_modules.metrics.explanation import (
    answer_by_explanation,
    explanation_emotion_accuracy,
    explanation_prediction_consistency,
    faithful_consistency_rate,
)
from lightning_modules.metrics.predictions import UNKNOWN
from lightning_modules.metrics.recognition import (
    absent_classes,
    unweighted_average_recall,
    warn_absent,
    weighted_average_recall,
)
from lightning_modules.protocol import Protocol

_SHARED = ("protocol", "taxonomy", "judge")
"""What the corpora of a report have in common."""


def emotion_report(
    counts: Tensor, taxonomy: Taxonomy, judge: str | None, protocol: Protocol = "paper"
) -> dict[str, Any]:
    """All metrics from the counts, as plain JSON values. Rates are fractions in [0, 1].

    Args:
        counts: K as in `counts`, int64 `[C, C+1, C+1]`.
        taxonomy: the classes.
        judge: name of the judge; None when there was none, then `eea`, `epc`, `fcr`, `answer_by_explanation` and
            `judge_failures` are None.
        protocol: whose EEA and UAR.

    Returns:
        `protocol`, `taxonomy`, `num_samples`, `compound_clips` (0), `war`, `uar`, `uar_answered_only` (None when no
        answer names a class), `eea`, `epc`, `fcr`, `answer_by_explanation` (clips by which of the two is right),
        `unknown_answers`, `judge`, `judge_failures`, `absent_classes`, `per_class` (emotion → figures), and
        `confusion_matrix` with its `rows` (targets), `columns` (predictions, then `unknown`) and `counts` (clips).

    Raises:
        ValueError: no clip was counted.
    """
    counts = counts.cpu()
    confusion = counts.sum(dim=2)
    released = protocol == "released"
    return {
        "protocol": protocol,
        "taxonomy": taxonomy.name,
        "num_samples": num_clips(counts),
        "compound_clips": 0,
        "war": weighted_average_recall(counts),
        "uar": unweighted_average_recall(counts, all_classes=released),
        "uar_answered_only": unweighted_average_recall(counts, answered_only=True),
        "eea": explanation_emotion_accuracy(counts, answered=released) if judge else None,
        "epc": explanation_prediction_consistency(counts) if judge else None,
        "fcr": faithful_consistency_rate(counts) if judge else None,
        "answer_by_explanation": answer_by_explanation(counts) if judge else None,
        "unknown_answers": int(confusion[:, -1].sum()),
        "judge": judge,
        "judge_failures": int(counts[:, :, -1].sum()) if judge else None,
        "absent_classes": absent_classes(counts, taxonomy),
        "per_class": {
            emotion: _class_figures(counts[i], confusion[:, i], i, judged=judge is not None)
            for i, emotion in enumerate(taxonomy.classes)
        },
        "confusion_matrix": {
            "rows": list(taxonomy.classes),
            "columns": [*taxonomy.classes, UNKNOWN],
            "counts": confusion.tolist(),
        },
    }


def compound_report(
    counts: Tensor, taxonomy: Taxonomy, judge: str | None, num_compound: int, protocol: Protocol = "paper"
) -> dict[str, Any]:
    """The dictionary of `emotion_report` for clips some of which have several emotions: WAR only.

    The other figures need one class per clip and are None or empty.
    """
    counts = counts.cpu()
    report = emotion_report(counts, taxonomy, judge, protocol)
    judged = ("eea", "epc", "fcr", "answer_by_explanation")
    return report | {
        "compound_clips": num_compound,
        **dict.fromkeys(("uar", "uar_answered_only", *judged, "confusion_matrix")),
        "absent_classes": [],
        "per_class": {},
    }


def _class_figures(own: Tensor, predicted: Tensor, index: int, judged: bool) -> dict[str, Any]:
    """Figures of one class; None where a denominator is 0.

    Args:
        own: `[C+1, C+1]`, the class' clips by prediction and judged emotion.
        predicted: `[C]`, clips with this prediction, by target.
        index: the class.
        judged: whether there was a judge.
    """
    total, hits, guesses = int(own.sum()), int(own[index].sum()), int(predicted.sum())

    def share(part: int, whole: int) -> float | None:
        return part / whole if whole else None

    return {
        "num_samples": total,
        "recall": share(hits, total),
        "precision": share(hits, guesses),
        "f1": share(2 * hits, total + guesses),
        "eea": share(int(own[:, index].sum()), total) if judged else None,
        "epc": share(int(own[:-1, :-1].diagonal().sum()), total) if judged else None,
        "fcr": share(int(own[index, index]), total) if judged else None,
    }


class CountedClip(NamedTuple):
    """What is counted of a clip.

    Args:
        corpus: its corpus' name.
        prediction: canonical emotion; None where the answer is unknown.
        target: canonical emotion, several joined by `_`.
        judged: emotion that the judge names; None where its reply is invalid, or without a judge.
    """

    corpus: str
    prediction: str | None
    target: str | None
    judged: str | None


class EmotionReport(EmotionMetric):
    """`metrics.json` as a metric: counts clips as all metrics here, computes the whole dictionary.

    Args:
        taxonomy: the classes.
        judge: name of the judge whose emotions `update` gets; None without a judge.
        protocol: whose EEA and UAR.
    """

    higher_is_better = None
    num_compound: Tensor

    def __init__(self, taxonomy: Taxonomy, judge: str | None = None, protocol: Protocol = "paper") -> None:
        super().__init__(taxonomy)
        self.judge = judge
        self.protocol: Protocol = protocol
        self.add_state("num_compound", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update_clips(
        self, predictions: Sequence[str | None], targets: Sequence[str | None], judged: Sequence[str | None] | None
    ) -> None:
        """Count clips by name. A compound clip counts under the one of its emotions that was predicted, if any.

        Args:
            predictions: canonical emotions; None where the answer is unknown.
            targets: canonical emotions, several of a clip joined by `_`.
            judged: emotions that the judge names; None where its reply is invalid. None without a judge.
        """
        emotions = [None if target is None else members(target) for target in targets]
        self.num_compound += sum(own is not None and len(own) > 1 for own in emotions)
        single = [
            None if own is None else prediction if prediction in own else own[0]
            for prediction, own in zip(predictions, emotions, strict=True)
        ]
        self.update(
            self._indices(predictions), self._indices(single), None if judged is None else self._indices(judged)
        )

    def _indices(self, emotions: Sequence[str | None]) -> Tensor:
        return class_indices(emotions, self.taxonomy, self.counts.device)

    def compute(self) -> dict[str, Any]:
        """The dictionary of `emotion_report`, or of `compound_report`; warns about classes without a clip."""
        if not self.num_compound:
            warn_absent(self.counts, self.taxonomy)
        return self.figures()

    def figures(self) -> dict[str, Any]:
        """The same of the clips of this process, without a warning."""
        if self.num_compound:
            return compound_report(self.counts, self.taxonomy, self.judge, int(self.num_compound), self.protocol)
        return emotion_report(self.counts, self.taxonomy, self.judge, self.protocol)

    def of_corpora(self, clips: Counter[CountedClip]) -> dict[str, dict[str, Any]]:
        """Corpus → its own figures, without what they share; empty where there are fewer than two corpora.

        Args:
            clips: of all processes.
        """
        names = sorted({clip.corpus for clip in clips})
        reports = {}
        for name in names if len(names) > 1 else ():
            own = [clip for clip in clips.elements() if clip.corpus == name]
            report = EmotionReport(self.taxonomy, self.judge, self.protocol)
            verdicts = None if self.judge is None else [clip.judged for clip in own]
            report.update_clips([clip.prediction for clip in own], [clip.target for clip in own], verdicts)
            reports[name] = {key: value for key, value in report.figures().items() if key not in _SHARED}
        return reports
