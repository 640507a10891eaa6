"""Completions that grow token by token in memory of a fixed size, so that each step is the same program.

A step of eager decoding is hundreds of small operations, each of which has to be started. Here nothing but the contents
of tensors differs between steps, so that torch.compile can fuse the operations, and a CUDA graph can start all
of them at once. What a decoder remembers of the prompts stands there once per group, as in `fork.py`.

Shape legend: B prompts, W completions per prompt that are in the batch, N = B·W rows, P prompt positions, T tokens that
there is room for, H hidden size, D head size, A key-value heads, R query heads per key-value head.
"""

from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, Cache

from lightning_modules.backbones.decoder import Decoder
from lightning_modules.backbones.fork import Fork, attending, can_group
from lightning_modules.backbones.interface import Prompt
from lightning_modules.backbones.prefix import Prefix

_IMPLEMENTATION = "erv_static_prefix"
"""Name of the attention in transformers' registry of attention functions."""

ROOM = 120
"""Tokens by which the memory grows: each growth is another program to capture, and free room costs a little time."""

_FEW = 2
"""Prompts, and completions of each, that stay in any case: one alone is special to torch.compile."""

_HALF = 0.5
"""Share of the batch below which ended completions are taken out: each size is another program to capture."""


class StaticFork(Fork):
    """G completions per prompt; row `b·W + w` is slot w of prompt b.

    Completions leave in such a way that each prompt keeps the same number: some that have ended stay as companions.

    Args:
        decoder: the language model.
        prefix: B prompts.
        group_size: G.

    Raises:
        ValueError: a decoder whose attention cannot be grouped.
    """

    def __init__(self, decoder: Decoder, prefix: Prefix, group_size: int) -> None:
        if not can_group(decoder):
            raise ValueError(
                f"{type(decoder.body).__name__} has sliding windows or an attention of its own, which compiled "
                "sampling does not know. Set `compiled: false` in the sampling settings."
            )
        # Contiguous, since torch.compile makes another program for other strides.
        self._prompts = [(keys.contiguous(), values.contiguous()) for keys, values in prefix.layers]
        unseen = ~prefix.attends.bool()[:, None, None]
        self._prompt_bias = torch.zeros(unseen.shape, device=unseen.device).masked_fill_(unseen, -torch.inf)
        self._num_slots = group_size
        self._own = _SlotCache([(_room(keys, group_size), _room(values, group_size)) for keys, values in self._prompts])
        self._program: Callable[..., Tensor] | None = None

    def extend(self, decoder: Decoder, positions: Prompt) -> Tensor:
        assert positions.embeddings.shape[1] == 1, "compiled sampling goes token by token"
        if self._own.is_full:
            self._own.grow()
            self._program = None
        # Copies, since torch.compile makes another program for tensors that are views.
        extras = {name: tensor.clone() for name, tensor in positions.extras.items()}
        inputs = (positions.embeddings.clone(), positions.position_ids.clone(), extras)
        if self._program is None:
            self._program = self._make_program(decoder, *inputs)
        hidden = self._program(*inputs)
        self._own.advance()
        return hidden

    def shrink(self, running: Tensor) -> Tensor | None:
        counts = running.view(-1, self._num_slots).sum(dim=1)
        num_prompts = max(int(counts.count_nonzero()), min(_FEW, len(counts)))
        num_slots = max(int(counts.max()), min(_FEW, self._num_slots))
        prompts = counts.topk(num_prompts).indices.sort().values
        if len(prompts) * num_slots > _HALF * len(running):
            return None
        # Of each prompt that goes on, the slots that run, then as many ended ones as make it `num_slots`.
        order = running.view(-1, self._num_slots)[prompts].int().argsort(dim=1, descending=True, stable=True)
        slots = order[:, :num_slots].sort(dim=1).values
        self._prompts = [(keys[prompts], values[prompts]) for keys, values in self._prompts]
        self._prompt_bias = self._prompt_bias[prompts]
        self._own.layers_of_slots = [
            tuple(tensor[prompts[:, None], slots] for tensor in pair) for pair in self._own.layers_of_slots
        ]
        kept = (prompts[:, None] * self._num_slots + slots).flatten()
        self._num_slots, self._program = num_slots, None
        return kept

    def _make_program(self, decoder: Decoder, *inputs: Any) -> Callable[..., Tensor]:
        def program(embeddings: Tensor, position_ids: Tensor, extras: dict[str, Tensor]) -> Tensor:
            with attending(decoder.body.config, _IMPLEMENTATION):
                return _compiled_step(
                    decoder, embeddings, position_ids, extras, self._own, self._prompts, self._prompt_bias
                )

        embeddings, position_ids, extras = inputs
        _vary([embeddings, position_ids, *extras.values()], (0,))
        _vary([self._prompt_bias], (0, 3))
        _vary(chain(*self._prompts), (0, 2))
        _vary(chain(*self._own.layers_of_slots), (0, 1, 3))
        return _Captured(program, *inputs) if embeddings.is_cuda else program


class _SlotCache(Cache):
    """Keys and values of the completions' own tokens, `[B, W, A, T, D]` per layer, of which some are written.

    Args:
        layers: the memory, layer by layer.
    """

    def __init__(self, layers: list[tuple[Tensor, Tensor]]) -> None:
        super().__init__(layers=[])
        self.layers_of_slots = layers
        self.position = torch.zeros(1, dtype=torch.long, device=layers[0][0].device)
        self._num_written = 0

    @property
    def is_full(self) -> bool:
        """Whether there is no room for another token."""
        return self._num_written == self.layers_of_slots[0][0].shape[3]

    def grow(self) -> None:
        """Make room for more, layer by layer, so that not all of it stands there twice."""
        for layer, pair in enumerate(self.layers_of_slots):
            self.layers_of_slots[layer] = tuple(map(_grown, pair))

    def advance(self) -> None:
        """Another token has been written. Its position is a tensor, since a CUDA graph has no other numbers."""
        self._num_written += 1
        self.position += 1

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        keys, values = self.layers_of_slots[layer_idx]
        keys.index_copy_(3, self.position, key_states.to(keys.dtype).view(*keys.shape[:3], 1, -1))
        values.index_copy_(3, self.position, value_states.to(values.dtype).view(*values.shape[:3], 1, -1))
        return keys, values

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0  # positions are given

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
        return query_length, 0  # what may be seen follows from `position`


def _vary(tensors: Iterable[Tensor], dims: tuple[int, ...]) -> None:
    """Let one program serve other sizes of these dimensions; nothing else of a program varies.

    A size of 1 still is a program of its own, and two sizes that are equal at first are held for one.
    """
    for tensor in tensors:
        torch._dynamo.maybe_mark_dynamic(tensor, dims)


def _room(of_prompt: Tensor, num_slots: int) -> Tensor:
    """Memory for the first tokens of the completions of prompts `[B, A, P, D]`."""
    batch, heads, _, size = of_prompt.shape
    return of_prompt.new_zeros(batch, num_slots, heads, ROOM, size)


def _grown(memory: Tensor) -> Tensor:
    return torch.cat([memory, torch.zeros_like(memory[:, :, :, :ROOM])], dim=3)


class _Captured:
    """A program as a CUDA graph: its inputs are copied to where they were at its capture, and all of it is one launch.

    Args:
        program: reads and writes tensors that stay where they are, and does not wait for the GPU.
        embeddings: `[N, 1, H]`; this and what follows becomes the graph's own.
        position_ids: `[N, 1]`, or `[N, 1, 3]`.
        extras: further inputs by their names.
    """

    def __init__(
        self, program: Callable[..., Tensor], embeddings: Tensor, position_ids: Tensor, extras: dict[str, Tensor]
    ) -> None:
        self._inputs = (embeddings, position_ids, *extras.values())
        # Compiles, and lets libraries allocate what they keep; on a stream of its own, as a capture demands. It writes
        # what the first replay will write again.
        aside, current = torch.cuda.Stream(), torch.cuda.current_stream()
        aside.wait_stream(current)
        with torch.cuda.stream(aside):
            program(embeddings, position_ids, extras)
        current.wait_stream(aside)
        self._graph = torch.cuda.CUDAGraph()
        # By default a call of another thread that a capture does not allow would end it, and the loader's thread pins
        # memory whenever a batch is ready.
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self._output = program(embeddings, position_ids, extras)

    def __call__(self, embeddings: Tensor, position_ids: Tensor, extras: dict[str, Tensor]) -> Tensor:
        for held, given in zip(self._inputs, (embeddings, position_ids, *extras.values()), strict=True):
            held.copy_(given)
        self._graph.replay()
        return self._output


def _step(
    decoder: Decoder,
    embeddings: Tensor,
    position_ids: Tensor,
    extras: dict[str, Tensor],
    own: _SlotCache,
    prompts: list[tuple[Tensor, Tensor]],
    prompt_bias: Tensor,
) -> Tensor:
    """Hidden states `[N, 1, H]` of one more token of each row."""
    return decoder.hidden(
        inputs_embeds=embeddings,
        position_ids=position_ids,
        cache=own,
        extras=extras,
        body_arguments={"prompts": prompts, "prompt_bias": prompt_bias, "position": own.position},
    )


# Training and evaluation (inference mode), one prompt or many, one completion or many: maybe more programs than
# the 8 that are allowed by default, after which a whole graph is refused and the run would end.
_compiled_step = torch.compile(_step, dynamic=False, fullgraph=True, recompile_limit=64)


def _static_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    prompts: list[tuple[Tensor, Tensor]],
    prompt_bias: Tensor,
    position: Tensor,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention of one new token per row to the row's prompt and to the row's own tokens.

    Args:
        module: the attention layer.
        query: `[N, A·R, 1, D]`.
        key: of the row's own tokens, with room for more: `[B, W, A, T, D]`.
        value: likewise.
        attention_mask: None: what may be seen follows from the arguments below.
        scaling: of the products.
        prompts: keys and values `[B, A, P, D]` of each layer.
        prompt_bias: 0 where a prompt may be seen, else -inf: `[B, 1, 1, P]`.
        position: index of the new token among the row's own, int64 `[1]`.
        dropout: must be 0.
        kwargs: what else the layer says, none of which changes the result.

    Returns:
        `[N, 1, A·R, D]`, and None in place of the weights.
    """
    assert not dropout, "sampling runs without dropout"
    # The memory's numbers are what attention is computed with, also under autocast, as in `cascade.py`.
    with torch.autocast(query.device.type, enabled=False):
        return _attend(query * scaling, *prompts[module.layer_idx], prompt_bias, key, value, position), None


def _attend(
    query: Tensor,
    prompt_keys: Tensor,
    prompt_values: Tensor,
    prompt_bias: Tensor,
    key: Tensor,
    value: Tensor,
    position: Tensor,
) -> Tensor:
    (batch, width, heads, room, size), dtype = key.shape, value.dtype
    repeats = query.shape[1] // heads
    queries = query.to(dtype).view(batch, width, heads, repeats, size)
    # All rows of a prompt meet it side by side: [B, A, W·R, P]; each row meets its own tokens: [B, W, A, R, T].
    of_prompt = (queries.transpose(1, 2).flatten(2, 3) @ prompt_keys.to(dtype).mT).float() + prompt_bias
    of_own = (queries @ key.to(dtype).mT).float()
    of_own = of_own.masked_fill(torch.arange(room, device=position.device) > position, -torch.inf)
    of_prompt = of_prompt.view(batch, heads, width, repeats, -1).transpose(1, 2)  # [B, W, A, R, P]
    highest = torch.maximum(of_prompt.amax(dim=-1, keepdim=True), of_own.amax(dim=-1, keepdim=True))
    of_prompt, of_own = (of_prompt - highest).exp(), (of_own - highest).exp()
    total = of_prompt.sum(dim=-1, keepdim=True) + of_own.sum(dim=-1, keepdim=True)
    of_prompt, of_own = (of_prompt / total).to(dtype), (of_own / total).to(dtype)
    from_prompt = of_prompt.transpose(1, 2).flatten(2, 3) @ prompt_values
    output = from_prompt.view(batch, heads, width, repeats, size).transpose(1, 2) + of_own @ value
    return output.reshape(batch * width, 1, heads * repeats, size)


AttentionInterface.register(_IMPLEMENTATION, _static_attention)
