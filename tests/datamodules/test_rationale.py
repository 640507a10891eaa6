"""Reading a completion: rationale, answer, canonical emotion, sentences."""

import json
from pathlib import Path

import pytest

from datamodules.emotions import DFEW, MAFW, get_taxonomy
from datamodules.rationale import read_response, split_sentences

pytestmark = pytest.mark.unit

# Bytes: text lines would also be split at the Unicode line separators inside the completions.
CASES = [
    json.loads(line) for line in (Path(__file__).parents[1] / "golden/rewards/cases.jsonl").read_bytes().splitlines()
]


def test_golden_sentences_and_answers():
    assert len(CASES) == 211
    for case in CASES:
        taxonomy = get_taxonomy(case["dataset"])
        response = read_response(case["completion"], taxonomy)
        assert list(response.sentences) == case["sentences"], case["id"]
        assert taxonomy.canonical(case["target"]) == case["canonical_target"], case["id"]
        assert (response.prediction == case["canonical_target"]) == bool(case["accuracy"]), case["id"]


def test_first_tags_count_and_new_lines_stay_inside():
    response = read_response("x<think> He\nsmiles. </think><think>no</think><answer>\nHappy </answer><answer>sad", DFEW)
    assert response.rationale == "He\nsmiles."
    assert response.answer == "Happy"
    assert response.prediction == "happiness"


@pytest.mark.parametrize(
    "completion", ["", "happy", "<answer>happy", "<think>He smiles.</think>", "</answer>sad<answer>"]
)
def test_without_an_answer_tag_the_answer_is_unknown(completion):
    response = read_response(completion, DFEW)
    assert response.answer is None
    assert response.prediction is None


def test_bare_takes_the_whole_completion_as_the_answer():
    assert read_response(" Angry\n", DFEW, bare=True).prediction == "anger"
    assert read_response("<answer>angry</answer>", DFEW, bare=True).prediction is None


@pytest.mark.parametrize("answer", ["sad.", "surprised", "unhappy", "is angry", "joy", "", "happy sad"])
def test_answers_match_exactly_or_are_unknown(answer):
    assert read_response(f"<answer>{answer}</answer>", MAFW).prediction is None


def test_an_emotion_of_another_taxonomy_is_unknown():
    assert read_response("<answer>contempt</answer>", MAFW).prediction == "contempt"
    assert read_response("<answer>contempt</answer>", DFEW).prediction is None


@pytest.mark.parametrize(
    ("rationale", "sentences"),
    [
        ("", ()),
        ("  \n ", ()),
        ("No full stop", ("No full stop",)),
        ("He smiles.  She\nfrowns!\nWhy? End", ("He smiles.", "She\nfrowns!", "Why?", "End")),
        ("a.b c.", ("a.b c.",)),  # no white space behind the full stop
        ('He says "No. Never." Then he goes.', ('He says "No. Never." Then he goes.',)),  # `."` is no sentence end
        ('He says "No. Never" and goes. She stays.', ('He says "No. Never" and goes.', "She stays.")),
        ('One. Two " three.', ('One. Two " three.',)),  # an odd number of quotation marks to the right
    ],
)
def test_sentence_boundaries(rationale, sentences):
    assert split_sentences(rationale) == sentences
