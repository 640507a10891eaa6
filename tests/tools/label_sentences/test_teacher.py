"""What a teacher is asked, and which replies count."""

import pytest

from datamodules.emotions import GO_EMOTIONS
from lightning_modules.judges import FileJudge
from tools.label_sentences.teacher import label_prompt, read_labels, require_teacher

pytestmark = pytest.mark.unit


def test_the_question_names_every_label_and_the_sentence():
    prompt = label_prompt("He frowns.")
    assert ", ".join(GO_EMOTIONS) in prompt and "He frowns." in prompt


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("anger", ("anger",)),
        ("Joy, amusement", ("amusement", "joy")),  # in the order of GoEmotions
        (" **Sadness**;\ngrief. ", None),  # an empty part: nothing may be missing
        ("sadness;grief", ("grief", "sadness")),
        ("sadness\n\ngrief\n", ("grief", "sadness")),
        ('["fear", "nervousness"]', ("fear", "nervousness")),
        ("`neutral`", ("neutral",)),
        ("joy, joy", ("joy",)),
    ],
)
def test_replies_that_name_labels(reply, expected):
    assert read_labels(reply) == expected


@pytest.mark.parametrize(
    "reply",
    [
        None,
        "",
        "[]",
        "happiness",  # a class of the corpora, no label of GoEmotions
        "joy, happiness",
        "joy, ",
        "joy, amuse",  # cut
        "anger and fear",
        "The labels are joy, love",
        "no emotion",
        "joy, love, pride, relief",  # more than three
        '{"labels": ["joy"]}',
    ],
)
def test_other_replies_are_invalid_and_never_neutral(reply):
    assert read_labels(reply) is None


def test_a_file_of_verdicts_cannot_label(tmp_path):
    (tmp_path / "verdicts.jsonl").write_text('{"id": "1", "emotion": "anger"}\n')
    with pytest.raises(ValueError, match="cannot label sentences. Expected a VerifierJudge"):
        require_teacher(FileJudge(tmp_path / "verdicts.jsonl"))
