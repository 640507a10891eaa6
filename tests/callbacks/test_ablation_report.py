"""Distances between two rationales, against values counted by hand."""

import pytest

from callbacks.ablation_report import share_of_sentences_kept, word_distance

pytestmark = pytest.mark.numerics


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("He shouts.", "He shouts.", 0.0),
        ("He shouts, HE shouts!", "shouts he", 0.0),  # sets: order, case, punctuation and repetition do not count
        ("He shouts.", "She whispers.", 1.0),
        ("a b c", "b c d e", 1 - 2 / 5),
        ("it's low-pitched", "its low pitched", 1.0),
        ("Wütend, 愤怒", "wütend 愤怒", 0.0),
        ("", "", 0.0),
        ("", "word", 1.0),
        ("...", "?!", 0.0),
    ],
)
def test_word_distance(first: str, second: str, expected: float) -> None:
    assert word_distance(first, second) == pytest.approx(expected, abs=1e-12)
    assert word_distance(second, first) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (["A.", "B."], ["B.", "A."], 1.0),
        (["A.", "B.", "C."], ["C.", "X."], 1 / 3),
        (["A.", "A."], ["A.", "B."], 1 / 2),
        (["A."], ["A.", "A."], 1.0),
        (["A."], ["a."], 0.0),
        (["A."], [], 0.0),
        ([], ["A."], None),
        ([], [], None),
    ],
)
def test_share_of_sentences_kept(before: list[str], after: list[str], expected: float | None) -> None:
    assert share_of_sentences_kept(before, after) == expected
