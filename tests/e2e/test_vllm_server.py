"""Stage 3 against a real `vllm serve` on this machine: `make vllm-test` builds its environment and runs this."""

import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from callbacks.rl import RLCallback
from datamodules.batch import collate
from lightning_modules.backbones.adapters import LoRA
from lightning_modules.backbones.composed import ComposedBackbone
from lightning_modules.backbones.interface import Sampling
from lightning_modules.grpo import GRPOModule
from lightning_modules.samplers import VLLMSampler
from tests.lightning_modules.conftest import TRAINED, LengthReward, fit  # noqa: F401 - a fixture

VLLM = Path(__file__).parents[2] / ".venv-vllm/bin/vllm"

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.skipif(not VLLM.is_file(), reason="vLLM is not installed beside this project: run `make vllm-test`"),
    pytest.mark.filterwarnings("ignore"),
]

STEPS = 10
SAMPLING = Sampling(max_new_tokens=16, temperature=1.0)


@pytest.fixture(params=[False, True], ids=["whole weights", "adapters"])
def adapters(request: pytest.FixtureRequest) -> bool:
    return request.param


@pytest.fixture
def policy(adapters: bool, tiny_models: Path) -> ComposedBackbone:
    parts = {part: str(tiny_models / part) for part in ("vision", "audio", "language_model")}
    lora = LoRA(rank=8, alpha=16) if adapters else None
    with torch.random.fork_rng():
        torch.manual_seed(0)  # of the projectors
        return ComposedBackbone(**parts, num_frames=2, video_grid=2, audio_pool=10, lora=lora)


@pytest.fixture
def served(policy: ComposedBackbone, adapters: bool, tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """Address and directory of a server of the policy's language model."""
    directory = tmp_path / "served"
    directory.mkdir()
    policy.save_language_model(directory)  # adapters that have not learnt yet change nothing
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--enable-prompt-embeds", "--logprobs-mode", "processed_logprobs", "--dtype", "float32"]
    options += ["--enable-lora", "--max-lora-rank", "8"] if adapters else []
    command = [str(VLLM), "serve", str(directory), *options, "--host", "127.0.0.1", "--port", str(port)]
    environment = {
        "VLLM_SERVER_DEV_MODE": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
    }
    environment |= {"OMP_NUM_THREADS": "1"}
    with (
        (tmp_path / "server.log").open("w") as log,
        subprocess.Popen(command, env={**os.environ, **environment}, stdout=log, stderr=log, cwd=tmp_path) as server,
    ):
        url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 300
        while not _is_up(url):
            assert server.poll() is None and time.monotonic() < deadline, (tmp_path / "server.log").read_text()[-4000:]
            time.sleep(1)
        yield url, directory
        server.terminate()


def _is_up(url: str) -> bool:
    try:
        return urllib.request.urlopen(f"{url}/health", timeout=5).status == 200
    except (urllib.error.URLError, OSError):
        return False


class Noting(RLCallback):
    """Also the drift and the mean reward of each step."""

    def __init__(self) -> None:
        super().__init__([LengthReward()])
        self.drifts: list[float] = []
        self.means: list[float] = []

    def on_train_batch_end(self, trainer: Any, *arguments: Any) -> None:
        super().on_train_batch_end(trainer, *arguments)
        self.drifts.append(float(trainer.callback_metrics["train/sampler_drift"]))
        self.means.append(float(trainer.callback_metrics["reward/total"]))


def test_ten_steps_of_stage_3(
    policy: ComposedBackbone,
    adapters: bool,
    make_clip: Any,
    fit: Any,  # noqa: F811
    served: tuple[str, Path],
) -> None:
    url, directory = served
    batches = [collate([make_clip(2 * i), make_clip(2 * i + 1)]) for i in range(STEPS)]
    start = {name: weight.clone() for name, weight in policy.state_dict().items()}
    noted = {}
    for name, sampler in (
        ("own", None),
        ("vllm", VLLMSampler([url], str(directory), seeded=False, adapters=adapters)),
    ):
        policy.load_state_dict(start)
        module = GRPOModule(
            policy,
            "dfew",
            trainable=TRAINED,
            group_size=8,
            learning_rate=1e-2,
            schedule="constant",
            rollout_sampling=SAMPLING,
            max_sampler_drift=1e-3,
            sampler=sampler,
        )
        noted[name] = Noting()
        fit(module, batches, noted[name])
    drifts = noted["vllm"].drifts
    print(f"drift before each update: {', '.join(f'{drift:.1e}' for drift in drifts)}")
    assert len(drifts) == STEPS and drifts[0] < 1e-4, "the same policy, before it has learnt anything"
    assert max(drifts) < 1e-3, "and after each update: the weights have followed"
    own, theirs = (torch.tensor(noted[name].means) for name in ("own", "vllm"))
    noise = (own.var() / STEPS + theirs.var() / STEPS).sqrt()
    assert (own.mean() - theirs.mean()).abs() < 3 * noise + 0.3
