"""The commonest answers that name no class."""

import pytest

from datamodules.emotions import DFEW_TAXONOMY
from datamodules.rationale import read_response
from lightning_modules.metrics.unread_answers import NUM_ANSWERS, UnreadAnswers, unread_summary

pytestmark = pytest.mark.unit


def test_commonest_first_and_printable() -> None:
    said = ["surprised"] * 3 + ["angry"] * 5 + ["\x1b[31mred"] + ["sad."] * 2
    unread = UnreadAnswers()
    unread.update(read_response(f"<answer>{answer}</answer>", DFEW_TAXONOMY) for answer in said)
    unread.update([read_response("no tags", DFEW_TAXONOMY)] * 4)
    counts = [(own["answer"], own["count"]) for own in unread.commonest()]
    assert counts == [(None, 4), ("surprised", 3), ("sad.", 2), ("\\x1b[31mred", 1)]
    assert unread_summary(unread.commonest()).startswith("Answers that name no class: no answer (4), 'surprised' (3)")


def test_a_short_list_of_short_texts() -> None:
    unread = UnreadAnswers()
    unread.update(read_response(f"<answer>{i} {'x' * 1000}</answer>", DFEW_TAXONOMY) for i in range(50))
    assert len(unread.commonest()) == NUM_ANSWERS and all(len(own["answer"]) <= 60 for own in unread.commonest())
