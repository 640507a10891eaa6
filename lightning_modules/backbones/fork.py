"""One prompt, many continuations: what a decoder remembers of the prompts while it runs their completions.

Two ways, equal up to float error:

- *grouped*: keys and values of a prompt exist once. The queries of all of its completions meet them in one matrix
  product, then meet those of their own completion, under one softmax (cascade attention, arXiv 2402.05099).
- *repeated*: keys and values of a prompt are repeated for each completion, which any decoder and any attention kernel
  can take, for instance one that never writes the attention weights down.

Shape legend: B prompts, G completions per prompt, N rows (completions that are still running), P prompt positions,
S new positions, T positions of a completion so far, H hidden size, D head size, A key-value heads, R query heads per
key-value head.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, DynamicCache

from lightning_modules.backbones.decoder import Decoder
from lightning_modules.backbones.interface import Prompt

_IMPLEMENTATION = "erv_grouped_prefix"
"""Name of the grouped attention in transformers' registry of attention functions."""


class Fork(ABC):
    """Completions that grow from shared prompts; row `b·G + g` is completion g of prompt b."""

    @abstractmethod
    def extend(self, decoder: Decoder, token_ids: Tensor, position_ids: Tensor) -> Tensor:
        """Hidden states `[N, S, H]` of the next tokens `[N, S]` of each row, which are remembered.

        Args:
            decoder: the decoder that ran the prompts.
            token_ids: int64 `[N, S]`; padding on the right is harmless, as nothing before it sees it.
            position_ids: `[N, S]`, or `[N, S, 3]`.
        """

    @abstractmethod
    def select(self, rows: Tensor) -> None:
        """Go on with some rows only, int64, in ascending order."""


def fork(decoder: Decoder, prompt: Prompt, group_size: int, grouped: bool) -> tuple[Tensor, Fork]:
    """Run the prompts once and let G completions grow from each.

    Args:
        decoder: the language model.
        prompt: B prompts.
        group_size: G.
        grouped: keep keys and values once per prompt, where the decoder can (`can_group`).

    Returns:
        Hidden states of the prompts' last positions, repeated over the group: `[B·G, H]`; and the fork.
    """
    cache = DynamicCache(config=decoder.config)
    hidden = decoder.hidden(
        inputs_embeds=prompt.embeddings,
        attention_mask=prompt.attention_mask,
        position_ids=prompt.position_ids,
        cache=cache,
        extras=prompt.extras,
    )[:, -1].repeat_interleave(group_size, dim=0)
    if grouped and can_group(decoder):
        return hidden, _GroupedFork(cache, prompt.attention_mask, group_size)
    return hidden, _RepeatedFork(cache, prompt.attention_mask, group_size)


def can_group(decoder: Decoder) -> bool:
    """True for a decoder whose layers all attend to everything before, through transformers' attention interface."""
    config = decoder.config
    windows = getattr(config, "sliding_window", None) is not None and not hasattr(config, "layer_types")
    full = all(kind == "full_attention" for kind in getattr(config, "layer_types", None) or [])
    capped = getattr(config, "attn_logit_softcapping", None) is not None
    return bool(decoder.body._supports_attention_backend) and full and not windows and not capped


class _RepeatedFork(Fork):
    def __init__(self, cache: DynamicCache, attention_mask: Tensor, group_size: int) -> None:
        if group_size > 1:
            cache.batch_repeat_interleave(group_size)
        self._cache = cache
        self._mask = attention_mask.repeat_interleave(group_size, dim=0)

    def extend(self, decoder: Decoder, token_ids: Tensor, position_ids: Tensor) -> Tensor:
        self._mask = torch.cat([self._mask, self._mask.new_ones(token_ids.shape)], dim=1)
        return decoder.hidden(
            input_ids=token_ids, attention_mask=self._mask, position_ids=position_ids, cache=self._cache
        )

    def select(self, rows: Tensor) -> None:
        self._cache.batch_select_indices(rows)
        self._mask = self._mask[rows]


class _GroupedFork(Fork):
    """Keys and values of prompts `[B, A, P, D]` per layer, and of the rows' own tokens in a cache of N rows."""

    def __init__(self, cache: DynamicCache, attention_mask: Tensor, group_size: int) -> None:
        self.layers = [(layer.keys, layer.values) for layer in cache.layers]
        self._attends = attention_mask.bool()
        self._cache = DynamicCache()
        self._prompt_of_row = torch.arange(len(attention_mask), device=attention_mask.device)
        self._prompt_of_row = self._prompt_of_row.repeat_interleave(group_size)
        self._arrange()

    def _arrange(self) -> None:
        """Give each row a slot beside the other rows of its prompt."""
        counts = self._prompt_of_row.bincount(minlength=len(self._attends))
        self.num_prompts, self.width = len(counts), int(counts.max())
        starts = counts.cumsum(0) - counts
        index = torch.arange(len(self._prompt_of_row), device=counts.device)
        self._slots = self._prompt_of_row * self.width + index - starts[self._prompt_of_row]
        self._full = len(self._slots) == self.num_prompts * self.width
        padded = not bool(self._attends.all())
        self.unseen = ~self._attends[:, None, None, None, None] if padded else None

    def spread(self, rows: Tensor) -> Tensor:
        """`[N, ...]` to `[B, W, ...]`, W slots per prompt; what no row fills is 0."""
        if not self._full:
            slots = rows.new_zeros(self.num_prompts * self.width, *rows.shape[1:])
            rows = slots.index_copy(0, self._slots, rows)
        return rows.unflatten(0, (self.num_prompts, self.width))

    def gather(self, slots: Tensor) -> Tensor:
        """`[B, W, ...]` back to `[N, ...]`."""
        rows = slots.flatten(0, 1)
        return rows if self._full else rows[self._slots]

    def extend(self, decoder: Decoder, token_ids: Tensor, position_ids: Tensor) -> Tensor:
        with _attention(decoder.body.config, _IMPLEMENTATION):
            return decoder.hidden(
                input_ids=token_ids, position_ids=position_ids, cache=self._cache, body_arguments={"fork": self}
            )

    def select(self, rows: Tensor) -> None:
        self._cache.batch_select_indices(rows)
        prompts, self._prompt_of_row = self._prompt_of_row[rows].unique(return_inverse=True)
        if len(prompts) < self.num_prompts:
            self.layers = [(keys[prompts], values[prompts]) for keys, values in self.layers]
            self._attends = self._attends[prompts]
        self._arrange()


@contextmanager
def _attention(config: Any, implementation: str) -> Iterator[None]:
    """Let a decoder attend in another way for a while."""
    before = config._attn_implementation
    config._attn_implementation = implementation
    try:
        yield
    finally:
        config._attn_implementation = before


def _grouped_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    fork: _GroupedFork,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention of new positions to the prompt of their row and to the row's own tokens.

    Args:
        module: the attention layer.
        query: `[N, A·R, S, D]`.
        key: of the row's own tokens, the new ones last: `[N, A, T, D]`.
        value: likewise.
        attention_mask: None: what may be seen follows from the fork.
        scaling: of the products.
        fork: the prompts.
        dropout: must be 0.
        kwargs: what else the layer says, none of which changes the result.

    Returns:
        `[N, S, A·R, D]`, and None in place of the weights.
    """
    assert not dropout, "sampling and scoring run without dropout"
    prompt_keys, prompt_values = fork.layers[module.layer_idx]
    num_positions, num_heads = query.shape[2], prompt_keys.shape[1]
    # Per prompt and key-value head, the queries of all its rows stand side by side: [B, A, W, R, S, D].
    grouped = fork.spread((query * scaling).unflatten(1, (num_heads, -1))).transpose(1, 2)
    slots = grouped.shape[2:5]
    to_prompt = (grouped.flatten(2, 4) @ prompt_keys.mT).unflatten(2, slots).float()
    own_keys, own_values = (fork.spread(tensor).transpose(1, 2) for tensor in (key, value))  # [B, A, W, T, D]
    to_own = (grouped.flatten(3, 4) @ own_keys.mT).unflatten(3, slots[1:]).float()
    if fork.unseen is not None:
        to_prompt = to_prompt.masked_fill(fork.unseen, -torch.inf)
    if num_positions > 1:
        later = torch.ones(num_positions, key.shape[2], dtype=torch.bool, device=key.device)
        to_own = to_own.masked_fill(later.triu(key.shape[2] - num_positions + 1), -torch.inf)
    # One softmax over both, without joining them: [B, A, W, R, S, P] is the largest tensor here.
    highest = torch.maximum(to_prompt.detach().amax(-1), to_own.detach().amax(-1))[..., None]
    to_prompt, to_own = (to_prompt - highest).exp(), (to_own - highest).exp()
    total = to_prompt.sum(-1, keepdim=True) + to_own.sum(-1, keepdim=True)
    from_prompt = (to_prompt.to(value.dtype).flatten(2, 4) @ prompt_values).unflatten(2, slots)
    from_own = (to_own.to(value.dtype).flatten(3, 4) @ own_values).unflatten(3, slots[1:])
    output = (from_prompt + from_own) / total.to(value.dtype)
    return fork.gather(output.transpose(1, 2)).flatten(1, 2).transpose(1, 2).contiguous(), None


AttentionInterface.register(_IMPLEMENTATION, _grouped_attention)
