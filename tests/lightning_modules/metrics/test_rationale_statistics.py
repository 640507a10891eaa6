"""The statistics behind the reward-hacking alarms, against numbers computed by hand."""

from typing import Any

import pytest

from datamodules.emotions import DFEW_TAXONOMY, MAFW_TAXONOMY
from lightning_modules.metrics.rationale_statistics import (
    Ratio,
    Rationale,
    distinct,
    names_label,
    rationale_statistics,
    spearman,
    words,
)

pytestmark = pytest.mark.numerics


def rationale(clip: str, *sentences: str, **fields: Any) -> Rationale:
    values = {"emotions": None, "target": None, "prediction": None, "reward": None, "length": 0}
    return Rationale(clip, sentences, **{**values, **fields})


def read(clip: str, target: str | None, *emotions: tuple[str, ...], **fields: Any) -> Rationale:
    """A rationale of which only the label sets matter."""
    sentences = [f"{clip} {i}" for i in range(len(emotions))]
    return rationale(clip, *sentences, emotions=emotions, target=target, **fields)


def values(*rationales: Rationale, taxonomy=DFEW_TAXONOMY) -> dict[str, float | None]:
    return {name: tally.value for name, tally in rationale_statistics(rationales, taxonomy).items()}


def test_words() -> None:
    assert words("He can't — he \"won't\"! A well-lit room, 2 people.") == [
        *("he", "can't", "he", "won't", "a", "well-lit", "room", "2", "people")
    ]


@pytest.mark.parametrize(
    ("sentence", "emotions", "expected"),
    [
        ("She looks HAPPY.", {"happiness"}, True),  # alias
        ("Joy, pure joy!", {"happiness"}, True),  # the verifier's label of happiness
        ("Unhappy and joyless.", {"happiness"}, False),  # whole words only
        ("Her anger shows.", {"happiness"}, False),
        ("Her anger shows.", {"happiness", "anger"}, True),
        ("A look of disapproval.", {"contempt"}, True),
        ("She is happy.", set(), False),
    ],
)
def test_names_label(sentence: str, emotions: set[str], expected: bool) -> None:
    assert names_label(sentence, frozenset(emotions), MAFW_TAXONOMY) is expected


def test_label_named_counts_target_and_answer_over_all_sentences() -> None:
    first = rationale("a", "He is angry.", "He shouts.", target="anger", prediction="sadness")
    second = rationale("b", "A sad, sad face.", "Fear.", "No anger.", target="sadness", prediction="fear")
    no_name = rationale("c", "He is angry.")
    assert values(first, second, no_name)["label_named"] == pytest.approx(3 / 5)  # the third has nothing to name
    compound = rationale("d", "Anger.", "Disgust.", "Fear.", target="anger_disgust")
    assert values(compound, taxonomy=MAFW_TAXONOMY)["label_named"] == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [
        ([1, 2, 3, 4], [10, 20, 30, 1000], 1.0),
        ([1, 2, 3], [3, 2, 1], -1.0),
        ([1, 2, 3, 4, 5], [2, 1, 4, 3, 5], 0.8),  # 1 - 6·4 / (5·24)
        ([1, 1, 2], [1, 2, 3], 0.75**0.5),  # ranks 1.5 1.5 3: 1.5 / √(1.5·2)
        ([1, 1, 1], [1, 2, 3], None),
        ([1], [1], None),
        ([], [], None),
    ],
)
def test_spearman(x: list[float], y: list[float], expected: float | None) -> None:
    assert spearman(x, y) == (None if expected is None else pytest.approx(expected))


def test_spearman_wants_pairs() -> None:
    with pytest.raises(ValueError, match="2 and 1"):
        spearman([1, 2], [1])


def test_reward_and_length() -> None:
    rows = [("a", 0, 1), ("a", 1, 2), ("b", 2, 9), ("b", 3, 8), ("c", 1, 5), ("c", 1, 6)]
    found = values(*(rationale(clip, reward=reward, length=length) for clip, reward, length in rows))
    # Ranks of reward 1 3 5 6 3 3, of length 1 2 6 5 3 4: deviations' products 14.5, squares 15.5 and 17.5.
    assert found["reward_length"] == pytest.approx(14.5 / (15.5 * 17.5) ** 0.5)
    assert found["reward_length_within"] == pytest.approx((1 - 1) / 2)  # c has constant rewards and does not count
    constant = values(*(rationale("a", reward=1.0, length=length) for length in (1, 2, 3)))
    assert constant["reward_length"] is None and constant["reward_length_within"] is None


def test_lengths() -> None:
    found = values(
        rationale("a", "He sits still.", "He sighs."), rationale("b"), rationale("c", "One, two, three, four.")
    )
    assert found["sentences"] == pytest.approx(1.0)  # 2, 0, 1
    assert found["sentence_words"] == pytest.approx(3.0)  # 3, 2, 4


def test_distinct() -> None:
    looping = rationale("a", "He cries and cries.", "He cries.")  # he cries and cries he cries
    assert distinct(looping, 1) == pytest.approx(3 / 6)
    assert distinct(looping, 2) == pytest.approx(4 / 5)  # "he cries" twice
    assert distinct(rationale("b", "Tears!"), 2) is None
    found = values(looping, rationale("b", "Tears!"), rationale("c"))
    assert found["distinct_1"] == pytest.approx((0.5 + 1) / 2) and found["distinct_2"] == pytest.approx(0.8)


def test_repeated_sentences() -> None:
    found = values(rationale("a", "He cries.", "he cries!", "He cries.", "Why?"), rationale("b", "He cries."))
    assert found["repeated_sentences"] == pytest.approx(2 / 5)


def test_shared_sentences() -> None:
    template = "The person frowns."
    found = values(rationale("a", template, "A room."), rationale("b", template), rationale("c", "A garden."))
    assert found["shared_sentences"] == pytest.approx((0.5 + 0 + 0.5 + 0) / 4)
    # Completions of one clip may agree: they are compared with other clips only.
    group = values(rationale("a", "One."), rationale("a", "One."), rationale("b", "Two."))
    assert group["shared_sentences"] == 0.0
    assert values(rationale("a", "One."), rationale("a", "One."))["shared_sentences"] is None, "a single clip"
    same = [rationale(str(i), template) for i in range(7)]
    assert values(*same)["shared_sentences"] == 1.0


def test_neutral_sentences() -> None:
    found = values(read("a", None, ("neutral",), ("neutral", "joy")), read("b", None, ("joy",), ("neutral",)))
    assert found["neutral_sentences"] == pytest.approx(2 / 4)


def test_explanation_against_own_and_shuffled_targets() -> None:
    joyful = read("a", "happiness", ("joy",), ("joy", "surprise"), ("neutral",), ("anger",))
    empty = read("b", "anger")
    unlabelled = read("c", None, ("anger",))
    found = values(joyful, empty, unlabelled)
    assert found["explanation"] == pytest.approx(2 / 3), "only the first has sentences and a target"
    # sadness 0, neutral 1/4 of all sentences, anger 1/3, surprise 1/3, disgust 0, fear 0
    assert found["explanation_shuffled"] == pytest.approx((1 / 4 + 1 / 3 + 1 / 3) / 6)
    assert found["shuffled_ratio"] == pytest.approx((11 / 12 / 6) / (2 / 3))
    assert found["rival"] == pytest.approx(1 / 3)


def test_a_rationale_that_says_the_same_of_every_clip_earns_as_much_with_shuffled_targets() -> None:
    same = [read(target, target, ("joy", "anger"), ("joy", "anger")) for target in DFEW_TAXONOMY.classes]
    found = values(*same)
    assert found["explanation"] == pytest.approx(2 / 7) and found["shuffled_ratio"] == pytest.approx(1.0)
    assert found["rival"] == pytest.approx(2 / 6), "two of six emotional clips, and each pleases two targets in full"
    honest = [
        read(target, target, (label,))
        for target, label in zip(DFEW_TAXONOMY.classes, DFEW_TAXONOMY.verifier_labels, strict=True)
    ]
    assert values(*honest)["shuffled_ratio"] == 0.0 and values(*honest)["rival"] == 0.0


def test_a_reward_of_nothing_has_no_ratio() -> None:
    assert values(read("a", "fear", ("joy",)))["shuffled_ratio"] is None


def test_hedging() -> None:
    two = read("a", "anger", ("anger", "neutral"), ("fear", "anger"))
    three = read("b", "anger", ("anger", "joy"), ("neutral",), ("fear",))
    other_labels = read("c", "anger", ("love", "pride"), ("anger", "joy"))  # love and pride are no DFEW emotions
    assert values(two, three, other_labels)["hedging"] == pytest.approx(1 / 3)
    contempt = read("d", "contempt", ("disapproval",), ("grief",), ("nervousness",))
    assert values(contempt, taxonomy=MAFW_TAXONOMY)["hedging"] == 1.0 and values(contempt)["hedging"] == 0.0


def test_judge_gap() -> None:
    rows = [
        read("a", "anger", ("anger",), judged="fear"),  # +1
        read("b", "anger", ("anger",), judged="anger"),  # 0
        read("c", "anger", ("anger",), ("fear",), judged="anger"),  # a half implies nothing: -1
        read("d", "anger", ("anger",), ("anger",), ("fear",), judged="joy"),  # +1
        read("e", "anger", ("anger",), judged=None),  # an invalid reply says nothing
    ]
    assert values(*rows)["judge_gap"] == pytest.approx(1 / 4)


def test_verifier_gap() -> None:
    first = read("a", "anger", ("anger",), ("anger",), second=(("anger",), ("fear",)))
    second = read("b", "anger", ("fear",), second=(("neutral",),))
    found = values(first, second, read("c", "anger", ("anger",)))
    assert found["verifier_gap"] == pytest.approx((0.5 + 0) / 2)
    assert found["explanation_second"] == pytest.approx(0.25) and found["explanation"] == pytest.approx(2 / 3)


def test_nothing_has_no_value() -> None:
    assert set(values().values()) == {None}


def test_without_readings_what_needs_none_is_measured() -> None:
    found = values(rationale("a", "He frowns.", target="anger", reward=1.0, length=2))
    needed = ["neutral_sentences", "explanation", "shuffled_ratio", "rival", "hedging", "judge_gap", "verifier_gap"]
    assert {name: found[name] for name in needed} == dict.fromkeys(needed)
    assert found["sentences"] == 1.0 and found["label_named"] == 0.0


def test_tallies_of_parts_add_up_to_that_of_all() -> None:
    rows = [
        read(str(i), target, ("joy",), *[("anger", "fear")] * i, second=(("joy",),) * (i + 1), judged="anger")
        for i, target in enumerate(DFEW_TAXONOMY.classes)
    ]
    whole = rationale_statistics(rows, DFEW_TAXONOMY)
    first, rest = rationale_statistics(rows[:3], DFEW_TAXONOMY), rationale_statistics(rows[3:], DFEW_TAXONOMY)
    for name in set(whole) - {"shared_sentences", "reward_length"}:  # these compare clips with each other
        added = first[name] + rest[name]
        assert (added.total, added.count) == pytest.approx((whole[name].total, whole[name].count)), name
    assert Ratio(3.0, 4.0).value == 0.75 and Ratio().value is None
