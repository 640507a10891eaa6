"""The grounding reward: the estimate and the exact version, by hand."""

import json
import math
from pathlib import Path

import pytest

from callbacks.rewards import GroundingReward
from callbacks.rewards.base import RewardInput
from datamodules.emotions import DFEW_TAXONOMY
from datamodules.rationale import read_response
from lightning_modules.metrics.reliance import Reliance

pytestmark = pytest.mark.unit

FACE_ANGER, FACE_FEAR = "He frowns hard with lowered brows.", "He looks pale with frozen eyes."
VOICE_ANGER, BODY, SCENE = "He shouts in a loud harsh voice.", "He points with a stiff finger.", "A wall."


def given(*rationales: str, reliances: list[list[Reliance]] | None = None, media: str = "clip/1.mp4") -> RewardInput:
    responses = [read_response(f"<think>{text}</think><answer>angry</answer>", DFEW_TAXONOMY) for text in rationales]
    count = len(responses)
    return RewardInput(
        responses,
        ["anger"] * count,
        reliances=reliances,
        taxonomy=DFEW_TAXONOMY,
        ids=["1"] * count,
        media=[media] * count,
    )


@pytest.fixture
def truth(tmp_path: Path) -> str:
    """Of one clip, whose face shows fear and whose voice carries the label."""
    clip = {"media": "clip/1.mp4", "label": "anger", "face_emotion": "fear", "voice_emotion": "anger"}
    path = tmp_path / "synthetic.json"
    path.write_text(json.dumps({"clips": [clip]}))
    return str(path)


def test_the_exact_version_is_the_share_of_true_sentences(truth: str) -> None:
    reward = GroundingReward(oracle=truth)
    assert reward.num_others == 0, "nothing has to be measured"
    said = {
        f"{FACE_FEAR} {VOICE_ANGER}": 1.0,
        f"{FACE_ANGER} {VOICE_ANGER}": 0.5,
        f"{VOICE_ANGER} {BODY}": 0.5,  # what nothing supports is not true
        f"{VOICE_ANGER} {SCENE} {FACE_FEAR}": 1.0,  # a scene claims nothing
        f"{VOICE_ANGER} {SCENE}": 0.5,  # one claim where two are expected
        f"{VOICE_ANGER} {VOICE_ANGER}": 0.5,  # said twice, and earned once
        f"{VOICE_ANGER} {VOICE_ANGER[:-1]}!": 0.5,  # in other marks
        f"{VOICE_ANGER} {VOICE_ANGER.replace('shouts', chr(0x200B) + 'shouts')}": 0.5,  # or with what nobody sees
        f"{FACE_FEAR[:-1]} and {FACE_ANGER} {VOICE_ANGER}": 0.5,  # one sentence, a true claim and an untrue one
        FACE_ANGER: 0.0,
        SCENE: 0.0,  # silence is no way out
        "": 0.0,
    }
    assert reward(given(*said)).tolist() == list(said.values())


def test_the_exact_version_refuses_clips_without_truth(truth: str) -> None:
    with pytest.raises(ValueError, match=r"The grounding reward: 1 of 1 clips have no truth in .*'1' \(clip/9.mp4\)"):
        GroundingReward(oracle=truth)(given(SCENE, media="clip/9.mp4"))


def test_the_estimate_is_the_mean_belief_over_sentences() -> None:
    rests, suits_all, is_contradicted = Reliance(0.0, math.log(7)), Reliance(0.0, 0.0), Reliance(-40.0, -40.0)
    reliances = [[rests], [rests, suits_all], [is_contradicted, rests], [], [rests, rests, suits_all]]
    said = given("A.", "A. B.", "A. B.", "", "A. A. B.", reliances=reliances)
    assert GroundingReward()(said).tolist() == pytest.approx([0.5, (1 + 1 / 7) / 2, 0.5, 0.0, (1 + 1 / 7) / 3])
    alone = GroundingReward(min_sentences=1)(said)
    assert alone.tolist() == pytest.approx([1.0, (1 + 1 / 7) / 2, 0.5, 0.0, (1 + 1 / 7) / 3])


def test_of_a_clip_that_is_alone_there_is_no_estimate() -> None:
    rewards = GroundingReward()(given("A. B.", "", reliances=[[Reliance(), Reliance()], []]))
    assert GroundingReward.may_abstain and rewards[0].isnan() and rewards[1] == 0.0, "silence is none either way"


def test_clear_errors() -> None:
    with pytest.raises(ValueError, match="needs num_others and min_sentences of 1 or more; got 0 and 2"):
        GroundingReward(num_others=0)
    with pytest.raises(ValueError, match="needs what sentences rest on; got none"):
        GroundingReward()(given(SCENE))
