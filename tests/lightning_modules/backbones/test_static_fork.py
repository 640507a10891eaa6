"""Decoding in memory of a fixed size: equal to scoring and to eager decoding, one program for all steps and rollouts.

On a CPU torch.compile traces the step here and runs it as it is ("eager"): that the whole of it is one graph is what a
CUDA graph needs too. Kernels that are compiled are `slow`, and CUDA graphs `gpu`.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from datamodules.batch import ClipBatch
from lightning_modules.backbones import generation, static_fork
from lightning_modules.backbones.adapters import LoRA
from lightning_modules.backbones.decoder_backbone import DecoderBackbone
from lightning_modules.backbones.fork import can_group
from lightning_modules.backbones.interface import Completions, Prompt, Sampling
from lightning_modules.backbones.static_fork import StaticFork

pytestmark = pytest.mark.e2e

COMPILED = Sampling(max_new_tokens=12, compiled=True)
ONE_BACKBONE = pytest.mark.parametrize("case", ["composed"], indirect=True)


def sample(model: DecoderBackbone, prompt: Prompt, sampling: Sampling, stops: range, seed: int = 0) -> Completions:
    torch.manual_seed(seed)
    return generation.sample(model.decoder, prompt, 4, sampling, stops, 0)


def assert_sound(model: DecoderBackbone, prompt: Prompt, completions: Completions) -> None:
    """Log-probabilities as scoring computes them."""
    torch.testing.assert_close(model.logprobs(prompt, completions), completions.logprobs, atol=1e-4, rtol=0)


def test_compiled_sampling_is_one_graph_and_reports_what_scoring_computes(
    model: DecoderBackbone, clips: ClipBatch, traced: list[torch.fx.GraphModule]
) -> None:
    prompt, eager = model.encode(clips), Sampling(max_new_tokens=12)
    if not can_group(model.decoder):
        with pytest.raises(ValueError, match="cannot|does not know"):
            sample(model, prompt, COMPILED, range(-1, 0))
        return
    completions = sample(model, prompt, COMPILED, range(-1, 0))
    assert_sound(model, prompt, completions)
    assert torch.equal(completions.token_ids, sample(model, prompt, eager, range(-1, 0)).token_ids)
    assert len(traced) == 1


@ONE_BACKBONE
@pytest.mark.parametrize("is_compiled", [False, True])
def test_a_watcher_sees_the_tokens_as_they_come_and_may_stop_them(
    model: DecoderBackbone, clips: ClipBatch, traced: list[torch.fx.GraphModule], is_compiled: bool
) -> None:
    """Also of rows that have left the batch, whose tokens stay."""
    prompt, sampling = model.encode(clips), COMPILED if is_compiled else Sampling(max_new_tokens=12)
    stops, seen = range(0, model.decoder.config.vocab_size, 3), []
    torch.manual_seed(0)
    watched = generation.sample(model.decoder, prompt, 4, sampling, stops, 0, lambda ids: seen.append(ids.clone()))
    assert torch.equal(watched.token_ids, sample(model, prompt, sampling, stops).token_ids)
    assert [ids.shape[1] for ids in seen] == list(range(1, len(seen) + 1)) and len(seen) >= watched.token_ids.shape[1]
    for ids in seen[: watched.token_ids.shape[1]]:
        assert torch.equal(ids, watched.token_ids[:, : ids.shape[1]])
    assert bool(traced) == is_compiled

    def leave(ids: torch.Tensor) -> None:
        raise ConnectionError

    with pytest.raises(ConnectionError):
        generation.sample(model.decoder, prompt, 4, sampling, stops, 0, leave)


@ONE_BACKBONE
@pytest.mark.parametrize("autocast", [False, True])
def test_half_precision_is_as_close_to_scoring_as_eager_decoding_is(
    model: DecoderBackbone, clips: ClipBatch, traced: list[torch.fx.GraphModule], autocast: bool
) -> None:
    """Weights in bfloat16 round attention; under autocast it is computed in the cache's float32."""
    model = model if autocast else model.to(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        prompt, drifts = model.encode(clips), []
        for sampling in (Sampling(max_new_tokens=12), COMPILED):
            completions = sample(model, prompt, sampling, range(-1, 0))
            drifts.append(float((model.logprobs(prompt, completions) - completions.logprobs).abs().mean()))
    eager, compiled = drifts
    assert len(traced) == 1 and eager < 0.02 and compiled == pytest.approx(eager, rel=0.2, abs=1e-4)


@ONE_BACKBONE
def test_rows_that_leave_need_few_programs(
    model: DecoderBackbone, clips: ClipBatch, traced: list[torch.fx.GraphModule]
) -> None:
    prompt, stops = model.encode(clips), range(0, model.decoder.config.vocab_size, 3)
    for seed in range(3):
        assert_sound(model, prompt, sample(model, prompt, COMPILED, stops, seed))
    num_graphs = len(traced)
    for seed in range(3):
        sample(model, prompt, COMPILED, stops, seed)
    assert len(traced) == num_graphs == 1


@ONE_BACKBONE
def test_numbers_that_happen_to_be_equal_need_no_program_of_their_own(
    model: DecoderBackbone, clips: ClipBatch, traced: list[torch.fx.GraphModule], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, prompt = model.decoder.config, model.encode(clips.rows(0, 2))
    head_size = config.hidden_size // config.num_attention_heads
    monkeypatch.setattr(static_fork, "ROOM", head_size)
    for group_size in (config.hidden_size // 2, head_size, 3):
        generation.sample(model.decoder, prompt, group_size, COMPILED, range(-1, 0), 0)
    assert len(traced) == 1


@ONE_BACKBONE
def test_compiled_sampling_follows_the_weights_and_adapters(
    load: Callable[..., DecoderBackbone], clips: ClipBatch, traced: list[torch.fx.GraphModule]
) -> None:
    model = load(lora=LoRA(rank=2))
    model.set_trainable(["language_model"])
    sums = []
    for _ in range(2):
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3))
        prompt = model.encode(clips)
        completions = sample(model, prompt, COMPILED, range(-1, 0))
        assert_sound(model, prompt, completions)
        sums.append(float(completions.logprobs.sum()))
    assert len(traced) == 1 and sums[0] != sums[1]


@ONE_BACKBONE
@pytest.mark.parametrize("compiled", [False, True])
def test_ends_are_seen_every_few_tokens_to_the_same_result(
    model: DecoderBackbone,
    clips: ClipBatch,
    traced: list[torch.fx.GraphModule],
    compiled: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prompt, greedy = model.encode(clips), Sampling(max_new_tokens=12, temperature=0.0, compiled=compiled)
    stops = sample(model, prompt, greedy, range(-1, 0)).token_ids[[0, 4], [2, 5]].tolist()
    expected = sample(model, prompt, greedy, stops)
    assert expected.finished.any() and not expected.mask.all(), "some end before others"
    monkeypatch.setattr(generation, "_tokens_between_looks", lambda device_type: 5)
    found = sample(model, prompt, greedy, stops)
    assert torch.equal(found.token_ids, expected.token_ids) and torch.equal(found.mask, expected.mask)
    assert torch.equal(found.finished, expected.finished)
    torch.testing.assert_close(found.logprobs, expected.logprobs)


def test_prompts_keep_the_same_number_of_rows() -> None:
    forked = object.__new__(StaticFork)
    number = torch.arange(12.0).view(3, 4, 1, 1, 1)  # of each row
    forked._num_slots, forked._own = 4, static_fork._SlotCache([(number, number)])
    forked._prompts, forked._prompt_bias = [(torch.arange(3.0), torch.arange(3.0))], torch.arange(3.0)
    assert forked.shrink(torch.tensor([1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 1]).bool()) is None
    # Prompt 1 has ended, and prompt 2 keeps an ended row beside its running one, as prompt 0 has two.
    kept = forked.shrink(torch.tensor([0, 1, 0, 1, 0, 0, 0, 0, 0, 0, 1, 0]).bool())
    assert kept is not None and kept.tolist() == [1, 3, 8, 10]
    assert forked._own.layers_of_slots[0][0].flatten().tolist() == [1, 3, 8, 10]
    assert forked._prompt_bias.tolist() == [0, 2] and forked._num_slots == 2


def test_a_decoder_with_windows_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(static_fork, "can_group", lambda decoder: False)
    decoder = SimpleNamespace(body=nn.Linear(1, 1))
    with pytest.raises(ValueError, match="Linear has sliding windows.*compiled: false"):
        StaticFork(decoder, prefix=None, group_size=2)


@pytest.mark.parametrize(
    ("compiled", "device_type", "groups", "expected"),
    [
        ("auto", "cuda", True, True),
        ("auto", "cuda", False, False),
        ("auto", "cpu", True, False),
        (True, "cpu", True, True),
        (False, "cuda", True, False),
    ],
)
def test_sampling_is_compiled_on_a_gpu_where_it_can_be(
    compiled: Any, device_type: str, groups: bool, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generation, "can_group", lambda decoder: groups)
    assert generation.is_compiled(None, Sampling(compiled=compiled), device_type) is expected
    assert Sampling().compiled == "auto"


def test_a_machine_without_compilers_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generation.shutil, "which", lambda name: None)
    generation._has_compilers.cache_clear()
    with pytest.warns(UserWarning, match="no Triton or no C compiler"):
        assert not generation._has_compilers()
    generation._has_compilers.cache_clear()


@pytest.mark.slow
@ONE_BACKBONE
def test_compiled_kernels(model: DecoderBackbone, clips: ClipBatch, fresh_compiler: None) -> None:
    """About a minute: a C++ compiler builds the kernels."""
    prompt = model.encode(clips)
    assert_sound(model, prompt, sample(model, prompt, COMPILED, range(-1, 0)))


@pytest.mark.gpu
def test_cuda_graphs(model: DecoderBackbone, clips: ClipBatch, traced: list[torch.fx.GraphModule]) -> None:
    model, clips = model.to("cuda"), clips.to("cuda")
    prompt = model.encode(clips)
    for stops in (range(-1, 0), range(0, model.decoder.config.vocab_size, 3)):
        assert_sound(model, prompt, sample(model, prompt, COMPILED, stops))


class Rows(Dataset):
    """4,096 of 1 MiB each."""

    def __len__(self) -> int:
        return 2**12

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.empty(2**18)


@pytest.mark.gpu
@ONE_BACKBONE
def test_cuda_graphs_are_captured_while_a_loader_pins_memory(
    model: DecoderBackbone, clips: ClipBatch, traced: list[torch.fx.GraphModule]
) -> None:
    """The thread that pins is busy all the time; room for five tokens, so that each rollout captures three graphs."""
    model, clips = model.to("cuda"), clips.to("cuda")
    prompt, done = model.encode(clips), Event()

    def load() -> int:
        kept = []  # so that each row needs memory that is not pinned yet
        for row in DataLoader(Rows(), batch_size=None, num_workers=2, pin_memory=True):
            kept.append(row)
            if done.is_set():
                break
        return len(kept)

    with ThreadPoolExecutor(1) as threads:
        loading = threads.submit(load)
        try:
            for seed in range(5):
                assert_sound(model, prompt, sample(model, prompt, COMPILED, range(-1, 0), seed))
        finally:
            done.set()
        assert loading.result() > 0
