"""What differs between the multimodal models of transformers: how clips become arguments of their forward pass.

A family is one class: which placeholders stand for a clip in the chat template, what the model takes in, and which of
its modules are towers (run once per clip) and projectors.

Shape legend: T frames, I image size, S audio samples, P prompt positions, H hidden size.
"""

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import AutoModelForMultimodalLM, ImageProcessingMixin, PreTrainedModel, PreTrainedTokenizerBase

from lightning_modules.backbones import loading, published_adapter
from lightning_modules.backbones.hf.replay import Call, capture
from lightning_modules.backbones.percept import Modality
from lightning_modules.backbones.published_adapter import MERGED_ADAPTER

_FEW = 20
"""Names that an error lists."""

ALL_MODALITIES: tuple[Modality, ...] = ("pictures", "sound")

_PART_NAMES = {
    "vision_tower": ("vision_tower", "vision_model"),
    "vision_projector": ("multi_modal_projector", "connector", "embed_vision"),
    "audio_tower": ("audio_tower",),
    "audio_projector": ("embed_audio",),
}
"""By part of a backbone: names of the module in transformers."""


@dataclass(frozen=True)
class ClipInput:
    """One clip.

    Args:
        frames: uint8 `[T, 3, I, I]`, uniformly spaced over the clip.
        waveform: float32 mono 16 kHz `[S]`; empty for a clip without audio.
        duration_seconds: length of the clip; frame i is at `duration · (i + ½) / T`.
        has_video: False for sound alone.
    """

    frames: Tensor
    waveform: Tensor
    duration_seconds: float
    has_video: bool = True

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """What there is of the clip; its frames also where there is nothing, as of a clip that was not decoded."""
        if not len(self.waveform):
            return ("pictures",)
        return ALL_MODALITIES if self.has_video else ("sound",)

    @property
    def seconds_per_frame(self) -> float:
        """Time from one frame to the next."""
        return self.duration_seconds / len(self.frames)

    @property
    def frame_seconds(self) -> list[float]:
        """Time of each frame."""
        return [self.seconds_per_frame * (i + 0.5) for i in range(len(self.frames))]


@dataclass(frozen=True)
class MediaInputs:
    """A clip as a model takes it in.

    Args:
        placeholders: texts that replace the chat template's placeholders, in their order.
        arguments: of the model's forward, beside `input_ids` and `attention_mask`.
        modalities: what the prompt has a place for.
    """

    placeholders: list[str]
    arguments: dict[str, Any]
    modalities: tuple[Modality, ...] = ALL_MODALITIES


class Family(ABC):
    """A group of models that take clips in the same way.

    Args:
        model: the multimodal model with its head.
        tokenizer: of the checkpoint.
        directory: the checkpoint's, with its preprocessing settings.
    """

    model_types: ClassVar[tuple[str, ...]] = ()
    """`model_type` of the configurations that this class is for."""

    sees: ClassVar[bool] = True
    """Whether the models take frames."""

    hears: ClassVar[bool] = False
    """Whether the models take audio."""

    chat_template: ClassVar[str | None] = None
    """Template to use in place of the checkpoint's."""

    unused_weights: ClassVar[re.Pattern[str] | None] = None
    """Names of tensors in the checkpoint that are not loaded."""

    model_class: ClassVar[Any] = AutoModelForMultimodalLM
    """The class of transformers that loads a checkpoint."""

    adapters: ClassVar[tuple[str, ...]] = ()
    """Folders of a published checkpoint with adapters: one, by default the first, is merged into the weights."""

    @classmethod
    def load(cls, directory: Path, adapter: str | None, **options: Any) -> PreTrainedModel:
        """The model with its head, of a checkpoint directory.

        Args:
            directory: the checkpoint's.
            adapter: the folder in it whose adapter is merged into the weights, if any.
            options: of `from_pretrained`.

        Raises:
            ValueError: the checkpoint lacks weights, which transformers would draw at random, or the adapter does not
                belong to the model.
        """
        model, info = loading.pretrained(
            cls.model_class, directory, output_loading_info=True, trust_remote_code=False, **options
        )
        missing = sorted(info["missing_keys"])
        if missing:
            raise ValueError(
                f"{directory} lacks {len(missing)} weights of {type(model).__name__}: {', '.join(missing[:_FEW])}"
                f"{', ...' if len(missing) > _FEW else ''}. Its download may be incomplete, or it is of another model."
            )
        if adapter is not None:
            published_adapter.merge(model.get_decoder(), directory / adapter)
            model.config.update({MERGED_ADAPTER: adapter})  # of what is exported, too
        return model

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, directory: Path) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.read_settings(directory)

    def read_settings(self, directory: Path) -> None:
        """Read how media are preprocessed, from the checkpoint's directory."""
        settings, _ = ImageProcessingMixin.get_image_processor_dict(directory)
        self._mean, self._std = (torch.tensor(settings[key]).view(3, 1, 1) for key in ("image_mean", "image_std"))

    @property
    def text_model(self) -> PreTrainedModel:
        """The language model without its head."""
        return self.model.get_decoder()

    @property
    @abstractmethod
    def image_multiple(self) -> int:
        """Frames must be a multiple of this wide and high, in pixels."""

    @property
    def only_image_size(self) -> int | None:
        """The one side, in pixels, that frames may have; None: any multiple of `image_multiple`."""
        return None

    def content(self, num_frames: int, modalities: tuple[Modality, ...]) -> list[dict[str, str]]:
        """Media items of the user's turn, as the chat template takes them.

        Args:
            num_frames: of the clip.
            modalities: those of its `MediaInputs`. A model that cannot do without one ignores that it is missing.
        """
        return [{"type": "video"}]

    @property
    @abstractmethod
    def placeholder(self) -> str:
        """What the chat template writes for one media item."""

    @property
    def item_tokens(self) -> tuple[str, ...]:
        """What it writes for items of each kind."""
        return (self.placeholder,)

    def cut(self, prompt: str) -> list[str]:
        """A rendered prompt, cut where its media items stand."""
        return re.split("|".join(map(re.escape, self.item_tokens)), prompt)

    @abstractmethod
    def media(self, clip: ClipInput) -> MediaInputs:
        """A clip as the model takes it in."""

    @property
    def parts(self) -> dict[str, nn.Module]:
        """Towers and projectors by name: all parameters but those of the language model.

        They are found by the names that transformers gives them. Parameters that stand alone, such as the vector
        between images, count as projector.
        """
        inner = self.model.model
        parts = {part: getattr(inner, n) for part, names in _PART_NAMES.items() for n in names if hasattr(inner, n)}
        modules = (*parts.values(), self.text_model, self.model.get_output_embeddings())
        known = {id(parameter) for module in modules for parameter in module.parameters()}
        alone = [parameter for parameter in self.model.parameters() if id(parameter) not in known]
        if alone:
            parts["vision_projector"] = nn.ModuleList([parts["vision_projector"], nn.ParameterList(alone)])
        return parts

    @property
    def tower_calls(self) -> dict[str, list[Call]]:
        """Of each tower among the parts: the calls whose results can stand for running it."""
        return {name: [Call(module)] for name, module in self.parts.items() if name.endswith("_tower")}

    def token_arguments(self, token_ids: Tensor) -> dict[str, Any]:
        """Arguments of the model's forward that depend on the prompt's tokens, int64 `[1, P]`, or replace its mask."""
        return {}

    def captured(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """What the language model is called with for one clip and question.

        Args:
            inputs: arguments of the model's forward.
        """
        return capture(self.model.model, self.text_model, inputs)

    def extras(self, captured: dict[str, Any]) -> dict[str, Tensor]:
        """What the language model takes beside embeddings, mask and positions, each `[1, P, ...]`.

        Args:
            captured: the arguments that the language model was called with.
        """
        return {}

    def token_extras(self, token_ids: Tensor) -> dict[str, Tensor]:
        """Those `extras` of written tokens, int64 `[N, S]`, that are not 0: each `[N, S, ...]`."""
        return {}

    @staticmethod
    def prompt_arguments(extras: dict[str, Tensor]) -> dict[str, Any]:
        """From stacked extras back to the language model's arguments."""
        return extras

    def normalised(self, frames: Tensor) -> Tensor:
        """uint8 frames `[..., 3, I, I]` as the vision tower takes them."""
        return (frames / 255 - self._mean.to(frames.device)) / self._std.to(frames.device)


def images_and_sound(num_frames: int, modalities: tuple[Modality, ...]) -> list[dict[str, str]]:
    """`Family.content` of a model that sees each frame as an image, and hears the sound behind them."""
    counts = {"image": num_frames * ("pictures" in modalities), "audio": int("sound" in modalities)}
    return [{"type": kind} for kind, count in counts.items() for _ in range(count)]


def _all_families(base: type[Family] = Family) -> list[type[Family]]:
    return [f for child in base.__subclasses__() for f in (child, *_all_families(child))]


def known_model_types() -> list[str]:
    """Every `model_type` that some family is for."""
    return sorted({name for family in _all_families() for name in family.model_types})


def find_family(model_type: str) -> type[Family]:
    """The family of one of `known_model_types`."""
    return next(family for family in _all_families() if model_type in family.model_types)
