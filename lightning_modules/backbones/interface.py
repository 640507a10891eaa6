"""The contract between a multimodal LLM and the training code: one file and one YAML per backbone.

Shape legend: B prompts (one per clip), G completions per prompt, P prompt positions (text + media tokens, padded on the
left), C completion tokens (padded on the right), H hidden size.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from datamodules.batch import ClipBatch
from datamodules.media_settings import MediaSettings
from lightning_modules.backbones.percept import Percept, Perception
from lightning_modules.backbones.recipe import Recipe

Watch = Callable[[Tensor], None]
"""Called with the token ids so far, int64 `[B·G, ≤C]` padded on the right, whenever each row that runs has another
token. What it raises ends the sampling."""


@dataclass(frozen=True)
class Sampling:
    """How completions are drawn; nothing comes from `generation_config.json` but the ends of a turn (decisions 22, 28).

    Args:
        max_new_tokens: longest completion, in tokens.
        temperature: softmax temperature; 0 is greedy decoding.
        top_p: nucleus: smallest set of tokens with at least this probability; 1 is off.
        top_k: number of most probable tokens kept; 0 is off.
        compiled: decode with torch.compile in memory of a fixed size, and as CUDA graphs on a GPU. The first tokens
            take up to a minute, all others less time; for decoders without sliding windows. "auto": on a GPU, where the
            decoder allows it. See docs/performance.md.
    """

    max_new_tokens: int = 512
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    compiled: bool | Literal["auto"] = "auto"

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1 or not self.temperature >= 0 or not 0 < self.top_p <= 1 or self.top_k < 0:
            raise ValueError(
                f"Invalid sampling settings {self}. Expected max_new_tokens >= 1, temperature >= 0 (0 is greedy), "
                "0 < top_p <= 1 and top_k >= 0 (0 is off)."
            )


@dataclass
class Prompt:
    """What the language model sees before it writes, one row per clip, padded on the left.

    Args:
        embeddings: `[B, P, H]`; carries the gradient of the trained projectors and embeddings.
        attention_mask: int64 `[B, P]`, 1 = attend.
        position_ids: int64 `[B, P]`, 0.. from the first attended position, or `[B, P, 3]` (time, height, width) for a
            language model with multimodal rotary positions; float32 where time has fractions (Qwen3-Omni). Of a long
            prompt they begin elsewhere where that says which rotary frequencies it has (Phi-4-multimodal).
            A prompt ends with text, and completions go on from there.
        extras: what else the language model takes along with the embeddings, by argument name, each `[B, P, ...]`.
    """

    embeddings: Tensor
    attention_mask: Tensor
    position_ids: Tensor
    extras: dict[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.embeddings.shape[0]

    def columns(self, start: int, stop: int | None) -> "Prompt":
        """Positions `start` to `stop` of all prompts."""
        return Prompt(
            self.embeddings[:, start:stop],
            self.attention_mask[:, start:stop],
            self.position_ids[:, start:stop],
            {name: value[:, start:stop] for name, value in self.extras.items()},
        )

    def picked(self, positions: Tensor) -> "Prompt":
        """M positions side by side in one row, those where `positions`, bool `[B, P]`, is True."""
        return Prompt(
            self.embeddings[positions][None],
            self.attention_mask[positions][None],
            self.position_ids[positions][None],
            {name: value[positions][None] for name, value in self.extras.items()},
        )

    def repeat(self, times: int) -> "Prompt":
        """Each prompt so many times in a row."""
        return Prompt(
            self.embeddings.repeat_interleave(times, dim=0),
            self.attention_mask.repeat_interleave(times, dim=0),
            self.position_ids.repeat_interleave(times, dim=0),
            {name: value.repeat_interleave(times, dim=0) for name, value in self.extras.items()},
        )

    def rows(self, start: int, stop: int) -> "Prompt":
        """Prompts `start` to `stop`."""
        return Prompt(
            self.embeddings[start:stop],
            self.attention_mask[start:stop],
            self.position_ids[start:stop],
            {name: value[start:stop] for name, value in self.extras.items()},
        )


@dataclass
class Completions:
    """Sampled token sequences: rows `b·G .. b·G+G-1` belong to prompt b.

    Args:
        token_ids: int64 `[B·G, C]`, padded on the right.
        mask: bool `[B·G, C]`, True up to and including the first end-of-sequence token.
        logprobs: float32 `[B·G, C]`, log-probability of each token when it was sampled (temperature applied, top-p and
            top-k not; decision 23), 0 where masked out.
        finished: bool `[B·G]`, False where `max_new_tokens` cut the sequence short.
    """

    token_ids: Tensor
    mask: Tensor
    logprobs: Tensor
    finished: Tensor

    def __len__(self) -> int:
        return self.token_ids.shape[0]

    @property
    def lengths(self) -> Tensor:
        """Tokens per completion, the end-of-sequence token included: int64 `[B·G]`."""
        return self.mask.sum(dim=1)

    def rows(self, start: int, stop: int) -> "Completions":
        """Completions `start` to `stop`, cut to the longest of them."""
        return Completions(
            self.token_ids[start:stop], self.mask[start:stop], self.logprobs[start:stop], self.finished[start:stop]
        ).trimmed()

    def trimmed(self) -> "Completions":
        """The completions, cut to the longest of them."""
        width = max(int(self.lengths.max()), 1)
        return Completions(self.token_ids[:, :width], self.mask[:, :width], self.logprobs[:, :width], self.finished)


@dataclass
class Scores:
    """What a policy thinks of given completions.

    Args:
        logprobs: log-probability of each token, float32 `[B·G, C]`, 0 where masked out; carries the gradient.
        entropy: entropy of the distribution over the next token, in nats, float32 `[B·G, C]`, detached, 0 where masked
            out; None where it was not asked for.
    """

    logprobs: Tensor
    entropy: Tensor | None


@dataclass(frozen=True)
class SharedPrompt:
    """Prompts that have run once; their completions are scored and sent backward in parts, one after the other.

    Args:
        score: scores of a part, `(completions, temperature, with_entropy) -> Scores`: the same number of completions
            of each prompt. The graph ends at the prompts.
        backward: sends the gradients that all parts left at the prompts on into them; scalars that it is given go
            backward in the same pass.
    """

    score: Callable[[Completions, float, bool], Scores]
    backward: Callable[..., None]


class Backbone(nn.Module, ABC):
    """A multimodal LLM that watches and hears a clip and writes text.

    A subclass names its `parts` (checked against what really receives a gradient), its `tokenizer`, and the methods
    below. Sampling and scoring run without dropout: callers put the backbone in eval mode.
    """

    tokenizer: PreTrainedTokenizerBase
    image_size: int
    num_frames: int
    recipes: dict[str, Recipe] | None = None

    @property
    @abstractmethod
    def parts(self) -> dict[str, nn.Module]:
        """The parts that can be trained, by name; together they hold every parameter."""

    @abstractmethod
    def perceive(self, batch: ClipBatch) -> Percept:
        """Tower outputs of each clip, to be computed once per batch and passed to `encode`.

        Frozen towers run without gradient and never enter the autograd graph.
        """

    def perception(self) -> Perception:
        """What `perceive` depends on beside the clips; a backbone whose features may be kept on disk has this.

        Raises:
            ValueError: this backbone does not.
        """
        raise ValueError(
            f"{type(self).__name__} does not say what its features depend on, so that they cannot be kept on disk. Set "
            "model.feature_cache to null, or write its method `perception`."
        )

    @abstractmethod
    def encode(self, batch: ClipBatch, percept: Percept | None = None) -> Prompt:
        """Prompts of a batch: projected media tokens and the instruction through the chat template.

        Args:
            batch: the clips.
            percept: what `perceive(batch)` returned; None computes it here.
        """

    @abstractmethod
    def generate(
        self, prompt: Prompt, num_return_sequences: int, sampling: Sampling, watch: Watch | None = None
    ) -> Completions:
        """Sample completions; the prompt is computed once and shared by its completions."""

    @abstractmethod
    def score(
        self, prompt: Prompt, completions: Completions, temperature: float = 1.0, with_entropy: bool = False
    ) -> Scores:
        """Log-probabilities of the completions' tokens, and on request the entropies of the policy at each.

        The prompt is computed once per group; gradients flow to every trained part that the prompt came through.
        """

    @abstractmethod
    def score_in_parts(self, prompt: Prompt) -> AbstractContextManager[SharedPrompt | None]:
        """Run prompts once for completions that are scored and sent backward in parts; None where that cannot be."""

    def use_liger_kernel(self) -> None:
        """From now on, compute log-probabilities with Liger's fused cross-entropy, which runs on a GPU.

        Raises:
            ValueError: Liger is not installed; it says how to.
            ValueError: this backbone does not know it.
        """
        raise ValueError(
            f"{type(self).__name__} does not know Liger's kernel. Set model.use_liger_kernel to false, or write its "
            "method `use_liger_kernel`."
        )

    def logprobs(self, prompt: Prompt, completions: Completions, temperature: float = 1.0) -> Tensor:
        """Log-probabilities of the completions' tokens, float32 `[B·G, C]`, 0 where masked out. See `score`."""
        return self.score(prompt, completions, temperature).logprobs

    @abstractmethod
    def save(self, directory: str | Path) -> None:
        """Write a Hugging Face directory from which the backbone loads again with identical outputs."""

    def save_adapters(self, directory: Path) -> bool:
        """Write the adapters alone, as peft does.

        Returns:
            Whether there are any; if not, nothing is written.
        """
        return False

    def save_language_model(self, directory: Path) -> None:
        """Write the language model alone, adapters merged, as a Hugging Face directory that an inference server loads.

        Raises:
            ValueError: this backbone's cannot be served alone.
        """
        raise ValueError(
            f"{type(self).__name__} does not say how its language model is served alone. Set model.sampler to null, or "
            "write its method `save_language_model`."
        )

    @abstractmethod
    def reference(self, empty: bool = False) -> "Backbone":
        """A frozen copy of the policy as it is now, sharing the parts that are not trained (decision 26).

        Args:
            empty: leave the copies of trained weights on the `meta` device, to be filled.
        """

    def set_trainable(self, names: Sequence[str]) -> None:
        """Train the named parts and freeze all others.

        Raises:
            ValueError: a name is not a part.
        """
        unknown = sorted(set(names) - set(self.parts))
        if unknown:
            raise ValueError(
                f"{type(self).__name__} has no part named {', '.join(map(repr, unknown))}. "
                f"Its parts: {', '.join(self.parts)}."
            )
        self.requires_grad_(False)
        for name in names:
            self.parts[name].requires_grad_(True)

    @property
    def media_settings(self) -> dict[str, int]:
        """What `data.media` must say: option → value; of `mel`, only where the data computes features at all."""
        return {"num_frames": self.num_frames, "image_size": self.image_size}

    def check_media(self, media: MediaSettings) -> None:
        """Refuse clips that this backbone does not take, before any is decoded.

        Raises:
            ValueError: names every option that must be another one, with its value.
        """
        wanted = {}
        for name, value in self.media_settings.items():
            own, _, field = name.rpartition(".")
            settings = getattr(media, own) if own else media
            if settings is not None and getattr(settings, field) != value:
                wanted[name] = value
        if wanted:
            options = " ".join(f"--data.media.{name} {value}" for name, value in wanted.items())
            raise ValueError(f"The clips as the data prepares them do not fit {type(self).__name__}: add {options}")

    def check_frames(self, batch: ClipBatch) -> None:
        """Refuse frames that this backbone does not take.

        Raises:
            ValueError: another number or size; it says which settings of the data to change.
        """
        expected = (self.num_frames, 3, self.image_size, self.image_size)
        if tuple(batch.frames.shape[1:]) != expected:
            raise ValueError(
                f"Frames per clip have shape {tuple(batch.frames.shape[1:])}, this backbone takes {expected}. "
                f"Set data.media.num_frames={self.num_frames} and data.media.image_size={self.image_size}."
            )

    def is_frozen(self, name: str) -> bool:
        """True when no parameter of a part is trained."""
        return not any(parameter.requires_grad for parameter in self.parts[name].parameters())

    def completion_ids(self, responses: Iterable[str]) -> Completions:
        """Tokens of given responses, each closed by the end-of-sequence token (stage 1's targets).

        A special token that a response spells, such as `<|im_end|>`, is text in it: nothing ends or pads too early.
        """
        options = {"add_special_tokens": False, "split_special_tokens": True}
        rows = [
            torch.tensor([*self.tokenizer(text, **options)["input_ids"], self.tokenizer.eos_token_id])
            for text in responses
        ]
        ids = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=self.tokenizer.pad_token_id)
        lengths = torch.tensor([len(row) for row in rows])
        mask = torch.arange(ids.shape[1]) < lengths[:, None]
        device = next(self.parameters()).device
        return Completions(
            ids.to(device),
            mask.to(device),
            torch.zeros(ids.shape, device=device),
            torch.ones(len(rows), dtype=torch.bool, device=device),
        )

    def texts(self, completions: Completions) -> list[str]:
        """Completions as text, special tokens dropped."""
        return self.tokenizer.batch_decode(
            [row[keep] for row, keep in zip(completions.token_ids.cpu(), completions.mask.cpu(), strict=True)],
            skip_special_tokens=True,
        )


@contextmanager
def eval_mode(module: nn.Module):
    """Run a block without dropout, then put every submodule back into the mode it was in."""
    modes = {child: child.training for child in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for child, training in modes.items():
            child.training = training
