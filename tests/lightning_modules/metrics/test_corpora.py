"""The figures of each corpus beside those over all."""

from collections import Counter

import pytest

from datamodules.emotions import MAFW_TAXONOMY
from lightning_modules.metrics.emotion_report import CountedClip, EmotionReport

pytestmark = pytest.mark.numerics

CLIPS = [
    CountedClip("DFEW", "anger", "anger", "anger"),
    CountedClip("DFEW", "anger", "anger", "anger"),
    CountedClip("DFEW", None, "fear", "fear"),
    CountedClip("MAFW", "anger", "anger_disgust", "fear"),
    CountedClip("MAFW", "fear", "contempt", None),
]


def test_figures_of_each_corpus(recwarn: pytest.WarningsRecorder) -> None:
    figures = EmotionReport(MAFW_TAXONOMY, "judge").of_corpora(Counter(CLIPS))
    assert list(figures) == ["DFEW", "MAFW"]
    dfew, mafw = figures["DFEW"], figures["MAFW"]
    assert (dfew["num_samples"], dfew["war"], dfew["uar"], dfew["eea"], dfew["fcr"]) == (3, 2 / 3, 0.5, 1.0, 2 / 3)
    assert (mafw["num_samples"], mafw["war"], mafw["uar"]) == (2, 0.5, None), "a compound clip: WAR alone"
    assert "taxonomy" not in dfew and not recwarn.list, "a corpus need not have every class of the others"


def test_without_a_judge() -> None:
    figures = EmotionReport(MAFW_TAXONOMY).of_corpora(Counter(clip._replace(judged=None) for clip in CLIPS))
    assert figures["DFEW"]["war"] == 2 / 3 and figures["DFEW"]["eea"] is None


def test_one_corpus_is_all() -> None:
    assert EmotionReport(MAFW_TAXONOMY).of_corpora(Counter(CLIPS[:3])) == {}
