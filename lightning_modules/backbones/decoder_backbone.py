"""What every backbone with a transformers decoder has: sampling, scoring, adapters, recomputation, a reference."""

import copy
from abc import abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Self

import torch
from torch import nn
from transformers import PreTrainedModel

from lightning_modules.backbones import generation, logprobs
from lightning_modules.backbones.adapters import (
    LoRA,
    adapter_parameters,
    add_adapters,
    drop_fresh_adapters,
    save_adapters,
)
from lightning_modules.backbones.cpu_linear import use_onednn
from lightning_modules.backbones.decoder import Decoder
from lightning_modules.backbones.interface import (
    Backbone,
    Completions,
    Prompt,
    Sampling,
    Scores,
    SharedPrompt,
    Watch,
)
from lightning_modules.backbones.precision import cast_once
from lightning_modules.backbones.token_cross_entropy import (
    TokenCrossEntropy,
    liger_cross_entropy,
    token_cross_entropy,
)

LANGUAGE_MODEL = "language_model"
"""Name of the part that the decoder stands in."""


class DecoderBackbone(Backbone):
    """A backbone whose text comes from a `Decoder`; its part `language_model` holds the decoder's body and head.

    A subclass calls `_adapt` at the end of its constructor.
    """

    lora: LoRA | None = None
    _cross_entropy: TokenCrossEntropy = staticmethod(token_cross_entropy)

    @property
    @abstractmethod
    def decoder(self) -> Decoder:
        """The language model, as sampling and scoring see it."""

    @property
    @abstractmethod
    def pretrained(self) -> PreTrainedModel:
        """The model of transformers whose decoder it is."""

    @property
    def stop_token_ids(self) -> list[int]:
        """End of turn and end of text: either ends a completion (decision 28)."""
        return sorted({self.tokenizer.eos_token_id, self.tokenizer.pad_token_id})

    def _adapt(self, lora: LoRA | None, gradient_checkpointing: bool) -> None:
        """Add adapters, switch recomputation on, choose how linear layers compute, and see that there is padding.

        Args:
            lora: adapters to train in place of the language model's weights, or None.
            gradient_checkpointing: keep each layer's input only and recompute the rest in the backward pass.
        """
        self.lora = lora
        if lora is not None:
            add_adapters(self.decoder.body, lora)
        if gradient_checkpointing:
            self.decoder.body.activation_checkpointing_enable({"use_reentrant": False})
        use_onednn(self)
        if self.tokenizer.pad_token is None:  # Llama 3's, for one; what is padded is masked
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.eval()

    def set_trainable(self, names: Sequence[str]) -> None:
        super().set_trainable(names)
        if self.lora is not None and LANGUAGE_MODEL in names:
            self.parts[LANGUAGE_MODEL].requires_grad_(False)
            for parameter in adapter_parameters(self.parts[LANGUAGE_MODEL]):
                parameter.requires_grad_(True)

    def save_adapters(self, directory: Path) -> bool:
        if self.lora is None:
            return False
        save_adapters(self.pretrained, self.lora, directory)
        return True

    def generate(
        self, prompt: Prompt, num_return_sequences: int, sampling: Sampling, watch: Watch | None = None
    ) -> Completions:
        decoder, stop, pad = self.decoder, self.stop_token_ids, self.tokenizer.pad_token_id
        with cast_once([decoder.body, decoder.head], prompt.embeddings.device):
            return generation.sample(decoder, prompt, num_return_sequences, sampling, stop, pad, watch)

    def score(
        self, prompt: Prompt, completions: Completions, temperature: float = 1.0, with_entropy: bool = False
    ) -> Scores:
        return logprobs.score(self._scoring_decoder, prompt, completions, temperature, with_entropy)

    def score_in_parts(self, prompt: Prompt) -> AbstractContextManager[SharedPrompt | None]:
        return logprobs.score_in_parts(self._scoring_decoder, prompt)

    def use_liger_kernel(self) -> None:
        self._cross_entropy = liger_cross_entropy()

    @property
    def _scoring_decoder(self) -> Decoder:
        return replace(self.decoder, cross_entropy=self._cross_entropy)

    def reference(self, empty: bool = False) -> Self:
        # Whatever is frozen stands in the memo, so that deepcopy shares it: of an adapted model, all but the adapters.
        memo: dict[int, object] = {id(p): p for p in self.parameters() if not p.requires_grad}
        if empty:
            adapters = set(adapter_parameters(self))  # small, and dropped by their values
            trained = [p for p in self.parameters() if p.requires_grad and p not in adapters]
            memo |= {id(p): nn.Parameter(torch.empty_like(p, device="meta"), requires_grad=False) for p in trained}
        reference = copy.deepcopy(self, memo={**memo, id(self.tokenizer): self.tokenizer})
        drop_fresh_adapters(reference.parts[LANGUAGE_MODEL])
        return reference.requires_grad_(False).eval()


def end_tokens(model: PreTrainedModel) -> set[int]:
    """Tokens that end a turn of a published model, which may not be its tokenizer's one end of a sequence (Gemma 3)."""
    ids = model.generation_config.eos_token_id
    return set() if ids is None else {ids} if isinstance(ids, int) else set(ids)


def as_part(decoder: Decoder) -> nn.Module:
    """Body and head of a decoder as one part, for a model that has no module of its own for them."""
    return nn.ModuleList([decoder.body, decoder.head])
