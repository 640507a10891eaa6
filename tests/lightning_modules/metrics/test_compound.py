"""Clips with several emotions: any of them is right, and WAR is the only figure."""

import pytest
import torch

from datamodules.emotions import DFEW_TAXONOMY, MAFW_TAXONOMY
from lightning_modules.metrics.emotion_report import EmotionReport

pytestmark = pytest.mark.numerics


def test_any_emotion_of_a_compound_clip_is_right() -> None:
    report = EmotionReport(MAFW_TAXONOMY, "judge")
    predictions = ["disgust", "anger", "fear", None, "sadness"]
    targets = ["anger_disgust", "anger_disgust", "anger_disgust", "anger_disgust", "sadness"]
    report.update_clips(predictions, targets, ["anger"] * 5)
    metrics = report.compute()
    assert metrics["war"] == pytest.approx(3 / 5)
    assert metrics["num_samples"] == 5
    assert metrics["compound_clips"] == 4
    assert metrics["unknown_answers"] == 1
    for name in ("uar", "uar_answered_only", "eea", "epc", "fcr", "confusion_matrix"):
        assert metrics[name] is None
    assert metrics["per_class"] == {}


def test_single_clips_have_every_figure() -> None:
    report = EmotionReport(DFEW_TAXONOMY, "judge")
    report.update_clips(["anger", "fear"], ["anger", "sadness"], ["anger", None])
    metrics = report.compute()
    assert metrics["compound_clips"] == 0
    assert (metrics["war"], metrics["uar"], metrics["eea"], metrics["judge_failures"]) == (0.5, 0.5, 0.5, 1)


def test_compound_clips_add_up_over_processes() -> None:
    first, second = EmotionReport(MAFW_TAXONOMY), EmotionReport(MAFW_TAXONOMY)
    first.update_clips(["fear"], ["fear_surprise"], None)
    second.update_clips(["fear"], ["fear"], None)
    # What torchmetrics does with the states of two processes.
    for state, reduction in first._reductions.items():
        setattr(first, state, reduction(torch.stack([getattr(first, state), getattr(second, state)])))
    assert first.compute()["compound_clips"] == 1
    assert first.compute()["war"] == 1.0
