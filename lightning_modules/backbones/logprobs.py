"""Log-probabilities of given completions, the prompt computed once per group, gradients kept.

Two layouts, both equal to prompt + completion row by row, up to float error, in value and in gradient:

- *forked*: the prompt's keys and values stay in the autograd graph and serve its whole group (`fork.py`).
- *packed*: a prompt and all of its completions stand in one row, under a mask in which a completion sees the prompt and
  itself. It needs no cache, so that gradient checkpointing can recompute each layer; and one completion per prompt
  takes one pass instead of two. Where layers do not see everything before a position, each completion has a row and a
  prompt of its own.

Logits exist for the tokens of completions only, and never for all of them at once.

Shape legend: B prompts, G completions per prompt, P prompt positions, C completion tokens, H hidden size, V vocabulary,
N unmasked tokens.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import GradientCheckpointingLayer

from lightning_modules.backbones.decoder import Decoder
from lightning_modules.backbones.fork import can_group, fork
from lightning_modules.backbones.generation import tempered
from lightning_modules.backbones.interface import Completions, Prompt, Scores, SharedPrompt
from lightning_modules.backbones.precision import autocast_type
from lightning_modules.backbones.prefix import Prefix


def chunk_elements(device_type: str) -> int:
    """Logits that stand in memory at once, at most: 64 MiB of float32 on a CPU; on a GPU 512, or it would idle."""
    return 2**24 if device_type == "cpu" else 2**27


def score(
    decoder: Decoder,
    prompt: Prompt,
    completions: Completions,
    temperature: float = 1.0,
    with_entropy: bool = False,
) -> Scores:
    """Score completions; rows `b·G .. b·G+G-1` belong to prompt b.

    Raises:
        ValueError: the number of completions is no multiple of the number of prompts.
    """
    if len(completions) % len(prompt):
        raise ValueError(
            f"Got {len(completions)} completions for {len(prompt)} prompts; expected the same number for each."
        )
    group_size = len(completions) // len(prompt)
    recomputes = torch.is_grad_enabled() and decoder.body.is_activation_checkpointing
    # transformers overwrites a recurrent state in place, through which no gradient could go back to the prompt.
    if recomputes or group_size == 1 or decoder.is_recurrent:
        own = prompt if decoder.attends_to_all else prompt.repeat(group_size)
        with _recomputing_layers(decoder.body) if recomputes else nullcontext():
            hidden = _packed(decoder, own, completions)
    else:
        hidden = _forked(decoder, Prefix(decoder, prompt), completions)
    return _scores(decoder, hidden, completions, temperature, with_entropy)


@contextmanager
def score_in_parts(decoder: Decoder, prompt: Prompt) -> Iterator[SharedPrompt | None]:
    """Prompts that are run once while their completions are scored and sent backward part by part.

    Memory for the completions' graph is that of one part; the gradient is that of the whole, without more work.
    None where the decoder cannot: under gradient checkpointing, and with attention that cannot be grouped.
    """
    if decoder.body.is_activation_checkpointing or not can_group(decoder):
        yield None
        return
    prefix = Prefix(decoder, prompt)
    with prefix.cut_off() as send_on:

        def score_part(completions: Completions, temperature: float, with_entropy: bool) -> Scores:
            hidden = _forked(decoder, prefix, completions)
            return _scores(decoder, hidden, completions, temperature, with_entropy)

        yield SharedPrompt(score_part, send_on)


def _scores(
    decoder: Decoder, hidden: Tensor, completions: Completions, temperature: float, with_entropy: bool
) -> Scores:
    """Scores from the hidden states that predict each token, `[N, H]`."""
    mask = completions.mask
    logprobs, entropy = _token_scores(decoder, hidden, completions.token_ids[mask], temperature, with_entropy)
    filled = torch.zeros(mask.shape, dtype=torch.float32, device=mask.device)
    return Scores(
        filled.masked_scatter(mask, logprobs),
        filled.masked_scatter(mask, entropy) if with_entropy else None,
    )


def _forked(decoder: Decoder, prefix: Prefix, completions: Completions) -> Tensor:
    """Hidden states that predict each token, `[N, H]`."""
    group_size = len(completions) // len(prefix.last)
    # On a GPU, kernels that never write the attention weights down save more memory than sharing keys and values does.
    forked = fork(decoder, prefix, group_size, grouped=prefix.attends.device.type == "cpu")
    first = prefix.last.repeat(group_size)
    positions = _following_positions(first, completions.token_ids.shape[1] - 1)
    rest = decoder.tokens(completions.token_ids[:, :-1], positions, first)
    return forked.finish(decoder, _side_by_side([first, rest]), completions.mask)


def _packed(decoder: Decoder, prompt: Prompt, completions: Completions) -> Tensor:
    """Hidden states that predict each token, `[N, H]`."""
    num_prompts, length = prompt.attention_mask.shape
    group_size, width = len(completions) // num_prompts, completions.token_ids.shape[1] - 1
    # Tokens that predict another one, `[B, G · width]`, and where they are: those of a row first, without gaps.
    wanted = completions.mask[:, 1:].reshape(num_prompts, group_size * width)
    longest = int(wanted.sum(dim=1).max())
    order = wanted.int().argsort(dim=1, descending=True, stable=True)[:, :longest]
    of_row = torch.arange(num_prompts, device=order.device)[:, None]
    wanted = wanted[of_row, order]
    token_ids = completions.token_ids[:, :-1].reshape(num_prompts, group_size * width)[of_row, order]
    positions = _following_positions(prompt, width)[of_row, order % max(width, 1)]
    row = _side_by_side([prompt, decoder.tokens(token_ids, positions, prompt)])
    mask = torch.cat([prompt.attention_mask, wanted.to(prompt.attention_mask.dtype)], dim=1)
    if group_size > 1 and longest:
        members = order.div(max(width, 1), rounding_mode="floor")
        embeddings = row.embeddings
        mask = _block_mask(mask, members, autocast_type(embeddings.device) or embeddings.dtype)
    hidden = decoder.hidden(
        inputs_embeds=row.embeddings, attention_mask=mask, position_ids=row.position_ids, extras=row.extras
    )
    first = hidden[:, length - 1].repeat_interleave(group_size, dim=0)
    is_first = completions.mask.nonzero()[:, 1] == 0
    ordered = hidden.new_empty(len(is_first), hidden.shape[-1])
    ordered[is_first], ordered[~is_first] = first[completions.mask[:, 0]], hidden[:, length:][wanted]
    return ordered


def _following_positions(prompt: Prompt, width: int) -> Tensor:
    """Positions of `width` tokens that follow the prompt: `[B, width]`, or `[B, width, 3]`."""
    last = prompt.position_ids[:, -1:]
    steps = torch.arange(1, width + 1, device=last.device)
    return last + steps.view(1, -1, *[1] * (last.dim() - 2))


def _side_by_side(parts: list[Prompt]) -> Prompt:
    """Positions of the same rows, joined."""
    return Prompt(
        torch.cat([part.embeddings for part in parts], dim=1),
        torch.cat([part.attention_mask for part in parts], dim=1),
        torch.cat([part.position_ids for part in parts], dim=1),
        {name: torch.cat([part.extras[name] for part in parts], dim=1) for name in parts[0].extras},
    )


def _block_mask(keys: Tensor, members: Tensor, dtype: torch.dtype) -> Tensor:
    """What to add to the attention scores of packed rows: `[B, 1, L, L]` with L = P + T.

    Args:
        keys: positions that may be seen at all, `[B, L]`, 1 = may.
        members: which completion of its prompt each of the T tokens after the prompt belongs to, `[B, T]`.
        dtype: that attention is computed in: float32's lowest number is -inf in a narrower one.
    """
    length = keys.shape[1] - members.shape[1]
    block = nn.functional.pad(members, (length, 0), value=-1)  # -1: the prompt
    same_or_prompt = (block[:, :, None] == block[:, None]) | (block[:, None] == -1)
    seen = same_or_prompt.tril() & keys[:, None].bool()
    # The lowest finite number, not -inf: a padded query that sees nothing must not become NaN.
    return torch.zeros(seen.shape, dtype=dtype, device=keys.device).masked_fill(~seen, torch.finfo(dtype).min)[:, None]


def _token_scores(
    decoder: Decoder, hidden: Tensor, token_ids: Tensor, temperature: float, with_entropy: bool
) -> tuple[Tensor, Tensor]:
    """Log-probability and entropy of each token, `[N]` each, from hidden states `[N, H]`.

    In chunks whose logits are recomputed in the backward pass, where they would not fit into one.
    """
    score_chunk = partial(_chunk_scores, decoder, temperature=temperature, with_entropy=with_entropy)
    size = max(chunk_elements(hidden.device.type) // decoder.config.vocab_size, 1)
    if len(hidden) <= size:
        return score_chunk(hidden, token_ids)
    if torch.is_grad_enabled():
        score_chunk = partial(checkpoint, score_chunk, use_reentrant=False)
    chunks = [score_chunk(h, ids) for h, ids in zip(hidden.split(size), token_ids.split(size), strict=True)]
    logprobs, entropies = zip(*chunks, strict=True)
    return torch.cat(logprobs), torch.cat(entropies)


def _chunk_scores(
    decoder: Decoder, hidden: Tensor, token_ids: Tensor, *, temperature: float, with_entropy: bool
) -> tuple[Tensor, Tensor]:
    logits = tempered(decoder.logits(hidden), temperature)
    entropy = _entropy(logits.detach()) if with_entropy else logits.new_zeros(len(logits))
    # Last, as it may overwrite the logits.
    return -decoder.cross_entropy(logits, token_ids), entropy


def _entropy(logits: Tensor) -> Tensor:
    log_p = logits.log_softmax(dim=-1)
    return -(log_p.exp() * log_p).sum(dim=-1)


@contextmanager
def _recomputing_layers(body: nn.Module) -> Iterator[None]:
    """Let transformers checkpoint its layers without turning dropout on: it looks at the layer's own mode only."""
    layers = [module for module in body.modules() if isinstance(module, GradientCheckpointingLayer)]
    modes = [layer.training for layer in layers]
    try:
        for layer in layers:
            layer.training = True
        yield
    finally:
        for layer, mode in zip(layers, modes, strict=True):
            layer.training = mode
