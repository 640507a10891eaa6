"""Sampling from and scoring with a Hugging Face causal LM, the prompt computed once per group of completions.

The prompt's key-value cache is computed once and repeated over its G completions: without gradient for sampling, inside
the autograd graph for scoring (sums over the group flow back into one prompt pass). Both equal the naive computation
of prompt + completion per row up to float error.

Shape legend: B prompts, G completions per prompt, P prompt positions, C completion tokens, V vocabulary.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import (
    DynamicCache,
    LogitsProcessorList,
    PreTrainedModel,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from lightning_modules.backbones.interface import Completions, Prompt, Sampling


def _axes_first(position_ids: Tensor) -> Tensor:
    """`[B, P]` as it is, `[B, P, 3]` as transformers takes it: `[3, B, P]`."""
    return position_ids if position_ids.dim() == 2 else position_ids.movedim(-1, 0)


def _prefill(language_model: PreTrainedModel, prompt: Prompt, group_size: int) -> tuple[Tensor, DynamicCache]:
    """Run the prompts once; return next-token logits `[B·G, V]` and the cache, both repeated over the group."""
    cache = DynamicCache(config=language_model.config)
    logits = language_model(
        inputs_embeds=prompt.embeddings,
        attention_mask=prompt.attention_mask,
        position_ids=_axes_first(prompt.position_ids),
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
        **prompt.extras,
    ).logits[:, -1]
    if group_size > 1:
        cache.batch_repeat_interleave(group_size)
        logits = logits.repeat_interleave(group_size, dim=0)
    return logits, cache


def _warpers(sampling: Sampling) -> LogitsProcessorList:
    warpers = LogitsProcessorList()
    if sampling.temperature not in (0, 1):
        warpers.append(TemperatureLogitsWarper(float(sampling.temperature)))
    if sampling.top_k:
        warpers.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        warpers.append(TopPLogitsWarper(sampling.top_p))
    return warpers


def _tempered(logits: Tensor, temperature: float) -> Tensor:
    """float32 logits of the distribution that log-probabilities refer to; greedy decoding (0) counts as 1."""
    logits = logits.float()
    return logits if temperature in (0, 1) else logits / temperature


@torch.no_grad()
def sample(
    language_model: PreTrainedModel,
    prompt: Prompt,
    num_return_sequences: int,
    sampling: Sampling,
    stop_token_ids: Sequence[int],
    pad_token_id: int,
) -> Completions:
    """Draw G completions per prompt; a sequence ends at the first stop token or at `max_new_tokens`.

    Returns:
        Completions with rows `b·G .. b·G+G-1` for prompt b.
    """
    warpers = _warpers(sampling)
    logits, cache = _prefill(language_model, prompt, num_return_sequences)
    attention_mask = prompt.attention_mask.repeat_interleave(num_return_sequences, dim=0)
    position_ids = prompt.position_ids[:, -1:].repeat_interleave(num_return_sequences, dim=0)
    stop = torch.tensor(list(stop_token_ids), device=logits.device)
    rows = logits.shape[0]
    running = torch.ones(rows, dtype=torch.bool, device=logits.device)
    tokens, masks, logprobs = [], [], []
    for step in range(sampling.max_new_tokens):
        if step:
            attention_mask = torch.cat([attention_mask, attention_mask.new_ones(rows, 1)], dim=1)
            position_ids = position_ids + 1
            logits = language_model(
                input_ids=tokens[-1][:, None],
                attention_mask=attention_mask,
                position_ids=_axes_first(position_ids),
                past_key_values=cache,
                use_cache=True,
            ).logits[:, -1]
        if sampling.temperature == 0:
            token = logits.argmax(dim=-1)
        else:
            # Warpers read only the scores; the ids are part of transformers' call signature.
            scores = warpers(torch.empty(rows, 0, dtype=torch.long, device=logits.device), logits.float())
            token = torch.multinomial(scores.softmax(dim=-1), 1)[:, 0]
        logprob = _tempered(logits, sampling.temperature).log_softmax(dim=-1).gather(1, token[:, None])[:, 0]
        tokens.append(torch.where(running, token, pad_token_id))
        masks.append(running)
        logprobs.append(torch.where(running, logprob, 0.0))
        running = running & ~torch.isin(token, stop)
        if not running.any():
            break
    return Completions(torch.stack(tokens, 1), torch.stack(masks, 1), torch.stack(logprobs, 1), ~running)


def score(
    language_model: PreTrainedModel, prompt: Prompt, completions: Completions, temperature: float = 1.0
) -> Tensor:
    """Log-probabilities of given completions, float32 `[B·G, C]`, 0 where masked out.

    Raises:
        ValueError: the number of completions is no multiple of the number of prompts.
    """
    if len(completions) % len(prompt):
        raise ValueError(
            f"Got {len(completions)} completions for {len(prompt)} prompts; expected the same number for each."
        )
    group_size = len(completions) // len(prompt)
    logits, cache = _prefill(language_model, prompt, group_size)
    logits = logits[:, None]
    if completions.token_ids.shape[1] > 1:
        steps = torch.arange(1, completions.token_ids.shape[1], device=logits.device)
        last_position = prompt.position_ids[:, -1:].repeat_interleave(group_size, dim=0)
        prompt_mask = prompt.attention_mask.repeat_interleave(group_size, dim=0)
        rest = language_model(
            input_ids=completions.token_ids[:, :-1],
            attention_mask=torch.cat([prompt_mask, completions.mask[:, :-1].to(prompt_mask.dtype)], dim=1),
            position_ids=_axes_first(last_position + steps.view(1, -1, *[1] * (last_position.dim() - 2))),
            past_key_values=cache,
            use_cache=True,
        ).logits
        logits = torch.cat([logits, rest], dim=1)
    # Cross-entropy is the fused log-softmax + gather.
    logprobs = -nn.functional.cross_entropy(
        _tempered(logits, temperature).flatten(0, 1), completions.token_ids.flatten(), reduction="none"
    ).view_as(completions.token_ids)
    return logprobs.masked_fill(~completions.mask, 0.0)
