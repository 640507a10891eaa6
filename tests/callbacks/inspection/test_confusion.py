"""Confusion matrices and their figures."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from callbacks.inspection.callback import class_curves
from callbacks.inspection.confusion import confusion_matrices, draw_confusion
from datamodules.emotions import DFEW_TAXONOMY
from lightning_modules.metrics.counts import class_indices, joint_counts
from lightning_modules.metrics.emotion_report import emotion_report

pytestmark = pytest.mark.numerics

CLIPS = [  # target, prediction, judged
    ("anger", "anger", "anger"),
    ("anger", "anger", "fear"),
    ("anger", "fear", "fear"),
    ("anger", None, "anger"),
    ("fear", "fear", None),
    ("fear", None, None),
]


@pytest.fixture
def counts() -> torch.Tensor:
    target, prediction, judged = (class_indices(column, DFEW_TAXONOMY) for column in zip(*CLIPS, strict=True))
    return joint_counts(prediction, target, judged, len(DFEW_TAXONOMY))


def cells(matrix) -> dict[tuple[str, str], int]:
    return {
        (matrix.rows[row], matrix.columns[column]): int(number)
        for (row, column), number in np.ndenumerate(matrix.counts)
        if number
    }


def test_each_pair_is_counted(counts: torch.Tensor) -> None:
    prediction, explanation, both = confusion_matrices(counts.numpy(), DFEW_TAXONOMY, "someone")
    assert cells(prediction) == {
        ("anger", "anger"): 2, ("anger", "fear"): 1, ("anger", "unknown"): 1,
        ("fear", "fear"): 1, ("fear", "unknown"): 1,
    }  # fmt: skip
    assert cells(explanation) == {("anger", "anger"): 2, ("anger", "fear"): 2, ("fear", "invalid"): 2}
    assert cells(both) == {
        ("anger", "anger"): 1, ("anger", "fear"): 1, ("fear", "fear"): 1, ("unknown", "anger"): 1,
        ("fear", "invalid"): 1, ("unknown", "invalid"): 1,
    }  # fmt: skip


def test_the_diagonal_is_the_metric(counts: torch.Tensor) -> None:
    report = emotion_report(counts, DFEW_TAXONOMY, "someone")
    matrices = confusion_matrices(counts.numpy(), DFEW_TAXONOMY, "someone")
    assert {matrix.agreement: matrix.rate for matrix in matrices} == {
        name.upper(): pytest.approx(report[name], abs=1e-12) for name in ("war", "eea", "epc")
    }
    assert report["epc"] == pytest.approx(2 / 6), "unknown and invalid are no agreement"


def test_without_a_judge_there_is_no_explanation(counts: torch.Tensor) -> None:
    assert [matrix.tag for matrix in confusion_matrices(counts.numpy(), DFEW_TAXONOMY, None)] == ["prediction_x_target"]


def test_a_figure_has_the_counts_and_the_share_of_each_row(counts: torch.Tensor) -> None:
    matrix = confusion_matrices(counts.numpy(), DFEW_TAXONOMY, "someone")[0]
    figure = draw_confusion(matrix)
    axes = figure.axes[0]
    anger, fear, unknown = DFEW_TAXONOMY.index("anger"), DFEW_TAXONOMY.index("fear"), len(DFEW_TAXONOMY)
    written = {(round(t.get_position()[1]), round(t.get_position()[0])): t.get_text() for t in axes.texts}
    assert written == {
        (anger, anger): "2", (anger, fear): "1", (anger, unknown): "1", (fear, fear): "1", (fear, unknown): "1"
    }  # fmt: skip
    shares = axes.images[0].get_array()
    assert shares[anger].tolist()[anger] == 0.5 and shares[fear].tolist()[unknown] == 0.5
    assert shares.sum(axis=1).tolist() == [1.0 if name in ("anger", "fear") else 0.0 for name in DFEW_TAXONOMY.classes]
    assert [label.get_text() for label in axes.get_yticklabels()][anger] == "anger (4)"
    assert axes.get_title() == "WAR 50.0% of 6 clips"


def test_no_figure_stays_open(counts: torch.Tensor) -> None:
    before = plt.get_fignums()
    for matrix in confusion_matrices(counts.numpy(), DFEW_TAXONOMY, "a/very/long/path/" * 9):
        draw_confusion(matrix)
    assert plt.get_fignums() == before


def test_curves_of_the_classes_that_have_clips(counts: torch.Tensor) -> None:
    curves = class_curves(emotion_report(counts, DFEW_TAXONOMY, "someone"), "val")
    assert curves == {
        "val_recall/anger": 0.5, "val_recall/fear": 0.5, "val_eea/anger": 0.5, "val_eea/fear": 0.0,
        "val_epc/anger": 0.5, "val_epc/fear": 0.0, "val_fcr/anger": 0.25, "val_fcr/fear": 0.0,
    }  # fmt: skip
    unjudged = class_curves(emotion_report(counts, DFEW_TAXONOMY, None), "val")
    assert set(unjudged) == {"val_recall/anger", "val_recall/fear"}
