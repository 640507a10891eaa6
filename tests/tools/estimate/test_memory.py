"""Formulas of memory against what is really kept: by autograd, by caches, by a checkpoint file."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from callbacks.checkpointing.run_checkpoint import RunCheckpoint
from callbacks.rl import RLCallback
from datamodules.batch import ClipBatch
from lightning_modules.backbones import generation, logprobs, static_fork
from lightning_modules.backbones.adapters import LoRA, adapter_parameters, add_adapters
from lightning_modules.backbones.decoder import Decoder
from lightning_modules.backbones.fork import fork
from lightning_modules.backbones.interface import Completions, Prompt, Sampling
from lightning_modules.backbones.prefix import Prefix
from lightning_modules.backbones.static_fork import StaticFork
from lightning_modules.grpo import GRPOModule
from tests.lightning_modules.conftest import LengthReward
from tools.estimate.memory import (
    Activations,
    activation_bytes,
    cache_bytes,
    cast_bytes,
    checkpoint_bytes,
    layer_bytes,
    logits_bytes,
    sampling_logits_bytes,
    tower_bytes,
)
from tools.estimate.shapes import DecoderShape, Numerics, Workload
from tools.estimate.skeleton import saved_bytes

pytestmark = pytest.mark.numerics

SHAPE = DecoderShape(hidden=10, layers=2, heads=2, queries=8, keys=4, intermediate=20, vocabulary=100)
FLOAT32 = Numerics.of("32-true", "float32")
LOAD = Workload(prompts=2, group=4, prompt_positions=40, new_tokens=24)
NUMERICS = {
    "float32": ("float32", FLOAT32),
    "bfloat16": ("bfloat16", Numerics.of("bf16-true", "float32")),
    "bfloat16 below float32 adapters": ("bfloat16", Numerics.of("32-true", "bfloat16")),
    "autocast": ("float32", Numerics.of("bf16-mixed", "float32")),
}


def test_a_layer_by_hand() -> None:
    # Norms 2·10·8; attention 4·(16 + 8) + 4·2; MLP 3·4·20; inputs of linear layers 4·(20 + 20).
    assert layer_bytes(SHAPE, FLOAT32, "weights") == 160 + 104 + 240 + 160
    assert layer_bytes(SHAPE, FLOAT32, "nothing") == 80 + 104 + 240
    # bfloat16 in memory, adapters in float32 that each cast their input: 4·(50 + 8 + 20).
    assert layer_bytes(SHAPE, Numerics.of(None, "bfloat16"), "adapters") == 80 + 56 + 120 + 312
    # Autocast: 2·(50 + 20) of inputs, each cast by itself.
    assert layer_bytes(SHAPE, Numerics.of("bf16-mixed", "float32"), "weights") == 160 + 56 + 120 + 140


def test_packed_activations_by_hand() -> None:
    load = Workload(prompts=2, group=3, prompt_positions=5, new_tokens=4)
    # Rows of 5 + 3·3 positions: of each layer its input, and one layer whole, its keys as wide as its queries.
    kept = activation_bytes(SHAPE, FLOAT32, "weights", load, "packed")
    assert kept == Activations(0, 28 * (2 * 40 + 80), 28 * (664 + 4 * 8) + 2 * 14**2 * 4)
    assert kept.total == kept.completions + kept.layer


def test_logits_by_hand() -> None:
    # 30 logits at once would be a part of a token: one token is the least.
    assert logits_bytes(SHAPE, FLOAT32, num_tokens=7, chunk_elements=30, trains_head=False) == 100 * 24 + 7 * 40
    assert logits_bytes(SHAPE, FLOAT32, num_tokens=7, chunk_elements=500, trains_head=True) == 500 * 24 + 280 + 4_000
    assert logits_bytes(SHAPE, FLOAT32, num_tokens=2, chunk_elements=500, trains_head=False) == 200 * 24 + 80
    assert sampling_logits_bytes(SHAPE, FLOAT32, rows=3) == 300 * 36


def test_towers_by_hand() -> None:
    assert tower_bytes(positions=3, hidden=5, intermediate=7, num_states=2, width=4) == 3 * 4 * (10 + 14)


def make(dtype: str, trained: str = "weights", adapter_bytes: int = 4) -> Decoder:
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=512,
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    model = Qwen2ForCausalLM(config).to(getattr(torch, dtype)).eval()
    model.requires_grad_(trained == "weights")
    if trained == "adapters":
        add_adapters(model.model, LoRA(rank=2))
        for parameter in adapter_parameters(model):
            parameter.requires_grad_(True)
            if adapter_bytes == 2:
                parameter.data = parameter.data.bfloat16()
    return Decoder.of(model)


def prompts_of(decoder: Decoder, load: Workload) -> Prompt:
    shape = (load.prompts, load.prompt_positions)
    embeddings = torch.randn(*shape, decoder.config.hidden_size, dtype=decoder.body.dtype, requires_grad=True)
    positions = torch.arange(load.prompt_positions).expand(shape)
    return Prompt(embeddings, torch.ones(shape, dtype=torch.long), positions)


def completions_of(load: Workload) -> Completions:
    shape = (load.rows, load.new_tokens)
    return Completions(
        torch.randint(512, shape),
        torch.ones(shape, dtype=torch.bool),
        torch.zeros(shape),
        torch.ones(load.rows, dtype=torch.bool),
    )


@contextmanager
def precision(name: str) -> Iterator[None]:
    with torch.autocast("cpu", torch.bfloat16, enabled=name == "autocast", cache_enabled=False):
        yield


@pytest.mark.parametrize("name", NUMERICS)
@pytest.mark.parametrize("shared", [True, False])
def test_cache_is_as_large_as_the_real_one(name: str, shared: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    dtype, numerics = NUMERICS[name]
    decoder, forks = make(dtype), []

    def remember(decoder: Decoder, prefix: Prefix, group_size: int, grouped: bool) -> Any:
        forks.append(fork(decoder, prefix, group_size, grouped=shared))
        return forks[0]

    monkeypatch.setattr(generation, "fork", remember)
    with precision(name):
        sampling = Sampling(max_new_tokens=LOAD.new_tokens)
        generation.sample(decoder, prompts_of(decoder, LOAD), LOAD.group, sampling, stop_token_ids=[-1], pad_token_id=0)
    own = [(layer.keys, layer.values) for layer in forks[0]._cache.layers]
    tensors = [tensor for pair in (own + forks[0].layers if shared else own) for tensor in pair]
    real = sum(tensor.nbytes for tensor in tensors)
    estimated = cache_bytes(DecoderShape.of(decoder.config), numerics.compute, LOAD, shared)
    assert estimated.prompts + estimated.completions == real


@pytest.mark.parametrize("name", NUMERICS)
def test_cache_of_compiled_sampling_is_as_large_as_the_real_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    dtype, numerics = NUMERICS[name]
    decoder, forks = make(dtype), []

    def remember(*arguments: Any) -> StaticFork:
        forks.append(StaticFork(*arguments))
        return forks[0]

    monkeypatch.setattr(generation, "StaticFork", remember)
    monkeypatch.setattr(static_fork, "_compiled_step", static_fork._step)  # the memory is the same
    monkeypatch.setattr(static_fork, "ROOM", 10)
    with precision(name):
        sampling = Sampling(max_new_tokens=LOAD.new_tokens, compiled=True)
        generation.sample(decoder, prompts_of(decoder, LOAD), LOAD.group, sampling, stop_token_ids=[-1], pad_token_id=0)
    real = sum(tensor.nbytes for pair in forks[0]._own.layers_of_slots + forks[0]._prompts for tensor in pair)
    estimated = cache_bytes(DecoderShape.of(decoder.config), numerics.compute, replace(LOAD, new_tokens=30))
    assert estimated.prompts + estimated.completions == real


@pytest.mark.parametrize("layout", ["grouped", "repeated", "packed"])
@pytest.mark.parametrize("trained", ["weights", "adapters", "nothing"])
@pytest.mark.parametrize("name", NUMERICS)
def test_activations_are_what_autograd_saves(
    name: str, trained: Any, layout: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within 15 %, autocast's copies of the weights included."""
    dtype, numerics = NUMERICS[name]
    decoder = make(dtype, trained, numerics.adapter)
    prompt, completions = prompts_of(decoder, LOAD), completions_of(LOAD)
    monkeypatch.setattr(logprobs, "fork", lambda *arguments, grouped: fork(*arguments, grouped=layout == "grouped"))
    if layout == "packed":
        decoder.body.activation_checkpointing_enable({"use_reentrant": False})

    def run() -> Any:
        if layout == "packed":
            with logprobs._recomputing_layers(decoder.body):
                return logprobs._packed(decoder, prompt, completions)
        return logprobs._forked(decoder, Prefix(decoder, prompt), completions)

    with precision(name):
        real = saved_bytes(run, decoder.body)
    shape = DecoderShape.of(decoder.config)
    kept = activation_bytes(shape, numerics, trained, LOAD, layout)
    # No logits here, and with layers that are recomputed no copy is kept.
    copies = cast_bytes(shape, numerics, layout).get("update", 0) - numerics.compute * shape.head
    copies = copies if numerics.casts_weights and layout != "packed" else 0
    assert kept.prompts + kept.completions + copies == pytest.approx(real, rel=0.15)


@pytest.mark.parametrize("name", ["float32", "bfloat16"])
def test_a_recomputed_layer_is_as_large_as_one_that_is_kept(name: str) -> None:
    """Rows of a prompt with its group, without recomputation, divided by the layers: within 15 %."""
    dtype, numerics = NUMERICS[name]
    decoder = make(dtype)
    prompt, completions = prompts_of(decoder, LOAD), completions_of(LOAD)
    real = saved_bytes(lambda: logprobs._packed(decoder, prompt, completions), decoder.body)
    kept = activation_bytes(DecoderShape.of(decoder.config), numerics, "weights", LOAD, "packed")
    assert kept.layer == pytest.approx(real / 4, rel=0.15)


def test_checkpoint_is_as_large_as_the_real_file(
    make_grpo: Callable[..., GRPOModule], fit: Callable, batches: list[ClipBatch], tmp_path: Path
) -> None:
    module = make_grpo(beta=0.0)
    fit(module, batches, RLCallback([LengthReward()]), RunCheckpoint(), enable_checkpointing=True)
    (file, *_) = (tmp_path / "checkpoints").glob("*.ckpt")
    trained = [parameter for parameter in module.backbone.parameters() if parameter.requires_grad]
    weights = sum(parameter.nbytes for parameter in trained)
    estimated = checkpoint_bytes(weights, 2 * weights, len(trained))
    assert estimated == pytest.approx(file.stat().st_size, rel=0.05)
