"""A judge behind an endpoint as a reward of stage 3, and what becomes of a step in which it dies."""

from pathlib import Path

import pytest
import torch

from callbacks.rewards import JudgeReward
from callbacks.rl import RLCallback
from datamodules.batch import collate
from lightning_modules.backbones.interface import Sampling
from lightning_modules.grpo import GRPOModule
from lightning_modules.judges import EndpointJudge
from tests.chat_server import Answer, ChatServer, Request

pytestmark = pytest.mark.e2e


def test_a_judge_that_dies_in_mid_step(
    backbone, make_clip, fit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def texts(completions) -> list[str]:
        # The same six rationales in both steps, so that the second step could take them from the cache.
        return [
            f"<think>Case {i}: {'anger' if i % 2 else 'joy'}.</think><answer>angry</answer>"
            for i in range(len(completions))
        ]

    def answer(number: int, request: Request) -> Answer:
        # Three replies, and from then on none.
        if number >= 3:
            return Answer(status=500)
        return Answer("anger" if "anger" in request.prompt.split("Reason: ")[1] else "happiness")

    monkeypatch.setattr(backbone, "texts", texts)
    batches = [collate([make_clip(2 * i, target="anger"), make_clip(2 * i + 1, target="anger")]) for i in range(2)]
    module = GRPOModule(
        backbone,
        "dfew",
        trainable=["language_model"],
        learning_rate=1e-3,
        schedule="constant",
        group_size=3,
        rollout_sampling=Sampling(max_new_tokens=2),
    )
    with ChatServer(answer) as server:
        judge = EndpointJudge(
            server.url, "m", concurrency=1, retries=0, max_failures=100, cache=str(tmp_path / "replies.jsonl")
        )
        metrics = fit(module, batches, RLCallback([JudgeReward(judge)])).callback_metrics
    rewards = module.experience.rewards["judge"]
    # Replies to 0, 1, 2 are 0, 1, 0, and are kept; 3, 4, 5 have none, and no group of theirs to take a mean of.
    assert rewards.tolist() == [0.0, 1.0, 0.0, 0.0, 0.0, 0.0]
    assert metrics["reward/judge_missing"] == 3
    assert torch.equal(module.experience.advantages[3:], torch.zeros(3))
    assert module.experience.advantages[1] > 0
    assert "gave no verdict on 3 of 6 rationales" in caplog.text
