"""What is taken from a rollout and from an evaluation."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from callbacks.inspection.panel import choose_groups, clip_panels, group_panel
from datamodules.batch import Clip, ClipBatch, collate
from datamodules.emotions import DFEW_TAXONOMY
from datamodules.rationale import read_response
from lightning_modules.emotion_verifier import SentenceReading
from lightning_modules.evaluation import Evaluation
from lightning_modules.rl.experience import Experience, Rollout

pytestmark = pytest.mark.unit


def said(i: int) -> str:
    return f"<think>Sentence {i}.</think><answer>{'angry' if i % 2 else 'happy'}</answer>"


def reading(i: int) -> list[SentenceReading]:
    return [SentenceReading(f"Sentence {i}.", torch.zeros(28), ("anger",))]


@pytest.fixture
def experience(batch: ClipBatch) -> Experience:
    """Three clips, two completions each."""
    responses = [read_response(said(i), DFEW_TAXONOMY) for i in range(6)]
    targets = ["anger", "anger", "anger", "anger", "happiness", "happiness"]
    completions: Any = [None] * 6
    rollout = Rollout(batch, percept=SimpleNamespace(), completions=completions, responses=responses, targets=targets)
    total = torch.tensor([2.0, 2.0, 0.0, 3.0, 0.5, 1.0])
    rewards = {"format": torch.arange(6.0)}
    readings = [reading(i) for i in range(6)]
    return Experience(rollout, rewards, total, -torch.arange(6.0), torch.ones(3, dtype=torch.bool), readings)


def test_groups_are_chosen_by_their_mean_and_their_spread(experience: Experience) -> None:
    assert choose_groups(experience.total, 2) == {"best": 0, "worst": 2, "most_divided": 1}


def test_a_single_group_is_shown_once() -> None:
    assert choose_groups(torch.tensor([1.0, 0.0, 3.0]), 3) == {"most_divided": 0}


def test_a_group_has_its_own_clip_and_the_best_completion_first(experience: Experience) -> None:
    panel = group_panel(experience, 1, DFEW_TAXONOMY)
    batch = experience.rollout.batch
    assert panel.id == batch.ids[1] and panel.target == "anger" and torch.equal(panel.frames, batch.frames[1])
    assert panel.waveform.tolist() == batch.waveform[1, : batch.waveform_lengths[1]].tolist()
    assert [c.response.completion for c in panel.completions] == [said(3), said(2)]
    assert [c.rewards for c in panel.completions] == [{"format": 3.0}, {"format": 2.0}]
    assert [c.advantage for c in panel.completions] == [-3.0, -2.0]
    assert [c.correct for c in panel.completions] == [True, False]
    assert panel.completions[0].sentences[0].relation == "matching" and not panel.is_unread
    assert group_panel(experience, 2, DFEW_TAXONOMY).completions[0].sentences[0].relation == "contradicting", (
        "target happiness"
    )


def test_sentences_without_a_verifier_are_bare(experience: Experience) -> None:
    experience.readings = None
    panel = group_panel(experience, 0, DFEW_TAXONOMY)
    assert panel.completions[0].sentences[0].text == "Sentence 0." and panel.is_unread


def test_the_first_clips_of_an_evaluation(make_clip: Callable[..., Clip]) -> None:
    clips = [
        make_clip(0),
        make_clip(1, target=None, has_audio=False, has_video=False),
        make_clip(2, target="anger_fear", failure="broken", waveform=torch.zeros(0)),
    ]
    responses = [read_response(said(i), DFEW_TAXONOMY) for i in (1, 1, 1)]
    evaluation = Evaluation(collate(clips), responses, [reading(1)] * 3, ["fear", "fear", None])
    first, second, third = clip_panels(evaluation, DFEW_TAXONOMY, "someone", 5)
    assert len(list(clip_panels(evaluation, DFEW_TAXONOMY, "someone", 2))) == 2
    assert first.waveform.tolist() == clips[0].waveform.tolist(), "without the batch's padding"
    assert second.waveform.numel() == 0, "there is no audio track"
    assert [panel.has_video for panel in (first, second)] == [True, False]
    assert third.failure == "broken"
    assert [panel.completions[0].correct for panel in (first, second, third)] == [True, None, True]
    assert [panel.completions[0].verdict for panel in (first, second, third)] == ["fear", "fear", None]
    assert {panel.judge for panel in (first, second, third)} == {"someone"}
