"""Bytes that stage 3 keeps on a device, by formula.

Activations are what autograd saves, counted operation by operation as in "Reducing Activation Recomputation in Large
Transformer Models" (arXiv 2205.05198, section 4), here for transformers' Qwen2 layers (RMSNorm, grouped queries, gated
MLP) in the layouts of lightning_modules/backbones/logprobs.py. Per position and layer, with H, q, k, I of the language
model, w bytes per weight and c bytes per number that is computed with:

    norms          2·H·(4 + w)     inputs in float32, and what is multiplied by a trained weight
    attention      c·(2·q + 2·k) + 4·heads
    gated MLP      3·c·I
    linear inputs  c·(2·H + I)     c·(5·H + I) where autocast casts the input of each linear layer by itself

Shape legend: B prompts, G completions per prompt, P prompt positions, C completion tokens, V vocabulary.
"""

from dataclasses import dataclass
from typing import Literal

from tools.estimate.shapes import DecoderShape, Numerics, Trained, Workload

Layout = Literal["grouped", "repeated", "packed"]
"""How completions are scored with gradient: a prompt's keys once for its group (CPU), repeated for each completion
(GPU), or all in one row (gradient checkpointing)."""

_FLOAT32 = 4
_LOGIT_COPIES = 5
"""float32 tensors of a chunk of logits: themselves, the loss's log-softmax, and log p, p and p·log p of the entropy."""

_SAMPLING_COPIES = 8
"""float32 tensors of the next token's logits: themselves, scaled, their softmax, their log-softmax; and two of twice
the width, from which the running sums are made."""

_RECORD_BYTES = 400
"""What a checkpoint spends on a tensor beside its numbers: names, headers and alignment."""


@dataclass(frozen=True)
class Cache:
    """Keys and values, in bytes: of the prompts, and of what grows behind them."""

    prompts: int
    completions: int


def cache_bytes(decoder: DecoderShape, width: int, load: Workload, shared: bool = True) -> Cache:
    """Keys and values at the end of sampling.

    The last position of a prompt counts as the first of its completions, and the last token of a completion is never
    run. Windows of attention are not taken into account: what a layer forgets is counted.

    Args:
        decoder: the language model.
        width: bytes per number: `Numerics.compute` in sampling. In scoring `Numerics.weight`: under autocast, rotary
            positions put keys into the type of the weights, and the cache the values.
        load: what is sampled or scored at once.
        shared: a prompt's keys and values exist once, and not for each completion.
    """
    per_position = decoder.layers * 2 * decoder.keys * width
    prompts = load.prompts if shared else load.rows
    return Cache(per_position * prompts * (load.prompt_positions - 1), per_position * load.rows * load.new_tokens)


def cast_bytes(decoder: DecoderShape, numerics: Numerics, layout: Layout) -> dict[str, float]:
    """Copies that autocast makes of the language model's weights, by phase.

    One serves a whole rollout. An update keeps those of two passes, over the prompts and over the completions, for its
    backward pass, or those of one layer where layers are recomputed; beside the head's.
    """
    if not numerics.casts_weights:
        return {}
    passes = 1 / decoder.layers if layout == "packed" else 2
    return {
        "sampling": numerics.compute * (decoder.matrices + decoder.head),
        "update": numerics.compute * (passes * decoder.matrices + decoder.head),
    }


def sampling_logits_bytes(decoder: DecoderShape, numerics: Numerics, rows: int) -> int:
    """What drawing the next token of so many rows takes."""
    return rows * decoder.vocabulary * (numerics.compute + _SAMPLING_COPIES * _FLOAT32)


def layer_bytes(decoder: DecoderShape, numerics: Numerics, trained: Trained, keys: int | None = None) -> int:
    """What autograd saves of a layer per position; formulas at the top of this file.

    Args:
        decoder: the language model.
        numerics: bytes per number.
        trained: what of the layer is trained.
        keys: channels of the keys that attention saves per position; None: those of the key heads.
    """
    keys = decoder.keys if keys is None else keys
    norms = 2 * decoder.hidden * (_FLOAT32 + (numerics.weight if trained == "weights" else 0))
    attention = numerics.compute * (2 * decoder.queries + 2 * keys) + _FLOAT32 * decoder.heads
    mlp = 3 * numerics.compute * decoder.intermediate
    return norms + attention + mlp + _linear_input_bytes(decoder, numerics, trained)


def _linear_input_bytes(decoder: DecoderShape, numerics: Numerics, trained: Trained) -> int:
    """Inputs of a layer's linear layers per position, beside the output of attention, which is saved already."""
    hidden, inner = decoder.hidden, decoder.intermediate
    if trained == "nothing":
        return 0
    if trained == "adapters" and numerics.adapter != numerics.compute:
        width = numerics.compute if numerics.autocast else numerics.adapter
        return width * (5 * hidden + decoder.queries + inner)  # each adapter casts its input by itself
    return numerics.compute * ((5 if numerics.casts_weights else 2) * hidden + inner)


@dataclass(frozen=True)
class Activations:
    """What an update keeps for its backward pass, in bytes.

    Args:
        prompts: of the prompts, run once.
        completions: of the completions that are scored at once; in the layout "packed", of all.
        layer: of the one layer that is computed again, and the mask; in the layout "packed" only.
    """

    prompts: int
    completions: int
    layer: int

    @property
    def total(self) -> int:
        """All together."""
        return self.prompts + self.completions + self.layer


def activation_bytes(
    decoder: DecoderShape, numerics: Numerics, trained: Trained, load: Workload, layout: Layout
) -> Activations:
    """Activations of the language model's layers in one backward pass.

    Args:
        decoder: the language model.
        numerics: bytes per number.
        trained: what of the language model is trained.
        load: prompts and completions of each that are sent backward at once.
        layout: how they are scored.
    """
    weight, compute, layers = numerics.weight, numerics.compute, decoder.layers
    norm = decoder.hidden * (_FLOAT32 + (weight if trained == "weights" else 0))
    if layout == "packed":
        length = load.prompt_positions + load.group * (load.new_tokens - 1)
        positions = load.prompts * length
        mask = load.prompts * length**2 * compute
        inner = positions * layer_bytes(decoder, numerics, trained, decoder.queries)
        return Activations(0, positions * (layers * decoder.hidden * weight + norm), inner + mask)
    before, own = load.prompt_positions - 1, load.new_tokens
    # Of the last layer, prompts need keys and values only.
    inputs = _linear_input_bytes(decoder, numerics, trained) - compute * decoder.intermediate * (trained != "nothing")
    last = norm + inputs // 2 + 2 * compute * decoder.keys
    prompts = load.prompts * before * ((layers - 1) * layer_bytes(decoder, numerics, trained) + last)
    if layout == "grouped":
        per_layer = layer_bytes(decoder, numerics, trained)
        # Attention is computed in the cache's type, and its output is put in order and cast.
        per_layer += (weight - compute) * (2 * decoder.queries + 2 * decoder.keys)
        per_layer += compute * decoder.queries
        rows = own * layers * per_layer
    else:
        # Attention under a mask takes keys and values of as many heads as queries.
        rows = own * layers * layer_bytes(decoder, numerics, trained, keys=0)
        rows += (before + own) * layers * 2 * compute * decoder.queries
    return Activations(prompts, load.rows * (rows + own * norm), 0)


def logits_bytes(
    decoder: DecoderShape, numerics: Numerics, num_tokens: int, chunk_elements: int, trains_head: bool
) -> int:
    """What turning hidden states into log-probabilities takes, backward pass included.

    Args:
        decoder: the language model.
        numerics: bytes per number.
        num_tokens: tokens that are scored at once.
        chunk_elements: logits that stand in memory at once, at most.
        trains_head: a chunk's gradient of the head stands beside that of the chunks before it.
    """
    rows = min(num_tokens, max(chunk_elements // decoder.vocabulary, 1))
    chunk = rows * decoder.vocabulary * (numerics.compute + _LOGIT_COPIES * _FLOAT32)
    return chunk + num_tokens * decoder.hidden * numerics.weight + trains_head * decoder.head * numerics.weight


def tower_bytes(positions: int, hidden: int, intermediate: int, num_states: int, width: int) -> int:
    """What a frozen tower needs while it runs: its hidden states, and the inside of one MLP.

    Args:
        positions: of all clips of a batch.
        hidden: width of the tower.
        intermediate: width of its MLPs.
        num_states: hidden states that are alive together: 2, or all of them where an inner one is read.
        width: bytes per number.
    """
    return positions * width * (num_states * hidden + 2 * intermediate)


def checkpoint_bytes(weights: int, moments: int, num_tensors: int) -> int:
    """Size of a checkpoint file: what is trained, with the optimizer's state.

    Args:
        weights: bytes of the trained weights, under any strategy whole.
        moments: bytes of the optimizer's state, likewise.
        num_tensors: trained tensors, each with two moments.
    """
    return weights + moments + 3 * num_tensors * _RECORD_BYTES
