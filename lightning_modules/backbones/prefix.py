"""Prompts as their completions see them: keys and values of every layer, computed once.

Shape legend: B prompts, G completions per prompt, P prompt positions, D head size, A key-value heads, H hidden size.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from lightning_modules.backbones.decoder import Decoder
from lightning_modules.backbones.interface import Prompt


class Prefix:
    """All positions of B prompts but the last, which their completions begin with: it predicts the first token.

    So only the keys and values of these positions are read: the pass over them ends when the last layer has written its
    own.

    Args:
        decoder: the language model.
        prompt: B prompts, padded on the left; of two positions or more.
        dtype: of the keys and values, and of those that follow; None: as the decoder makes them.
    """

    def __init__(self, decoder: Decoder, prompt: Prompt, dtype: torch.dtype | None = None) -> None:
        before, self.last = prompt.columns(0, -1), prompt.columns(-1, None)
        self.attends = before.attention_mask
        self.dtype = dtype
        self.cache = _PromptCache(dtype, config=decoder.config)
        with suppress(_Done):
            decoder.hidden(
                inputs_embeds=before.embeddings,
                attention_mask=before.attention_mask,
                position_ids=before.position_ids,
                cache=self.cache,
                extras=before.extras,
            )
        self.cache.is_filled = True

    @property
    def layers(self) -> list[tuple[Tensor, Tensor]]:
        """Keys and values of each layer, `[B, A, P - 1, D]`."""
        return [(layer.keys, layer.values) for layer in self.cache.layers]

    @contextmanager
    def cut_off(self) -> Iterator[Callable[..., None]]:
        """Cut the prompts off from what comes after them; yields a function that sends its gradients on into them.

        While the block runs, completions can be scored and sent backward part by part: each part's graph ends at the
        prompts, and is gone before the next one is made. The function takes scalars to go backward from as well.
        """
        layers, last = self.cache.layers, self.last
        whole = [tensor for layer in layers for tensor in (layer.keys, layer.values)]
        whole += [last.embeddings, *last.extras.values()]
        leaves = [tensor.detach().requires_grad_(tensor.requires_grad) for tensor in whole]
        for layer, keys, values in zip(layers, leaves[0::2], leaves[1::2], strict=False):
            layer.keys, layer.values = keys, values
        embeddings, *extras = leaves[2 * len(layers) :]
        self.last = Prompt(
            embeddings, last.attention_mask, last.position_ids, dict(zip(last.extras, extras, strict=True))
        )

        def send_on(*scalars: Tensor) -> None:
            reached = [(t, leaf.grad) for t, leaf in zip(whole, leaves, strict=True) if leaf.grad is not None]
            roots = [*reached, *((scalar, None) for scalar in scalars)]
            if roots:
                torch.autograd.backward(*zip(*roots, strict=True))

        yield send_on


class _Done(Exception):
    """The last layer's keys and values are there."""


class TypedCache(DynamicCache):
    """Keys and values in a type of their own; None: as they come."""

    def __init__(self, dtype: torch.dtype | None, **options: Any) -> None:
        super().__init__(**options)
        self.dtype = dtype

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        if self.dtype is not None:
            key_states, value_states = key_states.to(self.dtype), value_states.to(self.dtype)
        return super().update(key_states, value_states, layer_idx, *args, **kwargs)


class _PromptCache(TypedCache):
    """Ends the pass that fills it once the last layer with keys of its own has written; later ones go to their end."""

    is_filled = False

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        written = super().update(key_states, value_states, layer_idx, *args, **kwargs)
        if not self.is_filled and all(self.is_dummy[layer_idx + 1 :]):
            raise _Done
        return written
