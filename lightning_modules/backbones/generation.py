"""Sampling completions, the prompt computed once for all completions of a group.

Keys and values of a prompt are computed and kept once for its G completions; sequences that have ended leave the batch.

Shape legend: B prompts, G completions per prompt, P prompt positions, V vocabulary, N running rows.
"""

import os
import shutil
import warnings
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

from lightning_modules.backbones.decoder import Decoder
from lightning_modules.backbones.fork import Fork, can_group, fork
from lightning_modules.backbones.interface import Completions, Prompt, Sampling, Watch
from lightning_modules.backbones.precision import autocast_type
from lightning_modules.backbones.prefix import Prefix
from lightning_modules.backbones.static_fork import StaticFork


def tempered(logits: Tensor, temperature: float) -> Tensor:
    """Logits of the distribution that log-probabilities refer to; greedy decoding (0) counts as temperature 1."""
    return logits if temperature in (0, 1) else logits / temperature


def is_compiled(decoder: Decoder, sampling: Sampling, device_type: str) -> bool:
    """Whether this decoder is compiled to sample on such a device, where there are compilers."""
    if sampling.compiled == "auto":
        return device_type == "cuda" and can_group(decoder)
    return sampling.compiled


def _tokens_between_looks(device_type: str) -> int:
    """How often to see which completions have ended: on a GPU each look waits until the GPU has caught up."""
    return 1 if device_type == "cpu" else 8


@cache
def _has_compilers() -> bool:
    """Whether this machine has what torch.compile needs for a GPU: Triton, and the C compiler that Triton calls."""
    has_compiler = any(map(shutil.which, (os.environ.get("CC", "gcc"), "gcc", "clang")))
    if not (has_compiler and find_spec("triton")):
        warnings.warn(
            "Sampling is not compiled, as this machine has no Triton or no C compiler (gcc, clang, or CC): it takes "
            "several times as long. Set `compiled: false` in the sampling settings to say that this is meant.",
            stacklevel=3,
        )
        return False
    return True


@torch.no_grad()
def sample(
    decoder: Decoder,
    prompt: Prompt,
    num_return_sequences: int,
    sampling: Sampling,
    stop_token_ids: Sequence[int],
    pad_token_id: int,
    watch: Watch | None = None,
) -> Completions:
    """Draw G completions per prompt; a sequence ends at the first stop token or at `max_new_tokens`.

    Returns:
        Completions with rows `b·G .. b·G+G-1` for prompt b.
    """
    # Under autocast, in the type that attention would cast them to for each token.
    prefix = Prefix(decoder, prompt, autocast_type(prompt.embeddings.device))
    compiles = is_compiled(decoder, sampling, prompt.embeddings.device.type)
    if compiles and (sampling.compiled is True or _has_compilers()):
        forked: Fork = StaticFork(decoder, prefix, num_return_sequences)
    else:
        forked = fork(decoder, prefix, num_return_sequences, grouped=True)
    last = prefix.last.repeat(num_return_sequences)
    hidden, position_ids = forked.extend(decoder, last)[:, -1], last.position_ids
    rows = torch.arange(len(hidden), device=hidden.device)  # of the completions, those that are still in the batch
    stop = torch.tensor(list(stop_token_ids), device=hidden.device)
    shape = (len(hidden), sampling.max_new_tokens)
    token_ids = torch.full(shape, pad_token_id, device=hidden.device)
    mask = torch.zeros(shape, dtype=torch.bool, device=hidden.device)
    logprobs = torch.zeros(shape, dtype=torch.float32, device=hidden.device)
    running = torch.ones_like(rows, dtype=torch.bool)  # of `rows`
    for step in range(sampling.max_new_tokens):
        token, logprob = _draw(decoder.logits(hidden), sampling)
        token_ids[rows, step] = torch.where(running, token, pad_token_id)
        logprobs[rows, step] = torch.where(running, logprob, 0.0)
        mask[rows, step] = running
        num_steps = step + 1
        if watch is not None:
            watch(token_ids[:, :num_steps])
        running = running & ~torch.isin(token, stop)
        if num_steps == sampling.max_new_tokens:
            break
        if num_steps % _tokens_between_looks(hidden.device.type) == 0:
            if not bool(running.any()):
                break
            kept = forked.shrink(running)
            if kept is not None:
                rows, token, running, position_ids = (t[kept] for t in (rows, token, running, position_ids))
        position_ids = position_ids + 1
        hidden = forked.extend(decoder, decoder.tokens(token[:, None], position_ids, last))[:, -1]
    finished = torch.ones(shape[0], dtype=torch.bool, device=hidden.device)
    finished[rows] = ~running
    return Completions(token_ids, mask, logprobs, finished).trimmed()


def _draw(logits: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """Next token and its log-probability before top-p and top-k, each `[N]`, from float32 logits `[N, V]`."""
    logprobs = tempered(logits, sampling.temperature).log_softmax(dim=-1)
    if sampling.temperature == 0:
        token = logits.argmax(dim=-1)
    else:
        token = _choose(_nucleus(_most_likely(logprobs, sampling.top_k), sampling.top_p))
    return token, logprobs.gather(1, token[:, None])[:, 0]


def _most_likely(logprobs: Tensor, top_k: int) -> Tensor:
    """-inf for all but the k most likely tokens of each row `[N, V]`, and those as likely as the last; 0 keeps all."""
    if not top_k:
        return logprobs
    lowest = logprobs.topk(min(top_k, logprobs.shape[-1])).values[:, -1:]
    return logprobs.masked_fill(logprobs < lowest, -torch.inf)


def _nucleus(logprobs: Tensor, top_p: float) -> Tensor:
    """Probabilities of the smallest set of tokens that has at least the share `top_p`, 0 for all others: `[N, V]`."""
    if top_p == 1:
        return logprobs.exp()
    ascending, tokens = logprobs.sort(dim=-1)
    is_tail = _running_sums(ascending.softmax(dim=-1)) <= int((1 - top_p) * _ONE)
    is_tail[:, -1] = False
    return logprobs.masked_fill(is_tail.scatter(1, tokens, is_tail), -torch.inf).exp()


def _choose(probabilities: Tensor) -> Tensor:
    """A token per row `[N, V]`, whose sum may be less than 1: where the running sum passes a uniform share of it.

    One random number per row, where `torch.multinomial` draws one per entry of the vocabulary, which takes several
    times as long on a CPU.
    """
    # Of probabilities that are NaN any token is chosen, with a log-probability of NaN: the step is then refused with
    # the clip's name.
    cumulative = _running_sums(probabilities.nan_to_num(1 / probabilities.shape[1]))
    uniform = torch.rand(len(cumulative), 1, dtype=torch.float64, device=cumulative.device)
    passed = (uniform * cumulative[:, -1:]).long()
    token = torch.searchsorted(cumulative, passed, right=True)[:, 0]
    return token.clamp(max=probabilities.shape[1] - 1)


_ONE = 2**52
"""The probability 1 in fixed point."""


def _running_sums(probabilities: Tensor) -> Tensor:
    """Sums up to and with each entry of a row `[N, V]`, int64 in units of 2^-52.

    Float32 would lose the least likely tokens, and CUDA adds floats in an order of its own each time, which
    `trainer.deterministic` refuses.
    """
    return probabilities.double().mul_(_ONE).long().cumsum_(dim=-1)
