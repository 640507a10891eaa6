"""One prompt, many continuations: what a decoder remembers of the prompts while it runs their completions.

Two ways, equal up to float error:

- *grouped*: keys and values of a prompt exist once, and all of its completions attend to them (`cascade.py`).
- *repeated*: keys and values of a prompt are repeated for each completion, which any decoder and any attention kernel
  can take; so are recurrent states, in decoders that have them.

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

from lightning_modules.backbones.cascade import cascade_attention
from lightning_modules.backbones.decoder import Decoder
from lightning_modules.backbones.interface import Prompt
from lightning_modules.backbones.prefix import Prefix, TypedCache

_IMPLEMENTATION = "erv_grouped_prefix"
"""Name of the grouped attention in transformers' registry of attention functions."""

_COMPACT_BELOW = 0.75
"""Share of running rows below which the ended ones are taken out."""


_DENSE = 0.9
"""Share of wanted positions above which to compute the others, too, takes less time than to take them out."""


class Fork(ABC):
    """Completions that grow from shared prompts; row `b·G + g` is completion g of prompt b.

    The first position of each row is the last of its prompt.
    """

    @abstractmethod
    def extend(self, decoder: Decoder, positions: Prompt) -> Tensor:
        """Hidden states `[N, S, H]` of the next positions of each row, which are remembered.

        Args:
            decoder: the decoder that ran the prompts.
            positions: N rows of S positions; padding on the right is harmless, as nothing before it sees it.
        """

    def finish(self, decoder: Decoder, positions: Prompt, wanted: Tensor) -> Tensor:
        """Hidden states `[M, H]` of the last positions of each row, those that are wanted, row by row.

        Args:
            decoder: the decoder that ran the prompts.
            positions: N rows of S positions.
            wanted: bool `[N, S]`, True M times; of each row the first ones.
        """
        return self.extend(decoder, positions)[wanted]

    @abstractmethod
    def shrink(self, running: Tensor) -> Tensor | None:
        """Take rows that have ended out of the batch, where that is worth it.

        Args:
            running: rows that go on, bool `[N]`; one at least.

        Returns:
            The rows that are left, int64, in ascending order: those that go on, and perhaps some that have ended. None
            where all are left.
        """


def fork(decoder: Decoder, prefix: Prefix, group_size: int, grouped: bool) -> Fork:
    """Let G completions grow from each prompt.

    Args:
        decoder: the language model.
        prefix: B prompts. One that the decoder cannot group serves one fork only.
        group_size: G.
        grouped: keep keys and values once per prompt, where the decoder can (`can_group`).
    """
    if not can_group(decoder):
        prompts = torch.arange(len(prefix.attends), device=prefix.attends.device)
        prefix.cache.reorder_cache(prompts.repeat_interleave(group_size))  # copies recurrent states, too
        return _RepeatedFork(prefix.cache, prefix.attends, group_size)
    if grouped:
        return _GroupedFork(prefix, group_size)
    cache = TypedCache(prefix.dtype)
    for index, (keys, values) in enumerate(prefix.layers):
        cache.update(keys.repeat_interleave(group_size, dim=0), values.repeat_interleave(group_size, dim=0), index)
    return _RepeatedFork(cache, prefix.attends, group_size)


def can_group(decoder: Decoder) -> bool:
    """True for a decoder whose layers all attend to everything before, through transformers' attention interface."""
    config = decoder.config
    windows = getattr(config, "sliding_window", None) is not None and not hasattr(config, "layer_types")
    capped = getattr(config, "attn_logit_softcapping", None) is not None
    return decoder.body.is_backend_compatible() and decoder.attends_to_all and not windows and not capped


class _RepeatedFork(Fork):
    def __init__(self, cache: DynamicCache, attention_mask: Tensor, group_size: int) -> None:
        self._cache = cache
        self._mask = attention_mask.repeat_interleave(group_size, dim=0)

    def extend(self, decoder: Decoder, positions: Prompt) -> Tensor:
        self._mask = torch.cat([self._mask, self._mask.new_ones(positions.embeddings.shape[:2])], dim=1)
        return decoder.hidden(
            inputs_embeds=positions.embeddings,
            attention_mask=self._mask,
            position_ids=positions.position_ids,
            cache=self._cache,
            extras=positions.extras,
        )

    def shrink(self, running: Tensor) -> Tensor | None:
        rows = _worth_keeping(running)
        if rows is not None:
            self._cache.reorder_cache(rows)
            self._mask = self._mask[rows]
        return rows


class _GroupedFork(Fork):
    """Keys and values of prompts `[B, A, P, D]` per layer, and of the rows' own positions in a cache of N rows."""

    def __init__(self, prefix: Prefix, group_size: int) -> None:
        self.layers = prefix.layers
        self._attends = prefix.attends.bool()
        self._cache = TypedCache(prefix.dtype)
        prompts = torch.arange(len(self._attends), device=self._attends.device)
        self._prompt_of_row = prompts.repeat_interleave(group_size)
        self.padding: _Padding | None = None
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
        self.unseen = ~self._attends if padded else None

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

    def extend(self, decoder: Decoder, positions: Prompt) -> Tensor:
        with attending(decoder.body.config, _IMPLEMENTATION):
            return decoder.hidden(
                inputs_embeds=positions.embeddings,
                position_ids=positions.position_ids,
                cache=self._cache,
                extras=positions.extras,
                body_arguments={"fork": self},
            )

    def finish(self, decoder: Decoder, positions: Prompt, wanted: Tensor) -> Tensor:
        """All but attention goes through the wanted positions only, side by side in one row."""
        if int(wanted.sum()) > _DENSE * wanted.numel():
            return super().finish(decoder, positions, wanted)
        self.padding = _Padding(wanted)
        return self.extend(decoder, positions.picked(wanted))[0]

    def shrink(self, running: Tensor) -> Tensor | None:
        rows = _worth_keeping(running)
        if rows is None:
            return None
        self._cache.batch_select_indices(rows)
        prompts, self._prompt_of_row = self._prompt_of_row[rows].unique(return_inverse=True)
        if len(prompts) < self.num_prompts:
            self.layers = [(keys[prompts], values[prompts]) for keys, values in self.layers]
            self._attends = self._attends[prompts]
        self._arrange()
        return rows


class _Padding:
    """Rows of different lengths, with padding and without it.

    Args:
        wanted: what is no padding, bool `[N, S]`, True M times.
    """

    def __init__(self, wanted: Tensor) -> None:
        self._shape = wanted.shape
        self._index = wanted.flatten().nonzero()[:, 0]

    def add(self, vectors: Tensor) -> Tensor:
        """`[1, A, M, D]` to `[N, A, S, D]`, with zeros."""
        vectors = vectors[0].transpose(0, 1)
        padded = vectors.new_zeros(self._shape.numel(), *vectors.shape[1:])
        return padded.index_copy(0, self._index, vectors).unflatten(0, self._shape).transpose(1, 2)

    def drop(self, padded: Tensor) -> Tensor:
        """`[N, A, S, D]` to `[1, A, M, D]`."""
        return padded.transpose(1, 2).flatten(0, 1).index_select(0, self._index).transpose(0, 1)[None]


def _worth_keeping(running: Tensor) -> Tensor | None:
    """Rows that go on, or None while they are most of all: dropping rows copies the cache of those that stay."""
    rows = running.nonzero()[:, 0]
    return rows if len(rows) < _COMPACT_BELOW * len(running) else None


@contextmanager
def attending(config: Any, implementation: str) -> Iterator[None]:
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
        query: `[N, A·R, S, D]`; while a fork is finished, this and what follows without padding, `[1, ..., M, D]`.
        key: of the row's own tokens, the new ones last: `[N, A, T, D]`.
        value: likewise.
        attention_mask: None: what may be seen follows from the fork.
        scaling: of the products.
        fork: the prompts.
        dropout: must be 0.
        kwargs: what else the layer says, none of which changes the result.

    Returns:
        `[N, S, A·R, D]`, or `[1, M, A·R, D]`, and None in place of the weights.
    """
    assert not dropout, "sampling and scoring run without dropout"
    prompt_keys, prompt_values = fork.layers[module.layer_idx]
    if fork.padding is not None:
        query, key, value = map(fork.padding.add, (query, key, value))
    # Under autocast, rotary positions may have left queries and keys in another type than values.
    query, key, prompt_keys = (tensor.to(value.dtype) for tensor in (query, key, prompt_keys))
    # Per prompt and key-value head, the queries of all its rows stand side by side: [B, A, W, R, S, D].
    queries = fork.spread((query * scaling).unflatten(1, (prompt_keys.shape[1], -1))).transpose(1, 2)
    own_keys, own_values = (fork.spread(tensor).transpose(1, 2) for tensor in (key, value))  # [B, A, W, T, D]
    output = cascade_attention(queries, prompt_keys, prompt_values, own_keys, own_values, fork.unseen)
    output = fork.gather(output.transpose(1, 2)).flatten(1, 2)
    if fork.padding is not None:
        output = fork.padding.drop(output)
    return output.transpose(1, 2).contiguous(), None


AttentionInterface.register(_IMPLEMENTATION, _grouped_attention)
