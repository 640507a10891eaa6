"""The truth of a generated corpus, read back: what annotators say of it is true of what they describe."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from datamodules.rationale import split_sentences
from datamodules.synthetic.grammar import sentence_claims
from datamodules.synthetic.truth import TRUTH_FILE, read_truth

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
