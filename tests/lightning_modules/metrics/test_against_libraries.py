"""Figures that are computed here against those of torchmetrics and scipy, and what keeps these two out of the product.

The commands that read finished runs import neither torch nor scipy (docs/performance.md): numbers of scipy 1.17.1 are
written out. torchmetrics has no answer that is none of the classes, and keeps every probability where counts add up.
"""

import numpy as np
import pytest
import torch
from torch import Tensor
from torchmetrics.classification import BinaryCalibrationError
from torchmetrics.functional import classification, spearman_corrcoef

from datamodules.emotions import DFEW_TAXONOMY
from lightning_modules.metrics.agreement import cohens_kappa
from lightning_modules.metrics.calibration import (
    NUM_BINS,
    calibration_error,
    reliability_counts,
)
from lightning_modules.metrics.counts import joint_counts
from lightning_modules.metrics.emotion_report import emotion_report
from lightning_modules.metrics.intervals import wilson
from lightning_modules.metrics.rationale_statistics import spearman
from lightning_modules.metrics.recognition import unweighted_average_recall, weighted_average_recall
from lightning_modules.metrics.sentences import SentenceLabelReport

pytestmark = pytest.mark.numerics

C = len(DFEW_TAXONOMY)


def clips(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Predictions and targets of 400 clips, int64 `[400]`, half of them right; every class has one."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.arange(400) % C
    other = torch.randint(0, C, (400,), generator=generator)
    return torch.where(torch.rand(400, generator=generator) < 0.5, target, other), target


def test_recognition_where_every_answer_is_a_class_and_every_class_has_a_clip() -> None:
    prediction, target = clips()
    counts = joint_counts(prediction, target, None, C)
    report = emotion_report(counts, DFEW_TAXONOMY, judge=None)

    def theirs(name: str, average: str) -> list[float]:
        return getattr(classification, f"multiclass_{name}")(prediction, target, C, average=average).tolist()

    assert report["war"] == pytest.approx(theirs("accuracy", "micro"), abs=1e-6)
    assert report["uar"] == pytest.approx(theirs("recall", "macro"), abs=1e-6)
    for own, name in (("recall", "recall"), ("precision", "precision"), ("f1", "f1_score")):
        figures = [report["per_class"][emotion][own] for emotion in DFEW_TAXONOMY.classes]
        assert figures == pytest.approx(theirs(name, "none"), abs=1e-6)
    matrix = classification.multiclass_confusion_matrix(prediction, target, C)
    assert [row[:C] for row in report["confusion_matrix"]["counts"]] == matrix.tolist()


def test_torchmetrics_has_no_unknown_answer() -> None:
    """It is refused, enters the mean as one more class, or is left out with its clip, which is then no error."""
    target = torch.arange(C).repeat(2)
    prediction = torch.cat([torch.arange(C), torch.full((C,), -1)])  # each class has a right and an unknown answer
    counts = joint_counts(prediction, target, None, C)
    assert unweighted_average_recall(counts) == weighted_average_recall(counts) == 0.5
    with pytest.raises(RuntimeError):
        classification.multiclass_recall(prediction, target, C)
    one_more = torch.where(prediction < 0, C, prediction)
    assert classification.multiclass_recall(one_more, target, C + 1).item() == pytest.approx(0.5 * C / (C + 1))
    answered = prediction >= 0
    assert classification.multiclass_recall(prediction[answered], target[answered], C).item() == 1.0


def test_torchmetrics_counts_the_recall_of_a_class_without_a_clip() -> None:
    target, prediction = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 0, 1, 2])
    assert unweighted_average_recall(joint_counts(prediction, target, None, C)) == 0.75
    assert classification.multiclass_recall(prediction, target, C).item() == pytest.approx(0.5)


def test_kappa() -> None:
    first, second = clips()
    table = np.pad(classification.multiclass_confusion_matrix(first, second, C).numpy(), (0, 1))  # none is invalid
    expected = classification.multiclass_cohen_kappa(first, second, C).item()
    assert float(cohens_kappa(table)) == pytest.approx(expected, abs=1e-6)


def probabilities(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Probabilities `[300, 4]`, none on an edge of a bin, and labels that hold about as often."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.rand(300, 4, generator=generator).clamp(1e-3, 1 - 1e-3)
    return values, torch.rand(300, 4, generator=generator) < values**2


def test_calibration_error_of_each_label() -> None:
    values, gold = probabilities()
    counts = reliability_counts(values, gold)
    for label in range(4):
        given = values[:, label].contiguous(), gold[:, label].int()
        expected = classification.binary_calibration_error(*given, n_bins=NUM_BINS)
        assert calibration_error(counts[label]) == pytest.approx(expected.item(), abs=1e-6)


def test_torchmetrics_keeps_all_probabilities_for_a_calibration_error() -> None:
    values, gold = probabilities()
    theirs = BinaryCalibrationError(n_bins=NUM_BINS)
    for part in range(2):
        theirs.update(values[part::2, 0], gold[part::2, 0].int())
    assert sum(kept.numel() for kept in theirs.confidences) == len(values)
    halves = [reliability_counts(values[part::2], gold[part::2]) for part in range(2)]
    assert sum(halves)[0].numel() == 3 * NUM_BINS
    assert calibration_error(sum(halves)[0]) == pytest.approx(theirs.compute().item(), abs=1e-6)


def test_f1_of_sentence_labels() -> None:
    values, gold = probabilities()
    report = SentenceLabelReport(["a", "b", "c", "neutral"])
    report.update(values, gold)
    own = report.compute()
    for sweep in own["threshold_sweep"]:
        for average in ("macro", "micro"):
            expected = classification.multilabel_f1_score(values, gold, 4, sweep["threshold"], average)
            assert sweep[f"{average}_f1"] == pytest.approx(expected.item(), abs=1e-6)


def test_rank_correlation() -> None:
    x, y = [0.1, 0.4, 0.4, 0.9, 0.2, 0.4], [3.0, 1.0, 1.0, 8.0, 5.0, 9.0]
    assert spearman(x, y) == pytest.approx(0.2156143862717941, abs=1e-12)  # scipy.stats.spearmanr
    assert spearman(x, y) == pytest.approx(spearman_corrcoef(torch.tensor(x), torch.tensor(y)).item(), abs=1e-6)


@pytest.mark.parametrize(
    ("part", "whole", "low", "high"),
    [
        (0, 5, 0.0, 0.43448246478317476),
        (3, 3, 0.4385029682449546, 1.0),
        (7, 10, 0.39677814746114526, 0.892208732593699),
        (250, 1000, 0.2241530989836914, 0.27776028025908617),
    ],
)
def test_wilson_interval(part: int, whole: int, low: float, high: float) -> None:
    """`scipy.stats.binomtest(part, whole).proportion_ci(0.95, "wilson")`."""
    assert wilson(part, whole) == pytest.approx([low, high], abs=1e-8)
