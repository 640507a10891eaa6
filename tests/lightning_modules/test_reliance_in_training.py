"""What sentences rest on, in stage 3 and in `test`, through a real Trainer on tiny weights."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lightning import Trainer

from callbacks.prediction_writer import PredictionWriter
from callbacks.rewards import GroundingReward
from callbacks.rl import RLCallback
from datamodules.batch import BadClip, Clip, ClipBatch, collate
from datamodules.rationale import Response
from lightning_modules.backbones.composed import ComposedBackbone
from lightning_modules.grpo import GRPOModule
from lightning_modules.metrics.reliance import Reliance
from lightning_modules.policy import PolicyModule
from lightning_modules.reliance import other_clips, sentence_reliance

from .conftest import SHORT, Batches, LengthReward

pytestmark = pytest.mark.e2e

Make = Callable[..., GRPOModule]
Fit = Callable[..., Trainer]


@pytest.fixture
def talkative(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random weights never write a rationale: every completion is taken for one of two sentences, some for none."""

    def read(self: PolicyModule, texts: list[str], strict: bool = False) -> list[Response]:
        said = [("He smiles.", f"She says {text[:3]}.") if len(text) % 3 else () for text in texts]
        return [Response(f"<think>{' '.join(own)}</think>", " ".join(own), "happy", "happiness", own) for own in said]

    monkeypatch.setattr(PolicyModule, "read", read)


def four(make_clip: Callable[..., Clip]) -> ClipBatch:
    return collate([make_clip(i) for i in range(4)])


@pytest.mark.parametrize("beta", [0.0, 0.04])
def test_the_reference_says_what_sentences_rest_on(
    make_grpo: Make, make_clip: Callable[..., Clip], fit: Fit, talkative: None, beta: float
) -> None:
    batch = four(make_clip)
    module = make_grpo(beta=beta, micro_batch_size=3)
    fit(module, [batch, batch], RLCallback([GroundingReward(num_others=2), LengthReward()]))
    experience = module.experience
    rollout, reliances = experience.rollout, experience.reliances
    assert len(rollout.others) == 2 and reliances is not None
    assert any(reliances) and not all(reliances)
    # The weights that the run began with, of which a step has already moved the policy's.
    said = [response.sentences for response in rollout.responses]
    arguments = (rollout.batch, rollout.percept, rollout.others, said)
    for backbone, agrees in ((module.reference, True), (module.backbone, False)):
        again = sentence_reliance(backbone, *arguments)
        pairs = [
            (a.pictures, b.pictures) for x, y in zip(reliances, again, strict=True) for a, b in zip(x, y, strict=True)
        ]
        differences = [abs(a - b) for a, b in pairs]
        assert (max(differences) < 1e-4) == agrees
    beliefs = [[own.belief(7) for own in row] for row in reliances]
    expected = [sum(row) / 2 for row in beliefs]
    torch.testing.assert_close(experience.rewards["grounding"].cpu(), torch.tensor(expected))


def test_groups_that_are_sampled_again_keep_their_other_clips(
    make_grpo: Make, make_clip: Callable[..., Clip], fit: Fit, talkative: None
) -> None:
    # One group without spread is sampled again alone: without the batch there would be nothing to compare with.
    class OneUniform(LengthReward):
        def __call__(self, given):
            return torch.tensor([float(i) * (given.ids[i] != "clip0") for i in range(len(given))])

    module = make_grpo(uniform_groups="resample", max_resamples=2)
    fit(module, [four(make_clip)], RLCallback([GroundingReward(num_others=3, weight=0.0), OneUniform()]))
    experience = module.experience
    assert experience.reliances is not None and len(experience.reliances) == 4 * module.group_size
    said = [len(response.sentences) for response in experience.rollout.responses]
    assert [len(own) for own in experience.reliances] == said, "those of the completions that were kept"


def test_without_such_a_reward_nothing_is_measured(make_grpo: Make, make_clip: Callable[..., Clip], fit: Fit) -> None:
    module = make_grpo(beta=0.0)
    fit(module, [four(make_clip)], RLCallback([LengthReward()]))
    assert module.reference is None and module.experience.reliances is None and not module.experience.rollout.others


def test_a_batch_of_one_clip_is_refused(make_grpo: Make, make_clip: Callable[..., Clip], fit: Fit) -> None:
    with pytest.raises(ValueError, match=r"this one has a single clip. Set data.batch_size"):
        fit(make_grpo(), [collate([make_clip(0)])], RLCallback([GroundingReward()]))


def test_a_clip_whose_fellows_cannot_be_decoded_ends_no_run(
    make_grpo: Make, make_clip: Callable[..., Clip], fit: Fit, talkative: None
) -> None:
    alone = replace(collate([make_clip(0)]), skipped=[BadClip("clip1", "clip1.mp4", "broken")])
    module = make_grpo()
    fit(module, [four(make_clip), alone], RLCallback([GroundingReward(), LengthReward()]))
    assert len(module.experience.rollout.batch) == 1
    assert module.experience.rewards["grounding"].tolist() == [0.0] * module.group_size, "none is better by it"


@pytest.mark.parametrize("asked", ["the policy", "another"])
def test_test_writes_what_sentences_rest_on(
    backbone: ComposedBackbone, make_clip: Callable[..., Clip], tmp_path: Path, talkative: None, asked: str
) -> None:
    batches = [four(make_clip), collate([make_clip(9)])]
    other = backbone.reference()
    with torch.no_grad():
        for parameter in other.language_model.parameters():
            parameter.add_(0.01)
    module = PolicyModule(backbone, "dfew", evaluation=SHORT, reliance=True if asked == "the policy" else other)
    trainer = Trainer(
        accelerator="cpu",
        default_root_dir=tmp_path,
        callbacks=[PredictionWriter()],
        logger=False,
        enable_progress_bar=False,
    )
    trainer.test(module, datamodule=Batches(batches), verbose=False)
    rows = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    judge = backbone if asked == "the policy" else other
    percept = judge.perceive(batches[0])
    said = [[sentence["text"] for sentence in row["sentences"]] for row in rows[:4]]
    expected = sentence_reliance(judge, batches[0], percept, other_clips(percept, 8), said, with_both=True)
    written = [[Reliance(**sentence["reliance"]) for sentence in row["sentences"]] for row in rows[:4]]
    for own, theirs in zip(written, expected, strict=True):
        for a, b in zip(own, theirs, strict=True):
            assert (a.pictures, a.sound, a.both) == pytest.approx((b.pictures, b.sound, b.both), abs=1e-4)
    assert all("reliance" not in sentence for sentence in rows[4]["sentences"]), "a clip alone in its batch"
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["reliance"]["num_sentences"] == sum(map(len, said))
    assert metrics["reliance"]["auc"] is None, "nobody knows the truth"


def test_a_clip_that_was_not_decoded_rests_on_nothing(
    backbone: ComposedBackbone, make_clip: Callable[..., Clip]
) -> None:
    module = PolicyModule(backbone, "dfew", evaluation=SHORT, reliance=True)
    batch = replace(four(make_clip), failures=["broken", None, None, None])
    evaluation = module.evaluate(batch, with_reliance=True)
    assert evaluation.reliances is not None and evaluation.reliances[0] == []
