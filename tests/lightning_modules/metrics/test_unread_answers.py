"""The commonest answers that name no class."""

import pytest

from datamodules.emotions import DFEW_TAXONOMY, Taxonomy, get_taxonomy
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


ENGLISH, CHINESE = ["angry", "surprised", "rather sad"], ["生气", "很惊讶", "悲伤"]
OWN = Taxonomy("own", ("愤怒", "悲伤"), {"生气": "愤怒"})


@pytest.mark.parametrize(
    ("said", "taxonomy", "share"),
    [
        (CHINESE, DFEW_TAXONOMY, 100),
        ([*CHINESE, "angry"], DFEW_TAXONOMY, 75),
        ([*CHINESE, *ENGLISH], DFEW_TAXONOMY, None),
        ([*ENGLISH, "mirth", "naïve"], DFEW_TAXONOMY, None),
        (CHINESE, get_taxonomy("dfew", "extended"), None),
        (CHINESE, OWN, None),
        (ENGLISH, OWN, 100),
        ([], DFEW_TAXONOMY, None),
        ([":)", "?!", "1"], DFEW_TAXONOMY, None),
    ],
)
def test_answers_of_another_language_than_the_table(said: list[str], taxonomy: Taxonomy, share: int | None) -> None:
    unread = UnreadAnswers()
    unread.update(read_response(f"<answer>{answer}</answer>", taxonomy) for answer in said)
    unread.update([read_response("no tags", taxonomy)])
    foreign = unread.foreign(len(said), taxonomy)
    if share is None:
        assert foreign is None
    else:
        assert foreign is not None and foreign.startswith(
            f"{share} % of the answers (such as {said[0]}) are spelled in"
        )
        assert "`aliases: extended`" in foreign
