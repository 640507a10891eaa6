"""The grammar: paraphrase sets, recognition of sentences, the oracle's majority and tie rule, rationales."""

from itertools import combinations

import numpy as np
import pytest

from datamodules.emotions import DFEW_TAXONOMY, GO_EMOTIONS, MAFW_TAXONOMY
from datamodules.synthetic.cues import ANNOTATOR_CUES, ANNOTATOR_SCENES, SECOND_LABELS, VERIFIER_CUES, VERIFIER_SCENES
from datamodules.synthetic.grammar import (
    SPLITS,
    OracleJudge,
    annotator_sentences,
    is_scene,
    rationale_emotion,
    sentence_claims,
    sentence_emotion,
    verifier_sentences,
    write_rationale,
)

pytestmark = pytest.mark.unit

ANNOTATOR_PHRASES = [
    (phrase, emotion)
    for emotion, channels in ANNOTATOR_CUES.items()
    for phrases in channels.values()
    for phrase in phrases
]
VERIFIER_PHRASES = [
    f"{opening} {ending}"
    for channels in VERIFIER_CUES.values()
    for openings, endings in channels.values()
    for opening in openings
    for ending in endings
]


def _words(texts: list[str]) -> set[str]:
    return {word for text in texts for word in text.lower().replace(".", "").replace(",", "").split()}


def test_every_emotion_has_enough_paraphrases():
    assert set(ANNOTATOR_CUES) == set(VERIFIER_CUES) == set(MAFW_TAXONOMY.classes)
    for emotion in MAFW_TAXONOMY.classes:
        counts = {channel: len(phrases) for channel, phrases in ANNOTATOR_CUES[emotion].items()}
        assert counts["face"] >= 3 and counts["voice"] >= 3 and counts["body"] >= 2, emotion
        for openings, endings in VERIFIER_CUES[emotion].values():
            assert len(openings) * len(endings) >= 6, emotion


def test_no_phrase_stands_twice():
    phrases = [phrase for phrase, _ in ANNOTATOR_PHRASES]
    assert len(phrases) == len(set(phrases))
    assert len(VERIFIER_PHRASES) == len(set(VERIFIER_PHRASES))


def test_paraphrase_sets_are_disjoint_and_share_vocabulary():
    assert not {phrase for phrase, _ in ANNOTATOR_PHRASES} & set(VERIFIER_PHRASES)
    # The oracle, which knows the annotator set, recognises nothing that the verifier learns from.
    assert [phrase for phrase in VERIFIER_PHRASES if sentence_emotion(f"The man {phrase}.")] == []
    scenes = {f"{opening} {ending}" for opening in VERIFIER_SCENES[0] for ending in VERIFIER_SCENES[1]}
    assert not scenes & set(ANNOTATOR_SCENES)
    annotator, verifier = _words([phrase for phrase, _ in ANNOTATOR_PHRASES]), _words(VERIFIER_PHRASES)
    assert 0.5 < len(annotator & verifier) / len(annotator) < 1.0
    assert len(annotator | verifier) <= 400


def test_annotator_set_names_no_emotion_class():
    names = set(MAFW_TAXONOMY.classes) | set(MAFW_TAXONOMY.aliases)
    assert not _words([phrase for phrase, _ in ANNOTATOR_PHRASES]) & names
    assert not _words(list(ANNOTATOR_SCENES)) & names


def test_sentences_are_short_plain_text():
    written = [sentence for emotion in MAFW_TAXONOMY.classes for sentence in annotator_sentences(emotion)]
    for sentence in [*written, *ANNOTATOR_SCENES, *(f"The man {phrase}." for phrase in VERIFIER_PHRASES)]:
        assert sentence.endswith(".") and sentence.count(".") == 1
        assert '"' not in sentence and "\n" not in sentence and "  " not in sentence
        assert 4 <= len(sentence.split()) <= 14, sentence


@pytest.mark.parametrize("emotion", MAFW_TAXONOMY.classes)
def test_every_annotator_sentence_is_recognised(emotion: str):
    sentences = list(annotator_sentences(emotion))
    assert len(sentences) >= 8 * 16
    assert {sentence_emotion(sentence) for sentence in sentences} == {emotion}


def test_a_cue_claims_its_emotion_of_its_channel_alone():
    for emotion, channels in ANNOTATOR_CUES.items():
        for channel, phrases in channels.items():
            assert {sentence_claims(f"The man {phrase}.") for phrase in phrases} == {((channel, emotion),)}
    joined = "He smiles with raised cheeks, hangs the head and slumps, and shouts in a loud harsh voice."
    assert set(sentence_claims(joined)) == {("face", "happiness"), ("body", "sadness"), ("voice", "anger")}
    assert sentence_claims("He sings.") == sentence_claims(ANNOTATOR_SCENES[0]) == ()


def test_scenes_are_scenes_and_no_cues():
    for scene in ANNOTATOR_SCENES:
        assert is_scene(scene)
        assert sentence_emotion(scene) is None
    assert not is_scene("The man frowns hard with lowered brows.")


@pytest.mark.parametrize(
    ("sentence", "emotion"),
    [
        ("the old woman with the hat visibly GLARES with narrowed eyes", "anger"),
        ("At first, she smiles, clearly, with raised cheeks.", "happiness"),
        ("He rolls the eyes.", "contempt"),
        ("He rolls the eyesight.", None),  # whole words only
        ("He smiles with raised cheeks and curls the upper lip.", None),  # contradictory
        ("He smiles with raised cheeks and dances with open arms.", "happiness"),  # two cues of one emotion
        ("He smiles.", None),
        ("", None),
    ],
)
def test_sentence_emotion_of_unusual_sentences(sentence: str, emotion: str | None):
    assert sentence_emotion(sentence) == emotion


ANGER, ANGER_2 = "The man glares with narrowed eyes.", "He shouts in a loud harsh voice."
SADNESS, SADNESS_2 = "He hangs the head and slumps.", "He sobs between long pauses."
NEUTRAL, SCENE = "He keeps a level flat tone.", "A plain wall fills the background."


@pytest.mark.parametrize(
    ("sentences", "emotion"),
    [
        ([ANGER], "anger"),
        ([SADNESS, ANGER, ANGER_2], "anger"),  # majority
        ([ANGER, SADNESS], "anger"),  # tie: mentioned first
        ([SADNESS, ANGER], "sadness"),
        ([SADNESS, ANGER, ANGER_2, SADNESS_2], "sadness"),
        ([SCENE, SCENE, ANGER], "anger"),  # scenes do not vote
        ([SCENE], "neutral"),
        (["Nobody knows.", SCENE], "neutral"),
        ([NEUTRAL, NEUTRAL, ANGER], "neutral"),  # cues of the class neutral vote
        ([NEUTRAL, ANGER], "neutral"),
        ([NEUTRAL], "neutral"),
        (["Nobody knows.", ANGER], "anger"),  # unrecognisable sentences are ignored
        (["Nobody knows."], None),
        ([], None),
    ],
)
def test_rationale_emotion(sentences: list[str], emotion: str | None):
    assert rationale_emotion(" ".join(sentences)) == emotion
    assert rationale_emotion("\n".join(sentences)) == emotion


def test_oracle_judge_is_invalid_outside_the_taxonomy():
    judge = OracleJudge()
    contempt = "She rolls the eyes."
    assert judge.name == "oracle-grammar"
    assert judge.judge([contempt, ANGER, ""], MAFW_TAXONOMY) == ["contempt", "anger", None]
    assert judge.judge([contempt, ANGER, ""], DFEW_TAXONOMY) == [None, "anger", None]
    assert judge.judge([], DFEW_TAXONOMY) == []


@pytest.mark.parametrize("view", ["face", "voice", "mixed"])
def test_rationale_speaks_of_what_its_annotator_saw(view: str):
    rng = np.random.default_rng(0)
    expected = {"face": "fear", "voice": "anger", "mixed": "anger"}[view]
    for _ in range(100):
        rationale = write_rationale(rng, view, label="anger", face="fear", voice="anger", person="woman")
        sentences = [piece for piece in rationale.split(".") if piece]
        assert rationale_emotion(rationale) == expected
        assert 2 <= len(sentences) <= 4
        assert "man" not in rationale.split() and len(sentences) == len(set(sentences))


def test_scene_rate_is_respected():
    rng = np.random.default_rng(0)
    texts = [write_rationale(rng, "face", "fear", "fear", "fear", "man", scene_rate=0.25) for _ in range(1000)]
    assert sum(is_scene(text.split(". ")[0]) for text in texts) / 1000 == pytest.approx(0.25, abs=0.05)


@pytest.mark.parametrize("taxonomy", [DFEW_TAXONOMY, MAFW_TAXONOMY], ids=lambda taxonomy: taxonomy.name)
def test_verifier_splits_share_no_sentence_and_all_words(taxonomy):
    texts = {
        split: [item.text for item in verifier_sentences(np.random.default_rng(0), split, 4000, taxonomy)]
        for split in SPLITS
    }
    for one, other in combinations(SPLITS, 2):
        assert not set(texts[one]) & set(texts[other])
    assert _words(texts["test"]) <= _words(texts["train"])


def test_verifier_labels_are_balanced_go_emotions():
    items = verifier_sentences(np.random.default_rng(0), "train", 800, DFEW_TAXONOMY)
    firsts = [item.emotions[0] for item in items]
    for emotion in DFEW_TAXONOMY.classes:
        # Scene sentences read as neutral, so neutral has twice its share.
        assert firsts.count(MAFW_TAXONOMY.labels[emotion]) == (200 if emotion == "neutral" else 100)
    assert {label for item in items for label in item.emotions} <= set(GO_EMOTIONS)
    assert any(len(item.emotions) == 2 for item in items)
    openings = {opening for channels in VERIFIER_CUES.values() for pair in channels.values() for opening in pair[0]}
    assert set(SECOND_LABELS) <= openings
    # A second label is never a class of a taxonomy: it would reward sentences about another emotion.
    assert not set(SECOND_LABELS.values()) & set(MAFW_TAXONOMY.verifier_labels)
