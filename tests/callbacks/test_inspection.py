"""The marked rationales that TensorBoard shows."""

import pytest
import torch

from callbacks.inspection import InspectionCallback, mark, marked_rationale
from datamodules.emotions import DFEW
from lightning_modules.emotion_verifier import SentenceReading
from lightning_modules.rationale import read_response

pytestmark = pytest.mark.unit


def reading(text: str, *emotions: str) -> SentenceReading:
    return SentenceReading(text, torch.zeros(28), emotions)


def test_marks() -> None:
    assert mark(reading("", "joy", "love"), "happiness") == "🟩", "the verifier's label of happiness is joy"
    assert mark(reading("", "neutral"), "happiness") == "⬜"
    assert mark(reading("", "neutral"), "neutral") == "🟩"
    assert mark(reading("", "neutral", "anger"), "happiness") == "🟥", "not neutral alone"
    assert mark(reading("", "joy"), None) == "🟥", "without a label nothing matches"


def test_every_sentence_is_shown_with_what_was_read_in_it() -> None:
    response = read_response("<think>She grins. She sits.</think><answer>happy</answer>", DFEW)
    shown = marked_rationale(response, [reading("She grins.", "joy"), reading("She sits.", "neutral")], "happiness")
    assert shown == "🟩 She grins. *(joy)*<br>⬜ She sits. *(neutral)*<br>→ **happy**"


def test_generated_text_stays_text() -> None:
    hostile = "<script>alert(1)</script> | **x** `y` [z](javascript:1)\n# h"
    response = read_response(f"<think>{hostile}</think><answer><b>sad</b></answer>", DFEW)
    shown = marked_rationale(response, None, "sadness")
    assert "<script>" not in shown and "<b>" not in shown and "\n" not in shown
    assert "\\|" in shown and "\\*\\*x" in shown and "\\[z\\]" in shown


def test_a_completion_without_a_rationale_is_shown_as_it_is() -> None:
    assert "no rationale: `no tags`" in marked_rationale(read_response("no tags", DFEW), [], "fear")


def test_settings_are_checked() -> None:
    with pytest.raises(ValueError, match="every_n_steps >= 1"):
        InspectionCallback(every_n_steps=0)
