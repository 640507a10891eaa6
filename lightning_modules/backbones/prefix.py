"""Prompts as their completions see them: keys and values of every layer, computed once.

Shape legend: B prompts, G completions per prompt, P prompt positions, D head size, A key-value heads, H hidden size.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, DynamicCache, PreTrainedModel

from lightning_modules.backbones.decoder import Decoder
from lightning_modules.backbones.interface import Prompt
from lightning_modules.backbones.patching import replaced

_NOTHING = "erv_nothing"
"""Name of an attention without any result in transformers' registry of attention functions."""


class Prefix:
    """All positions of B prompts but the last, which their completions begin with: it predicts the first token.

    So nobody reads what the decoder makes of these positions, beside the keys and values in each layer; and of the last
    layer nothing else is computed, where the decoder's modules have their usual names.

    Args:
        decoder: the language model.
        prompt: B prompts, padded on the left; of two positions or more.
    """

    def __init__(self, decoder: Decoder, prompt: Prompt) -> None:
        before, self.last = prompt.columns(0, -1), prompt.columns(-1, None)
        self.attends = before.attention_mask
        self.cache = DynamicCache(config=decoder.config)
        with _keys_and_values_only(decoder.body):
            decoder.hidden(
                inputs_embeds=before.embeddings,
                attention_mask=before.attention_mask,
                position_ids=before.position_ids,
                cache=self.cache,
                extras=before.extras,
            )

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


def _first_only(forward: Callable[[Tensor], Tensor], hidden: Tensor) -> Tensor:
    """The first position's result, as that of all: of the right shape and type, and next to free."""
    return forward(hidden[:, :1]).expand(-1, hidden.shape[1], -1)


@contextmanager
def _keys_and_values_only(body: PreTrainedModel) -> Iterator[None]:
    """Spare the last layer its queries, its attention, its output and its MLP: only its own output comes from them."""
    layer: nn.Module | None = body.layers[-1] if hasattr(body, "layers") else None
    names = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.down_proj")
    known = {name for name, _ in layer.named_modules()} if layer is not None else set()
    with ExitStack() as stack:
        if layer is not None and known.issuperset(names):
            for module in (layer.self_attn.q_proj, layer.self_attn.o_proj, layer.mlp):
                stack.enter_context(replaced(module, "forward", partial(_first_only, module.forward)))
            if body._supports_attention_backend:
                config = copy.copy(layer.self_attn.config)
                config._attn_implementation = _NOTHING
                stack.enter_context(replaced(layer.self_attn, "config", config))
        yield


def _no_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """Zeros `[N, S, heads, D]`, next to free, for queries `[N, heads, S, D]`."""
    return query.new_zeros(1).expand(query.transpose(1, 2).shape), None


AttentionInterface.register(_NOTHING, _no_attention)
