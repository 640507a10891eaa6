"""The truth of a generated corpus, read back: what annotators say of it is true of what they describe."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from datamodules.rationale import split_sentences
from datamodules.synthetic.cues import ANNOTATOR_CUES
from datamodules.synthetic.grammar import sentence_claims
from datamodules.synthetic.truth import TRUTH_FILE, read_truth
from lightning_modules.metrics.claims import batch_counts, grounding_figures

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("layout", ["dfew", "emer"])
def test_what_annotators_see_and_hear_is_true(make_corpus: Callable[[str], Path], layout: str) -> None:
    file = make_corpus(layout) / TRUTH_FILE
    truth = read_truth(file)
    views = dict.fromkeys(("face", "voice", "mixed"), 0)
    for clip in json.loads(file.read_text())["clips"]:
        claims = [claim for own in split_sentences(clip["rationale"]) for claim in sentence_claims(own)]
        supports = [truth.of(f"/moved/{clip['media']}").supports(claim) for claim in claims]
        views[clip["view"]] += 1
        assert [channel for channel, _ in claims if channel != "body"] == {
            "face": ["face", "face"],
            "voice": ["voice", "voice"],
            "mixed": ["face", "voice"],
        }[clip["view"]]
        assert supports == [None if channel == "body" else True for channel, _ in claims]
    assert all(views.values()) and sum(views.values()) == len(truth.clips)


def test_figures_of_annotators_and_of_a_policy_that_sees_the_label_in_the_face(
    make_corpus: Callable[[str], Path],
) -> None:
    file = make_corpus("dfew") / TRUTH_FILE
    clips, truth = json.loads(file.read_text())["clips"], read_truth(file)
    truths = [truth.of(clip["media"]) for clip in clips]
    labels = [clip["label"] for clip in clips]

    def figures(rationales: list[str]) -> dict[str, Any]:
        counts = batch_counts(list(map(split_sentences, rationales)), truths, labels, labels)
        return grounding_figures(counts.sum(axis=0))

    honest = figures([clip["rationale"] for clip in clips])
    assert honest["grounded"] == {"value": 1.0, "numerator": 2 * len(clips), "denominator": 2 * len(clips)}
    assert honest["grounded_face_contradicting"]["value"] == 1.0
    assert honest["label_face_contradicting"]["numerator"] == 0 < honest["unsupported"]["numerator"]
    pleasing = figures([f"He {ANNOTATOR_CUES[label]['face'][0]}." for label in labels])
    contradicting = sum(clip["face_emotion"] != clip["label"] for clip in clips)
    agreeing = len(clips) - contradicting
    assert pleasing["grounded"] == pleasing["grounded_fcr"] and pleasing["grounded"]["numerator"] == agreeing
    assert pleasing["grounded"]["denominator"] == len(clips)
    assert pleasing["grounded_face_contradicting"] == {"value": 0.0, "numerator": 0, "denominator": contradicting}
    assert pleasing["label_face_contradicting"]["numerator"] == contradicting > 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", r"Expected a JSON object"),
        ('{"clips": []}', r"clips is \[\]. Expected the synthetic.json that `synthesize` writes"),
        ('{"seconds": 3}', r"clips is null"),
        (
            '{"clips": [{"media": "a.mp4", "label": "fear"}]}',
            r"clip 0 is .* Expected media, label, face_emotion, voice_",
        ),
        ("{", "not valid JSON"),
    ],
)
def test_what_is_no_truth(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "file.json"
    file.write_text(content)
    with pytest.raises(ValueError, match=message):
        read_truth(file)


def test_a_truth_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="No such file"):
        read_truth(tmp_path / TRUTH_FILE)
