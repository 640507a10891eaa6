"""A language model as sampling and scoring see it: a body that makes hidden states, and a head that makes logits.

They are apart so that logits are computed only where they are needed, whatever multimodal model holds the two.

Shape legend: N rows, S positions, H hidden size, V vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from transformers import Cache, PreTrainedModel

from lightning_modules.backbones.interface import Prompt
from lightning_modules.backbones.token_cross_entropy import TokenCrossEntropy, token_cross_entropy


def _as_they_are(extras: dict[str, Tensor]) -> dict[str, Any]:
    return extras


def _none(token_ids: Tensor) -> dict[str, Tensor]:
    return {}


@dataclass(frozen=True)
class Decoder:
    """The body and head of a transformers model.

    Args:
        body: the text model: embeddings or token ids to `last_hidden_state`.
        head: hidden states to logits, `[..., H]` to `[..., V]`.
        softcap: logits are squashed to `softcap · tanh(logits / softcap)` (Gemma); None: they are not.
        prompt_arguments: from `Prompt.extras` to the body's arguments of those names.
        token_extras: what stands in `Prompt.extras` for written tokens `[N, S]`, where that is not 0.
        cross_entropy: gives the log-probabilities of tokens in training.
    """

    body: PreTrainedModel
    head: nn.Module
    softcap: float | None = None
    prompt_arguments: Callable[[dict[str, Tensor]], dict[str, Any]] = _as_they_are
    token_extras: Callable[[Tensor], dict[str, Tensor]] = _none
    cross_entropy: TokenCrossEntropy = token_cross_entropy

    @classmethod
    def of(
        cls,
        model: PreTrainedModel,
        prompt_arguments: Callable[[dict[str, Tensor]], dict[str, Any]] = _as_they_are,
        token_extras: Callable[[Tensor], dict[str, Tensor]] = _none,
    ) -> Self:
        """The decoder of a causal or multimodal LM with a head.

        Raises:
            ValueError: the model scales its logits in an unknown way.
        """
        config = model.config.get_text_config()
        for name in ("logit_scale", "logits_scaling"):
            if getattr(config, name, None) not in (None, 1, 1.0):
                raise ValueError(
                    f"{type(model).__name__} scales its logits by {name}={getattr(config, name)}, which would be lost "
                    "here. Apply it in `Decoder.logits`."
                )
        softcap = getattr(config, "final_logit_softcapping", None)
        return cls(model.get_decoder(), model.get_output_embeddings(), softcap, prompt_arguments, token_extras)

    @property
    def config(self) -> Any:
        """Configuration of the text model."""
        return self.body.config.get_text_config()

    def embed(self, token_ids: Tensor) -> Tensor:
        """Embeddings of token ids `[N, S]`: `[N, S, H]`."""
        return self.body.get_input_embeddings()(token_ids)

    @property
    def attends_to_all(self) -> bool:
        """Whether each layer sees everything before a position: none has a window."""
        return all(kind == "full_attention" for kind in getattr(self.config, "layer_types", None) or ())

    @property
    def is_recurrent(self) -> bool:
        """Whether layers remember a state that each position overwrites, in place of keys and values (Qwen3.5)."""
        return "linear_attention" in (getattr(self.config, "layer_types", None) or ())

    def tokens(self, token_ids: Tensor, position_ids: Tensor, like: Prompt) -> Prompt:
        """Written tokens as positions that follow a prompt.

        Args:
            token_ids: int64 `[N, S]`.
            position_ids: `[N, S]`, or `[N, S, 3]`.
            like: the prompt, which says which `extras` there are; those of tokens are 0 where the decoder names none.
        """
        known = self.token_extras(token_ids)
        extras = {
            name: known[name] if name in known else value.new_zeros(*token_ids.shape, *value.shape[2:])
            for name, value in like.extras.items()
        }
        return Prompt(self.embed(token_ids), torch.ones_like(token_ids), position_ids, extras)

    def hidden(
        self,
        *,
        inputs_embeds: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor,
        cache: Cache | None = None,
        extras: dict[str, Tensor] | None = None,
        body_arguments: dict[str, Any] | None = None,
    ) -> Tensor:
        """Hidden states `[N, S, H]`.

        Args:
            inputs_embeds: `[N, S, H]`.
            attention_mask: `[N, past + S]`, 1 = attend; or a mask to add to the scores, `[N, 1, S, past + S]`; None:
                nothing is masked but what comes later.
            position_ids: `[N, S]`, or `[N, S, 3]` for multimodal rotary positions.
            cache: keys and values of the past, which grow by these positions; None: there is no past.
            extras: `Prompt.extras` of these positions.
            body_arguments: further arguments that the body hands on to its attention layers.
        """
        # transformers takes multimodal positions with their axes first.
        positions = position_ids if position_ids.dim() == 2 else position_ids.movedim(-1, 0)
        return self.body(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=cache is not None,
            **self.prompt_arguments(extras or {}),
            **(body_arguments or {}),
        ).last_hidden_state

    def logits(self, hidden: Tensor) -> Tensor:
        """float32 logits `[..., V]` of hidden states `[..., H]`."""
        logits = self.head(hidden).float()
        return logits if self.softcap is None else (logits / self.softcap).tanh() * self.softcap
