"""A vLLM sampler against a server with its routes: the same policy, weights that follow, faults that are named."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Trainer
from safetensors.torch import load_file

from callbacks.rl import RLCallback
from datamodules.batch import Clip, ClipBatch, collate
from lightning_modules.backbones.adapters import LoRA
from lightning_modules.backbones.composed import ComposedBackbone
from lightning_modules.backbones.interface import Prompt, Sampling
from lightning_modules.grpo import GRPOModule
from lightning_modules.rl.correction import SamplerDriftError
from lightning_modules.samplers import SamplerError, VLLMSampler
from lightning_modules.samplers.vllm import check_prompt
from tests.lightning_modules.conftest import TRAINED, LengthReward
from tests.vllm_server import Fault, VLLMServer

pytestmark = [pytest.mark.e2e, pytest.mark.filterwarnings("ignore")]

SAMPLING = Sampling(max_new_tokens=6, temperature=1.0)
Serve = Callable[..., VLLMServer]


@pytest.fixture
def directory(backbone: ComposedBackbone, tmp_path: Path) -> Path:
    (tmp_path / "served").mkdir()
    backbone.save_language_model(tmp_path / "served")
    return tmp_path / "served"


def sampler(*servers: VLLMServer, **options: Any) -> VLLMSampler:
    options = {"retries": 0, "timeout": 20.0, **options}
    return VLLMSampler([server.url for server in servers], str(servers[0].directory), **options)


@pytest.fixture
def batches(make_clip: Callable[..., Clip]) -> list[ClipBatch]:
    return [collate([make_clip(2 * i), make_clip(2 * i + 1)]) for i in range(3)]


def learn(backbone: ComposedBackbone, own: VLLMSampler, batches: list[ClipBatch], fit: Any, **options: Any) -> Any:
    options = {"learning_rate": 1e-2, **options}
    module = GRPOModule(
        backbone,
        "dfew",
        trainable=TRAINED,
        group_size=3,
        rollout_sampling=SAMPLING,
        evaluation=SAMPLING,
        schedule="constant",
        sampler=own,
        **options,
    )
    drifts: list[dict[str, float]] = []
    log = module.log

    def noting(name: str, value: Any, *arguments: Any, **named: Any) -> None:
        if name.startswith("train/sampler"):
            drifts.append({name: float(value)})
        log(name, value, *arguments, **named)

    module.log = noting  # type: ignore[method-assign]
    trainer: Trainer = fit(module, batches, RLCallback([LengthReward()]))
    return module, drifts, trainer


def values(logged: list[dict[str, float]], name: str) -> list[float]:
    return [own[f"train/{name}"] for own in logged if f"train/{name}" in own]


def test_a_server_draws_from_the_policy_itself(
    backbone: ComposedBackbone, batches: list[ClipBatch], directory: Path
) -> None:
    with VLLMServer(directory) as first, VLLMServer(directory) as second, torch.no_grad():
        prompt = backbone.encode(batches[0])
        torch.manual_seed(1)
        completions = sampler(first, second).generate(backbone, prompt, 3, SAMPLING)
        torch.manual_seed(1)
        again = sampler(first, second).generate(backbone, prompt, 3, SAMPLING)
    assert len(completions) == 6 and first.count("/v1/completions") == second.count("/v1/completions") == 2
    assert torch.equal(completions.token_ids, again.token_ids), "the step's random numbers decide"
    scored = backbone.logprobs(prompt, completions, SAMPLING.temperature)
    torch.testing.assert_close(completions.logprobs, scored, rtol=0, atol=1e-4)
    assert not completions.logprobs[~completions.mask].any()


def test_weights_follow_every_step_and_the_curves_say_so(backbone, batches, directory, fit) -> None:
    with VLLMServer(directory) as server:
        _, logged, trainer = learn(backbone, sampler(server), batches, fit)
    assert server.count("/collective_rpc") == server.count("/reset_prefix_cache") == 3
    assert max(values(logged, "sampler_drift")) < 1e-4 and values(logged, "sampler_behind") == [0, 0, 0]
    assert values(logged, "sampler_weight") == pytest.approx([1.0] * 3, abs=1e-4)
    assert trainer.callback_metrics["train/sampler_truncated"] == 0


def test_adapters_travel_alone(tiny_models, batches, directory, fit) -> None:
    parts = {part: str(tiny_models / part) for part in ("vision", "audio", "language_model")}
    sizes = {"num_frames": 2, "video_grid": 2, "audio_pool": 10}
    backbone = ComposedBackbone(**parts, **sizes, lora=LoRA(rank=4, alpha=8))
    with VLLMServer(directory) as server:
        own = sampler(server, adapters=True)
        _, logged, _ = learn(backbone, own, batches, fit, learning_rate=5e-2)
        assert max(values(logged, "sampler_drift")) < 1e-4 and len(values(logged, "sampler_drift")) == 3
        assert server.count("/v1/load_lora_adapter") == 3 and server.count("/v1/unload_lora_adapter") == 2
        assert not server.count("/collective_rpc"), "the base stays"
        (kept,) = (directory / "adapters").iterdir()
        assert {kept.name} == set(server.adapted)
        moved = load_file(kept / "adapter_model.safetensors")
        assert max(float(own.abs().max()) for name, own in moved.items() if "lora_B" in name) > 1e-2
        with pytest.raises(SamplerError, match=r"has no adapters to send: set model.backbone.lora"):
            sampler(server, adapters=True).send(ComposedBackbone(**parts, **sizes))


def test_older_weights_are_counted_and_corrected(backbone, batches, directory, fit) -> None:
    with VLLMServer(directory) as server:
        own = sampler(server, every_n_steps=2)
        _, logged, _ = learn(backbone, own, batches, fit, max_sampler_drift=None)
    assert server.count("/collective_rpc") == 2
    assert values(logged, "sampler_behind") == [0, 1, 0]
    drift = values(logged, "sampler_drift")
    assert drift[0] < 1e-4 < 1e-3 < drift[1] and values(logged, "sampler_weight")[1] != pytest.approx(1.0, abs=1e-4)


def test_a_head_that_stays_behind_stops_the_run_before_it_learns(backbone, batches, directory, fit) -> None:
    with VLLMServer(directory, keeps_head=True) as server:
        with torch.no_grad():
            backbone.language_model.lm_head.weight.mul_(3.0)  # the server keeps what it was started with
        before = {name: weight.clone() for name, weight in backbone.state_dict().items()}
        with pytest.raises(
            SamplerDriftError, match=r"differ from the policy's by up to .* allows 0\.5.*head that is tied"
        ):
            learn(backbone, sampler(server), batches, fit, max_sampler_drift=0.5)
    assert all(torch.equal(weight, before[name]) for name, weight in backbone.state_dict().items())


def test_of_two_processes_one_sends_and_both_sample(backbone, make_clip, directory, fit) -> None:
    batches = [collate([make_clip(2 * i), make_clip(2 * i + 1)]) for i in range(4)]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a forked process must not look for the threads of its parent's pool
    module = GRPOModule(
        backbone,
        "dfew",
        trainable=TRAINED,
        group_size=3,
        learning_rate=1e-2,
        schedule="constant",
        rollout_sampling=SAMPLING,
        max_sampler_drift=1e-4,
    )
    try:
        with VLLMServer(directory) as server:
            module.sampler = sampler(server)
            module.max_sampler_drift = 1e-4
            fit(module, batches, RLCallback([LengthReward()]), strategy="ddp_fork", devices=2)
    finally:
        torch.set_num_threads(threads)
    assert server.count("/collective_rpc") == 2 and server.count("/v1/completions") == 8


def test_evaluation_samples_there_too(backbone, batches, directory, tmp_path) -> None:
    from lightning_modules.policy import PolicyModule
    from tests.lightning_modules.conftest import Batches

    with VLLMServer(directory) as server:
        module = PolicyModule(backbone, "dfew", evaluation=Sampling(6, temperature=0), sampler=sampler(server))
        quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
        Trainer(accelerator="cpu", default_root_dir=tmp_path, **quiet).test(module, datamodule=Batches(batches[:1]))
    assert server.count("/v1/completions") == 2 and server.count("/collective_rpc") == 1


def answer(change: Callable[[list[dict[str, Any]]], object]) -> Fault:
    """Completions that are changed before they are sent."""

    def fault(path: str, given: dict[str, Any]) -> bytes | None:
        if path != "/v1/completions":
            return None
        change(given["choices"])
        return json.dumps(given).encode()

    return fault


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (lambda path, given: 500 if path == "/v1/completions" else None, "HTTP 500"),
        (lambda path, given: b"<html>" if path == "/v1/completions" else None, "is the server a vLLM"),
        (answer(lambda choices: choices.pop()), "has 2 completions, 3 were asked for"),
        (answer(lambda choices: choices[0]["token_ids"].append(1)), "not one log-probability for each|7 tokens"),
        (answer(lambda choices: choices[0].update(token_ids=[10**9])), "no ids of a vocabulary"),
        (answer(lambda choices: choices[0].update(token_ids=[])), "0 tokens, 1 to 6"),
        (
            answer(lambda c: c[0]["logprobs"].update(token_logprobs=[float("nan")] * len(c[0]["token_ids"]))),
            "log-probability that is none",
        ),
    ],
    ids=["out of order", "garbage", "fewer", "longer", "other ids", "empty", "nan"],
)
def test_faults_of_a_server_are_named(backbone, batches, directory, fault, message) -> None:
    with VLLMServer(directory, fault) as server, torch.no_grad(), pytest.raises(SamplerError, match=message):
        sampler(server).generate(backbone, backbone.encode(batches[0]), 3, SAMPLING)


def test_a_passing_fault_is_asked_again(backbone, batches, directory) -> None:
    answers = iter([500])
    with VLLMServer(directory, lambda path, given: next(answers, None)) as server, torch.no_grad():
        own = sampler(server, retries=1)
        own._options["backoff"] = 0.0
        assert len(own.generate(backbone, backbone.encode(batches[0]), 3, SAMPLING)) == 6


def test_a_server_that_is_not_there_or_serves_something_else(backbone, directory, tmp_path) -> None:
    absent = VLLMSampler(["http://127.0.0.1:9"], str(directory), retries=0)
    with pytest.raises(SamplerError, match=r"127\.0\.0\.1:9.* a run that goes on sends its weights first"):
        absent.follow(backbone, 0)
    with pytest.raises(SamplerError, match="no directory .* on which the servers were to be started"):
        VLLMSampler(["http://127.0.0.1:9"], str(tmp_path / "nowhere")).follow(backbone, 0)
    (tmp_path / "other").mkdir()
    with VLLMServer(directory) as server:
        other = VLLMSampler([server.url], str(tmp_path / "other"), retries=0)
        with pytest.raises(SamplerError, match=rf"serves .*served.*, expected {tmp_path / 'other'}"):
            other.follow(backbone, 0)


@pytest.mark.unit
def test_addresses_and_prompts_that_cannot_be_served_are_refused() -> None:
    with pytest.raises(ValueError, match="public network"):
        VLLMSampler(["http://8.8.8.8:8000"], "served")
    VLLMSampler(["http://8.8.8.8:8000"], "served", public=True)
    VLLMSampler(["http://10.1.2.3:8000", "http://localhost:8000"], "served")
    for urls in ([], ["ftp://localhost"]):
        with pytest.raises(ValueError, match="address of one server|Expected base_url"):
            VLLMSampler(urls, "served")
    embeddings, mask = torch.zeros(1, 4, 8), torch.ones(1, 4, dtype=torch.long)
    check_prompt(Prompt(embeddings, mask, torch.arange(4)[None]))
    for places in (torch.zeros(1, 4, 3, dtype=torch.long), torch.arange(4)[None] + 1):
        with pytest.raises(ValueError, match="M-RoPE"):
            check_prompt(Prompt(embeddings, mask, places))
