"""Policies that have learnt a rationale by heart, as a run exports them."""

from pathlib import Path

import pytest
import torch

from datamodules.ablation import ablate
from datamodules.batch import Clip, collate
from datamodules.clip_source import INSTRUCTION
from lightning_modules.backbones.composed import ComposedBackbone
from tests.conftest import IMAGE_SIZE, NUM_FRAMES, RATIONALE

RESPONSE = f"<think>{RATIONALE}</think>\n<answer>angry</answer>"


def new_policy(tiny_models: Path) -> ComposedBackbone:
    torch.manual_seed(0)
    parts = {name: str(tiny_models / name) for name in ("vision", "audio", "language_model")}
    return ComposedBackbone(**parts, num_frames=NUM_FRAMES, video_grid=2, audio_pool=10)


@pytest.fixture(scope="session")
def learnt(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of a policy that says `RESPONSE` of every clip."""
    policy = new_policy(tiny_models)
    for projector in (policy.vision_projector, policy.audio_projector):
        torch.nn.init.zeros_(projector[-1].weight)  # all clips look and sound the same to it
    policy.set_trainable(["language_model"])
    frames = torch.zeros(NUM_FRAMES, 3, IMAGE_SIZE, IMAGE_SIZE, dtype=torch.uint8)
    seen = collate([Clip("1", "1.mp4", frames, torch.ones(8000), True, INSTRUCTION)])
    said = policy.completion_ids([RESPONSE])
    optimizer = torch.optim.Adam((p for p in policy.parameters() if p.requires_grad), lr=5e-3)
    for step in range(36):
        batch = ablate(seen, ("full", "video_only", "audio_only")[step % 3])
        optimizer.zero_grad()
        loss = -policy.logprobs(policy.encode(batch), said).mean()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1
    directory = tmp_path_factory.mktemp("runs") / "learnt" / "model"
    policy.save(directory)
    return directory


@pytest.fixture(scope="session")
def untrained(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of a policy whose weights are random."""
    directory = tmp_path_factory.mktemp("runs") / "untrained" / "model"
    new_policy(tiny_models).save(directory)
    return directory
