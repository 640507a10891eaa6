"""Policies that have learnt a rationale by heart, as a run exports them, and an app that shows two."""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from datamodules.ablation import ablate
from datamodules.batch import Clip, collate
from datamodules.clip_source import INSTRUCTION
from datamodules.emotions import get_taxonomy
from datamodules.media_settings import MediaSettings
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


@dataclass(frozen=True)
class App:
    """A running one: its address, its directory for temporary files, and what it says on standard error."""

    address: str
    temporary: Path
    log: Path


@pytest.fixture(scope="session")
def served(learnt: Path, untrained: Path, tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    """`python main.py app` with two models; it must ask nothing of the network, and end without a trace."""
    temporary, log = tmp_path_factory.mktemp("temporary"), tmp_path_factory.mktemp("log") / "stderr"
    options = ["--model", learnt, "--other", untrained, "--verifier", tiny_models / "verifier", "--port", "0"]
    limits = ["--max_new_tokens", "160", "--temperature", "0", "--max_megabytes", "1", "--timeout_seconds", "200"]
    with socket.create_server(("127.0.0.1", 0)) as elsewhere, log.open("w") as errors:
        proxy = f"http://127.0.0.1:{elsewhere.getsockname()[1]}"
        proxies = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "https_proxy", "http_proxy"), proxy)
        process = subprocess.Popen(
            [sys.executable, "main.py", "app", *map(str, options), *limits],
            cwd=Path(__file__).parents[3], stdout=subprocess.PIPE, stderr=errors, text=True,
            env={**os.environ, **proxies, "TMPDIR": str(temporary)},
        )  # fmt: skip
        line = process.stdout.readline()
        assert line.startswith("http://127.0.0.1:"), line + log.read_text()
        yield App(line.split()[0], temporary, log)
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        elsewhere.setblocking(False)
        with pytest.raises(BlockingIOError):  # nobody has connected
            elsewhere.accept()
    assert "graceful" not in log.read_text(), "a browser that is still open is no fault"
    assert not list(temporary.iterdir())


class Patient:
    """Explains nothing until it is allowed to; says what it is told to say."""

    media = MediaSettings(num_frames=2, image_size=32)
    taxonomy = get_taxonomy("dfew")
    verifier = object()

    def __init__(self) -> None:
        self.may_end = threading.Event()
        self.state: dict[str, Any] = {
            "sentences": [], "writing": "", "completion": "", "answer": None, "prediction": None, "judged": None,
        }  # fmt: skip

    def explain(self, clip, mode, show) -> None:
        while not self.may_end.wait(0.02):
            show(self.state | {"writing": "patiently", "done": False})
        show(self.state | {"done": True, "cut": False})


@pytest.fixture
def patient() -> Patient:
    return Patient()
