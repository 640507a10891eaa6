"""Panels as Markdown."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from callbacks.inspection.markdown import clips_markdown, group_markdown, marked_rationale
from callbacks.inspection.panel import Panel
from lightning_modules.metrics.reliance import Reliance
from tests.callbacks.inspection.conftest import SAID, completion

pytestmark = pytest.mark.unit


def test_every_sentence_is_shown_with_its_mark_and_what_was_read_in_it() -> None:
    assert marked_rationale(SAID) == (
        "**✓** He shouts. *(anger)*<br>**·** He sits. *(neutral)*<br>**✗** He laughs. *(joy, love)*<br>→ **angry**"
    )


def test_without_a_target_nothing_matches_or_contradicts() -> None:
    text, emotions = "<think>He shouts. He sits.</think>", [["anger"], ["neutral"]]
    shown = marked_rationale(completion(text, emotions, target=None))
    assert shown == "He shouts. *(anger)*<br>**·** He sits. *(neutral)*<br>→ **no answer**"


def test_generated_text_stays_text(make_panel: Callable[..., Panel]) -> None:
    hostile = "<script>alert(1)</script> | **x** `y` [z](javascript:1)\n# h"
    text = f"<think>{hostile}</think><answer><b>sad</b></answer>"
    panel = make_panel(completion(text, [["joy"]], rewards={"a|b": 1.0}, advantage=0.5), id="<i>|")
    for shown in (group_markdown(panel), clips_markdown([panel])):
        assert "<script>" not in shown and "<b>" not in shown and "<i>" not in shown
        assert "\\|" in shown and "\\*\\*x" in shown and "\\[z\\]" in shown
        row = shown.splitlines()[-1]
        assert row.replace("\\|", "").count("|") in (4, 5), "no cell more than there are columns"


def test_any_id_can_be_written(make_panel: Callable[..., Panel]) -> None:
    assert "clip?.mp4" in clips_markdown([make_panel(id="clip\udcff.mp4")])


def test_a_completion_without_a_rationale_is_shown_in_full() -> None:
    assert marked_rationale(completion("no tags " * 500, [])).startswith("no rationale: " + "no tags " * 499)
    assert marked_rationale(completion("", [])) == "empty completion<br>→ **no answer**"


def test_a_group_has_its_rewards_and_advantages(make_panel: Callable[..., Panel]) -> None:
    text = "<think>He shouts.</think>"
    panel = make_panel(
        completion(text, [["anger"]], rewards={"format": 1.0, "length": 2.5}, advantage=0.71),
        completion(text, [["anger"]], rewards={"format": 0.0, "length": 1.0}, advantage=-0.71),
    )
    lines = group_markdown(panel).splitlines()
    assert lines[2] == "| completion | format | length | advantage |"
    assert lines[4].endswith("| 1.00 | 2.50 | +0.71 |") and lines[5].endswith("| 0.00 | 1.00 | -0.71 |")


def test_clips_have_their_verdicts(make_panel: Callable[..., Panel]) -> None:
    text = "<think>He shouts.</think>"
    judged, invalid = completion(text, [["anger"]], verdict="fear"), completion(text, [["anger"]])
    panels = [make_panel(judged, judge="x"), make_panel(invalid, judge="x"), make_panel(judged)]
    verdicts = [line.split(" | ")[2] for line in clips_markdown(panels).splitlines()[-3:]]
    assert verdicts == ["fear", "invalid", "–"]


def test_marks_are_explained_unless_nobody_made_any(make_panel: Callable[..., Panel]) -> None:
    assert "✓" in clips_markdown([make_panel(), make_panel(completion("no tags", []))]).splitlines()[0]
    unread = make_panel(completion("<think>He shouts.</think>", [[]], target=None))
    assert clips_markdown([unread]).startswith("No verifier read")


def test_what_sentences_rest_on_is_shown_and_explained(make_panel: Callable[..., Panel]) -> None:
    said = replace(SAID.sentences[0], reliance=Reliance(pictures=-0.26, sound=1.24))
    heard = replace(SAID.sentences[1], reliance=Reliance(sound=0.0))
    completion = replace(SAID, sentences=(said, heard, *SAID.sentences[2:]), advantage=0.5)
    shown = marked_rationale(completion)
    assert shown.startswith(
        "**✓** He shouts. *(anger)* (pictures -0.3, sound +1.2)<br>**·** He sits. *(neutral)* (sound +0.0)<br>**✗** He"
    )
    assert "pictures and sound add" in group_markdown(make_panel(completion))
    assert "pictures and sound add" not in clips_markdown([make_panel()])


def test_a_sentence_of_which_nothing_is_known_has_no_empty_brackets() -> None:
    alone = replace(SAID.sentences[0], reliance=Reliance())
    assert "()" not in marked_rationale(replace(SAID, sentences=(alone,)))
