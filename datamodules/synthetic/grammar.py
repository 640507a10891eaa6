"""The grammar of the generated corpus: rationales, stage 2's sentences, and the oracle that reads rationales back.

A cue sentence is `subject [adverb] phrase.`; its phrase (see `cues.py`) decides its emotion. Scene sentences
carry none.
"""

import re
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from datamodules.emotions import MAFW_TAXONOMY, Taxonomy
from datamodules.labelled_sentences import LabelledSentence
from datamodules.synthetic.cues import (
    ANNOTATOR_CUES,
    ANNOTATOR_SCENES,
    SECOND_LABELS,
    VERIFIER_CUES,
    VERIFIER_SCENES,
    Channel,
)

View = Literal["face", "voice", "mixed"]
"""What an annotator describes: the face alone, the voice alone, or both."""
Claim = tuple[Channel, str]
"""What a cue says: the channel that it describes, and the emotion that it sees or hears there."""
Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")

ANNOTATOR_SUBJECTS: dict[str, tuple[str, str]] = {"man": ("The man", "He"), "woman": ("The woman", "She")}
"""Person → (first mention, later mentions)."""
ANNOTATOR_ADVERBS: tuple[str, ...] = ("clearly", "slightly", "visibly")
VERIFIER_SUBJECTS: tuple[str, ...] = ("The man", "The woman", "He", "She", "The person", "The speaker")
VERIFIER_ADVERBS: tuple[str, ...] = ("clearly", "often", "now", "still")

_ADVERB_RATE = 0.25
"""Share of cue sentences with an adverb."""
_BODY_RATE = 0.5
"""Share of one-modality rationales that also describe the body."""
_SENTENCE_GAP = re.compile(r"(?<=\.)\s+")
_NOT_LETTERS = re.compile(r"[^a-z]+")


def _normalise(text: str) -> str:
    """Lower-case words between single spaces, without adverbs, padded so that a phrase matches whole words only."""
    words = _NOT_LETTERS.sub(" ", text.lower()).split()
    return f" {' '.join(word for word in words if word not in ANNOTATOR_ADVERBS)} "


_PHRASES: tuple[tuple[str, Claim], ...] = tuple(
    (_normalise(phrase), (channel, emotion))
    for emotion, channels in ANNOTATOR_CUES.items()
    for channel, phrases in channels.items()
    for phrase in phrases
)
_SCENES: tuple[str, ...] = tuple(_normalise(scene) for scene in ANNOTATOR_SCENES)


def sentence_claims(sentence: str) -> tuple[Claim, ...]:
    """What a sentence says of which channel, by the annotator-set cue phrases in it, whatever its subject and adverb.

    A cue sentence makes one claim, one that joins the phrases of several cues several; any other, such as a scene
    sentence, none.
    """
    text = _normalise(sentence)
    return tuple(dict.fromkeys(claim for phrase, claim in _PHRASES if phrase in text))


def sentence_emotion(sentence: str) -> str | None:
    """Emotion that a sentence's claims share; None when it makes none, or claims different ones (contradictory)."""
    emotions = {emotion for _, emotion in sentence_claims(sentence)}
    return emotions.pop() if len(emotions) == 1 else None


def is_scene(sentence: str) -> bool:
    """Whether the sentence is a scene sentence of the annotator set."""
    return _normalise(sentence) in _SCENES


def rationale_emotion(rationale: str) -> str | None:
    """Emotion that a rationale speaks of, by majority over its sentences.

    Each cue sentence has one vote, for its own emotion (cue sentences of the class `neutral` vote for `neutral`). Ties
    go to the emotion that is mentioned first. Scene sentences do not vote; a rationale of scene sentences and no cue
    sentence is `neutral`. Sentences that are neither are ignored; a rationale of nothing else has no emotion (None).
    """
    sentences = _SENTENCE_GAP.split(rationale.strip())
    votes = Counter(emotion for sentence in sentences if (emotion := sentence_emotion(sentence)) is not None)
    if votes:
        # `most_common` keeps the order of first mention among equal counts.
        return votes.most_common(1)[0][0]
    return "neutral" if any(is_scene(sentence) for sentence in sentences) else None


class OracleJudge:
    """The demo's judge: reads a rationale by the grammar that annotators write in; no learned part, no verifier.

    See `rationale_emotion` for the majority and its tie rule. An emotion outside the taxonomy is an invalid verdict.
    """

    name = "oracle-grammar"

    def judge(self, rationales: Sequence[str], taxonomy: Taxonomy) -> list[str | None]:
        """One emotion of `taxonomy` per rationale, or None (invalid)."""
        verdicts = (rationale_emotion(rationale) for rationale in rationales)
        return [verdict if verdict in taxonomy.classes else None for verdict in verdicts]


def _pick(rng: np.random.Generator, options: Sequence[str]) -> str:
    return options[int(rng.integers(len(options)))]


def _sentence(rng: np.random.Generator, subject: str, phrase: str, adverbs: Sequence[str]) -> str:
    adverb = f" {_pick(rng, adverbs)}" if rng.random() < _ADVERB_RATE else ""
    return f"{subject}{adverb} {phrase}."


def _evidence(rng: np.random.Generator, view: View, label: str, face: str, voice: str) -> list[str]:
    """Cue phrases of a rationale, in the order in which they are written."""

    def phrases(channel: Channel, emotion: str, count: int = 1) -> list[str]:
        options = ANNOTATOR_CUES[emotion][channel]
        return [options[i] for i in rng.permutation(len(options))[:count]]

    if view == "mixed":
        return [*phrases("face", face), *phrases("voice", voice), *phrases("body", label)]
    emotion = face if view == "face" else voice
    body = phrases("body", emotion) if rng.random() < _BODY_RATE else []
    return [*phrases(view, emotion, 2), *body]


def write_rationale(
    rng: np.random.Generator,
    view: View,
    label: str,
    face: str,
    voice: str,
    person: Literal["man", "woman"],
    scene_rate: float = 0.25,
) -> str:
    """An annotator's rationale of two to four sentences.

    An annotator who describes one modality writes two of its cues and sometimes the body, all of that modality's
    emotion: the rationale then contradicts the label whenever that modality does. One who describes both writes one cue
    of each and a body cue of the label.

    Args:
        rng: source of the choices.
        view: the modalities that the annotator describes.
        label: the clip's emotion.
        face: emotion that the face shows.
        voice: emotion that the voice carries.
        person: who is seen.
        scene_rate: share of rationales that open with a scene sentence.
    """
    first, later = ANNOTATOR_SUBJECTS[person]
    sentences = [_pick(rng, ANNOTATOR_SCENES)] if rng.random() < scene_rate else []
    for position, phrase in enumerate(_evidence(rng, view, label, face, voice)):
        sentences.append(_sentence(rng, later if position else first, phrase, ANNOTATOR_ADVERBS))
    return " ".join(sentences)


def annotator_sentences(emotion: str) -> Iterator[str]:
    """Every cue sentence of an emotion that an annotator can write."""
    for subjects in ANNOTATOR_SUBJECTS.values():
        for subject in subjects:
            for adverb in ("", *(f" {adverb}" for adverb in ANNOTATOR_ADVERBS)):
                for phrases in ANNOTATOR_CUES[emotion].values():
                    yield from (f"{subject}{adverb} {phrase}." for phrase in phrases)


def _phrases_of(split: Split, openings: Sequence[str], endings: Sequence[str]) -> list[tuple[str, str]]:
    """The (opening, ending) pairs that a split has: about one in nine each for `val` and `test`, chosen by the text."""
    pairs = sorted(
        {(opening, ending) for opening in openings for ending in endings},
        key=lambda pair: zlib.crc32(" ".join(pair).encode()),
    )
    held_out = {0: "val", 1: "test"}
    return [pair for i, pair in enumerate(pairs) if held_out.get(i % 9, "train") == split]


def verifier_sentences(
    rng: np.random.Generator, split: Split, count: int, taxonomy: Taxonomy
) -> list[LabelledSentence]:
    """Sentences of the verifier set, balanced over the taxonomy's emotions and scene sentences, shuffled.

    Args:
        rng: source of the choices.
        split: the splits share no combination of opening and ending, hence no sentence.
        count: number of sentences; repeats occur.
        taxonomy: the emotions.
    """
    sentences = []
    for index in range(count):
        # One source more than there are classes: the scene sentences, which read as neutral.
        source = index % (len(taxonomy) + 1)
        emotion = taxonomy.classes[source] if source < len(taxonomy) else None
        if emotion is None:
            openings, endings = VERIFIER_SCENES
        else:
            # Halves of different channels mix: what they share is the emotion, so each half must be read for itself.
            channels = VERIFIER_CUES[emotion].values()
            openings, endings = ([half for channel in channels for half in channel[k]] for k in (0, 1))
        pairs = _phrases_of(split, openings, endings)
        opening, ending = pairs[int(rng.integers(len(pairs)))]
        phrase = f"{opening} {ending}"
        if emotion is None:
            sentences.append(LabelledSentence(phrase, ("neutral",)))
            continue
        labels = [MAFW_TAXONOMY.labels[emotion], *([SECOND_LABELS[opening]] if opening in SECOND_LABELS else [])]
        text = _sentence(rng, _pick(rng, VERIFIER_SUBJECTS), phrase, VERIFIER_ADVERBS)
        sentences.append(LabelledSentence(text, tuple(labels)))
    return [sentences[i] for i in rng.permutation(count)]


def with_wrong_labels(
    rng: np.random.Generator, sentences: Sequence[LabelledSentence], share: float, taxonomy: Taxonomy
) -> list[LabelledSentence]:
    """The sentences, a share of them with the label of a class that they do not speak of instead of their own labels.

    Args:
        rng: source of the choices.
        sentences: with the right labels.
        share: of the sentences, rounded to whole ones.
        taxonomy: the emotions.
    """
    labels = [MAFW_TAXONOMY.labels[emotion] for emotion in taxonomy.classes]
    wrong = set(rng.permutation(len(sentences))[: round(share * len(sentences))].tolist())
    return [
        replace(own, emotions=(_pick(rng, [label for label in labels if label not in own.emotions]),))
        if i in wrong
        else own
        for i, own in enumerate(sentences)
    ]
