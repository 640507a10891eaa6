"""Sizes that memory and time follow from: of a language model, of a step, of numbers."""

from dataclasses import dataclass
from typing import Any, Literal, Self

Trained = Literal["weights", "adapters", "nothing"]
"""What the optimizer changes in the language model."""

_FLOAT32 = 4
_HALF = 2


@dataclass(frozen=True)
class DecoderShape:
    """A decoder-only language model with gated MLPs, as Qwen, Llama and Gemma are.

    Args:
        hidden: width of the residual stream, H.
        layers: L.
        heads: query heads per layer.
        queries: channels of all query heads of a layer, q.
        keys: channels of all key heads of a layer, k; values have as many.
        intermediate: width of the MLP, I.
        vocabulary: V.
    """

    hidden: int
    layers: int
    heads: int
    queries: int
    keys: int
    intermediate: int
    vocabulary: int

    @classmethod
    def of(cls, config: Any) -> Self:
        """Sizes in a configuration of transformers.

        Raises:
            ValueError: a mixture of experts, whose work and memory depend on the router, or recurrent layers.
        """
        if any(getattr(config, name, None) for name in ("num_experts", "num_local_experts", "n_routed_experts")):
            raise ValueError(f"{type(config).__name__} is a mixture of experts, for which there is no estimate.")
        if "linear_attention" in (getattr(config, "layer_types", None) or ()):
            raise ValueError(
                f"{type(config).__name__} has layers with a recurrent state, for which there is no estimate."
            )
        # Gemma 4's heads are wider in some layers than in others; their mean stands for them.
        widths = [
            getattr(layer, "head_dim", None) or config.hidden_size // config.num_attention_heads
            for layer in config.per_layer_config
        ]
        width = round(sum(widths) / len(widths))
        intermediate = config.intermediate_size
        return cls(
            hidden=config.hidden_size,
            layers=config.num_hidden_layers,
            heads=config.num_attention_heads,
            queries=config.num_attention_heads * width,
            keys=config.num_key_value_heads * width,
            # Gemma 3n says it for each layer.
            intermediate=intermediate if isinstance(intermediate, int) else max(intermediate),
            vocabulary=config.vocab_size,
        )

    @property
    def matrices(self) -> int:
        """Numbers in the matrices of all layers, N, without the head: biases and norms left out."""
        return self.layers * self.hidden * (2 * self.queries + 2 * self.keys + 3 * self.intermediate)

    @property
    def head(self) -> int:
        """Numbers in the head, V·H."""
        return self.vocabulary * self.hidden


@dataclass(frozen=True)
class Workload:
    """Prompts and completions of a step, or of the part of it that stands in memory at once.

    Args:
        prompts: B.
        group: completions of each prompt, G.
        prompt_positions: P, positions of a prompt: media tokens and text.
        new_tokens: C, tokens of a completion; the longest, for memory.
    """

    prompts: int
    group: int
    prompt_positions: int
    new_tokens: int

    @property
    def rows(self) -> int:
        """Completions, B·G."""
        return self.prompts * self.group


@dataclass(frozen=True)
class Numerics:
    """Bytes per number.

    Args:
        weight: of the backbone's weights in memory, of their gradients and of the residual stream.
        compute: of what linear layers and attention read and write.
        adapter: of LoRA's weights.
        autocast: whether operations cast what they take, and weights stay as they are.
        scales: whether gradients are scaled, so that AdamW's step is not fused.
    """

    weight: int
    compute: int
    adapter: int
    autocast: bool = False
    scales: bool = False

    @classmethod
    def of(cls, precision: str | int | None, dtype: str) -> Self:
        """What the Trainer's precision makes of weights that are loaded in a type.

        Args:
            precision: `trainer.precision`.
            dtype: the backbone's, "float32" or "bfloat16".

        Raises:
            ValueError: a precision that there is no estimate for.
        """
        import torch

        loaded = getattr(torch, dtype).itemsize
        short = {"None": "32-true", "32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}
        name = short.get(str(precision), precision)
        if name == "32-true":
            return cls(loaded, loaded, _FLOAT32)
        if name in ("bf16-mixed", "16-mixed"):
            return cls(loaded, _HALF, _FLOAT32, autocast=True, scales=name == "16-mixed")
        if name in ("bf16-true", "16-true"):
            return cls(_HALF, _HALF, _HALF)
        raise ValueError(
            f"trainer.precision is {precision!r}; there are estimates for 32-true, bf16-mixed, 16-mixed, bf16-true and "
            "16-true."
        )

    @property
    def casts_weights(self) -> bool:
        """Whether autocast makes copies of the weights: anew for each pass, as Lightning turns its cache off."""
        return self.compute < self.weight
