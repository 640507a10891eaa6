"""Reading a completion: rationale, answer, canonical emotion, sentences."""

import json
import random
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from callbacks.rewards.format import format_score
from datamodules.emotions import DFEW_TAXONOMY, MAFW_TAXONOMY, get_taxonomy
from datamodules.rationale import leading_sections, read_response, split_sentences
from tools.label_sentences.teacher import read_labels

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
    response = read_response(
        "x<think> He\nsmiles. </think><think>no</think><answer>\nHappy </answer><answer>sad", DFEW_TAXONOMY
    )
    assert response.rationale == "He\nsmiles."
    assert response.answer == "Happy"
    assert response.prediction == "happiness"


@pytest.mark.parametrize(
    "completion", ["", "happy", "<answer>happy", "<think>He smiles.</think>", "</answer>sad<answer>"]
)
def test_without_an_answer_tag_the_answer_is_unknown(completion):
    response = read_response(completion, DFEW_TAXONOMY)
    assert response.answer is None
    assert response.prediction is None


def test_bare_takes_the_whole_completion_as_the_answer():
    assert read_response(" Angry\n", DFEW_TAXONOMY, bare=True).prediction == "anger"
    assert read_response("<answer>angry</answer>", DFEW_TAXONOMY, bare=True).prediction is None


@pytest.mark.parametrize("answer", ["sad.", "surprised", "unhappy", "is angry", "joy", "", "happy sad"])
def test_answers_match_exactly_or_are_unknown(answer):
    assert read_response(f"<answer>{answer}</answer>", MAFW_TAXONOMY).prediction is None


def test_an_emotion_of_another_taxonomy_is_unknown():
    assert read_response("<answer>contempt</answer>", MAFW_TAXONOMY).prediction == "contempt"
    assert read_response("<answer>contempt</answer>", DFEW_TAXONOMY).prediction is None


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
        ("她皱着眉头。她的声音颤抖！为什么？她害怕。", ("她皱着眉头。", "她的声音颤抖！", "为什么？", "她害怕。")),
        (
            "他说：“你好。”然后笑了。 再见。",
            ("他说：“你好。”", "然后笑了。", "再见。"),
        ),  # a quotation belongs to its end
        ("真的吗！？好。。。", ("真的吗！？", "好。。。")),
        ("他笑了。She leaves. 再见", ("他笑了。", "She leaves.", "再见")),
    ],
)
def test_sentence_boundaries(rationale, sentences):
    assert split_sentences(rationale) == sentences


def test_sentences_are_those_of_the_definition():
    """Split at white space behind `.!?` with an even number of quotation marks to its right; no full-width ends."""
    draw = random.Random(0)
    for _ in range(3000):
        text = "".join(
            draw.choices(["a", ".", "!", "?", " ", "\n", "\u3000", '"', '."', "b c", "“"], k=draw.randint(0, 16))
        )
        rationale, pieces = text.strip(), [""]
        for part in re.split(r"((?<=[.!?])\s+)", rationale):
            place = sum(map(len, pieces))
            if part.strip() or rationale.count('"', place) % 2:
                pieces[-1] += part
            else:
                pieces += [part, ""]  # a gap, and the sentence behind it
        assert split_sentences(text) == tuple(filter(None, pieces[::2])), text


def test_tags_and_format_are_those_of_their_patterns():
    draw = random.Random(0)
    patterns = [f"<{tag}>(.*?)</{tag}>" for tag in ("think", "answer")]
    for _ in range(3000):
        text = "".join(
            draw.choices(["<think>", "</think>", "<answer>", "</answer>", " ", "x", "\n", "<"], k=draw.randint(0, 8))
        )
        text = draw.choice([text, f"<think>{text}</answer>"])
        response = read_response(text, DFEW_TAXONOMY)
        think, answer = (re.search(pattern, text, re.DOTALL) for pattern in patterns)
        assert response.rationale == (think[1].strip() if think else "")
        assert response.answer == (answer[1].strip() if answer else None)
        assert format_score(text) == bool(re.fullmatch(r"\s*".join(patterns), text, re.DOTALL))


def _seconds(read: Callable[[str], object], text: str) -> float:
    times = []
    for _ in range(5):
        start = time.process_time()
        read(text)
        times.append(time.process_time() - start)
    return min(times)


@pytest.mark.parametrize(
    "read",
    [
        lambda text: read_response(text, DFEW_TAXONOMY),
        split_sentences,
        format_score,
        lambda text: format_score(text, ["context"]),
        lambda text: leading_sections(f"{text}<think>"),
        read_labels,
    ],
)
@pytest.mark.parametrize(
    ("begin", "repeated"),
    [
        ("<think>", "He smiles. "),
        ("<think>", 'He says "no". '),
        ("", '" '),
        ("", "<think>"),
        ("", "<think></think><answer>"),
        ("", "<answer>"),
        ("joy", " "),
        ("joy", "\t\n"),
    ],
)
def test_time_is_linear_in_the_length(read, begin, repeated):
    short, long = (begin + repeated * count + "</think>x" for count in (2_000, 20_000))
    # Quadratic, it would be a hundred times as long; below a tenth of a millisecond the clock counts.
    assert _seconds(read, long) < 30 * max(_seconds(read, short), 1e-4)


_WITH = "<context>A row.</context>\n<visual>He frowns.</visual>\n<think>Both say anger.</think>\n<answer>angry</answer>"
"""With two sections."""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (_WITH, 1),
        (_WITH.replace("\n", ""), 1),
        (_WITH.replace("A row.", ""), 1),  # as an empty rationale
        (_WITH.replace("<context>A row.</context>\n", ""), 0),  # missing
        (_WITH.replace("<visual>He frowns.</visual>\n", "<visual>He frowns.\n"), 0),  # not closed
        ("<visual>b</visual><context>a</context><think>c</think><answer>angry</answer>", 0),  # out of order
        ("<context>a</context><think>c</think><visual>b</visual><answer>angry</answer>", 0),
        (_WITH.replace("<visual>", "<context>Again.</context><visual>"), 0),  # doubled
        (_WITH.replace("Both", "<visual>Both</visual>"), 0),
        (_WITH.replace("A row.", "A <think>row</think>."), 0),
        (_WITH.replace("\n<visual>", " and <visual>"), 0),  # text in between
        ("x" + _WITH, 0),
        (_WITH + " ", 0),
        ("<think>Both say anger.</think><answer>angry</answer>", 0),
        ("", 0),
    ],
)
def test_sections_are_demanded_once_and_in_order(text: str, expected: int) -> None:
    sections = ("context", "visual")
    assert format_score(text, sections) == expected
    response = read_response(text, DFEW_TAXONOMY, strict=True, sections=sections)
    assert (response.prediction == "anger") == bool(expected)
    assert tuple(response.sections) == sections and any(response.sections.values()) <= expected
    assert read_response(text, DFEW_TAXONOMY).sections == {}, "none are asked for"


def test_what_stands_before_a_rationale_is_read_with_and_without_knowing_its_names() -> None:
    assert leading_sections(_WITH) == {"context": "A row.", "visual": "He frowns."}
    assert read_response(_WITH, DFEW_TAXONOMY, sections=["visual", "audio"]).sections == {
        "visual": "He frowns.",
        "audio": "",
    }
    for text in ("", "<context>a</context>", "<think>a <b>c</b></think>", "<context>a<think>b</think>"):
        assert leading_sections(text) == {}
