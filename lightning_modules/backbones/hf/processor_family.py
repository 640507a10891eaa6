"""Models that see a clip as images, or hear its sound, or both, through their checkpoint's own processor.

Frames and sound pass on as the processor makes them. Of its text, only what stands for each image and sound is taken,
so that special tokens in a question stay text.

Shape legend: T frames, I image size, S audio samples, N written tokens, P prompt positions.
"""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image
from torch import Tensor, nn
from transformers import (
    PROCESSOR_MAPPING,
    AutoFeatureExtractor,
    AutoImageProcessor,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProcessorMixin,
)

from datamodules.batch import SAMPLE_RATE
from lightning_modules.backbones.hf.family import ClipInput, Family, MediaInputs, images_and_sound
from lightning_modules.backbones.percept import Modality

_TEXT_OUTPUTS = {"input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids", "text_replacement_offsets"}
"""What processors return of the text."""

_COMMON_ARGUMENTS = {"inputs_embeds", "attention_mask", "position_ids"}
"""Of language models; what else they are given must be passed on."""


def load_processor(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, directory: Path) -> ProcessorMixin:
    """The processor of a checkpoint without its part for videos, which would need torchvision.

    Images are processed by PIL and NumPy also where torchvision is installed: results do not depend on it.
    """
    processor_class = PROCESSOR_MAPPING[type(model.config)]

    class WithoutVideos(processor_class):
        def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
            return argument is None or super().check_argument_for_proper_class(argument_name, argument)

    parts = {
        "tokenizer": lambda: tokenizer,
        "image_processor": lambda: AutoImageProcessor.from_pretrained(
            directory, backend="pil", trust_remote_code=False
        ),
        "feature_extractor": lambda: AutoFeatureExtractor.from_pretrained(directory, trust_remote_code=False),
        "video_processor": lambda: None,
    }
    settings, _ = processor_class.get_processor_dict(directory)
    return WithoutVideos.from_args_and_dict([parts[name]() for name in WithoutVideos.get_attributes()], settings)


class ProcessorFamily(Family):
    """Base of the models whose processor prepares frames as images, and sound."""

    model_types = ()
    image_options: ClassVar[dict[str, Any]] = {}
    """Of the image processor, where frames are not treated as images are."""

    picture_token: ClassVar[str] = "image_token"
    """The processor's name of what the chat template writes for frames."""

    def read_settings(self, directory: Path) -> None:
        self.processor = load_processor(self.model, self.tokenizer, directory)

    @property
    def image_multiple(self) -> int:
        return 1  # the processor resizes

    @property
    def placeholder(self) -> str:
        return next(iter(self._item_tokens.values()))

    @property
    def _item_tokens(self) -> dict[Modality, str]:
        """What stands for an image and for a sound, in the order of the turn, of those that the model takes."""
        names: dict[Modality, str] = {"pictures": self.picture_token} if self.sees else {}
        names |= {"sound": "audio_token"} if self.hears else {}
        return {modality: getattr(self.processor, name) for modality, name in names.items()}

    def cut(self, prompt: str) -> list[str]:
        """A rendered prompt, cut where its media items stand.

        Raises:
            ValueError: the template changes the order of images and sound.
        """
        tokens = list(self._item_tokens.values())
        pieces = re.split(f"({'|'.join(map(re.escape, tokens))})", prompt)
        found = pieces[1::2]
        if found != sorted(found, key=tokens.index):
            raise ValueError(f"The chat template writes {found}; expected all images before the sound: {prompt!r}.")
        return pieces[::2]

    def content(self, num_frames: int, modalities: tuple[Modality, ...]) -> list[dict[str, str]]:
        return images_and_sound(num_frames, modalities)

    def media(self, clip: ClipInput) -> MediaInputs:
        modalities = tuple(m for m in clip.modalities if m in self._item_tokens) if self.hears else ("pictures",)
        if not modalities:
            return MediaInputs([], {}, ())
        text, media = "", {}
        if "pictures" in modalities:
            frames = [Image.fromarray(frame) for frame in clip.frames.permute(0, 2, 3, 1).cpu().numpy()]
            text += self.processor.image_token * len(frames)
            media |= {"images": frames, "images_kwargs": self.image_options}
        if "sound" in modalities:
            # Less than a second could leave no features.
            waveform = np.pad(clip.waveform.cpu().numpy(), (0, max(SAMPLE_RATE - len(clip.waveform), 0)))
            text += self.processor.audio_token
            media |= {"audio": [waveform], "audio_kwargs": {"sampling_rate": SAMPLE_RATE}}
        inputs = self.processor(text=[text], return_text_replacement_offsets=True, return_tensors="pt", **media)
        (replacements,) = inputs["text_replacement_offsets"]
        arguments = {
            name: value.to(clip.frames.device, self.model.dtype if value.is_floating_point() else None)
            for name, value in inputs.items()
            if name not in _TEXT_OUTPUTS
        }
        return MediaInputs([item["replacement"] for item in replacements], arguments, modalities)

    def extras(self, captured: dict[str, Any]) -> dict[str, Tensor]:
        """Every tensor that the language model is given beside the common ones.

        Raises:
            ValueError: one of them does not go by the prompt's positions.
        """
        extras = {n: v for n, v in captured.items() if isinstance(v, Tensor) and n not in _COMMON_ARGUMENTS}
        length = captured["inputs_embeds"].shape[1]
        for name, value in extras.items():
            if value.shape[:2] != (1, length):
                raise ValueError(
                    f"{type(self.model).__name__} gives its language model {name} of shape {tuple(value.shape)}. "
                    f"Expected [1, {length}, ...]: this model needs a family of its own."
                )
        return extras


class InternVL(ProcessorFamily):
    """InternVL3 of transformers (`-hf`): numbered frames of one tile each, as its processor writes a video."""

    model_types = ("internvl",)
    image_options: ClassVar[dict[str, Any]] = {"crop_to_patches": False}

    def content(self, num_frames: int, modalities: tuple[Modality, ...]) -> list[dict[str, str]]:
        # The template breaks the line after an image.
        numbered = [({"type": "text", "text": f"Frame{i + 1}: "}, {"type": "image"}) for i in range(num_frames)]
        return [item for pair in numbered for item in pair]


class Gemma3n(ProcessorFamily):
    """Gemma 3n: sees the frames, then hears up to 30 seconds; what a clip lacks is left out.

    Its vision tower is one of timm (`pip install timm`, which brings torchvision).
    """

    model_types = ("gemma3n",)
    hears = True

    def token_extras(self, token_ids: Tensor) -> dict[str, Tensor]:
        """Embeddings of the tokens for each layer, `[N, S, layers, width]`."""
        return {"per_layer_inputs": self.text_model.get_per_layer_inputs(token_ids)}


class Gemma4(ProcessorFamily):
    """Gemma 4, E2B and E4B: sees frames with their times, as in a video, and hears up to 30 seconds."""

    model_types = ("gemma4",)
    hears = True
    image_options: ClassVar[dict[str, Any]] = {"max_soft_tokens": 70}  # of its video processor
    picture_token = "video_token"

    def read_settings(self, directory: Path) -> None:
        super().read_settings(directory)
        attention = self.model.config.text_config.use_bidirectional_attention
        if attention is not None:
            raise ValueError(
                f"{directory}: the patches of a frame see each other in this model (use_bidirectional_attention="
                f"{attention!r}), and here a prompt is causal. Take a Gemma 4 whose attention is causal: E2B or E4B."
            )

    def content(self, num_frames: int, modalities: tuple[Modality, ...]) -> list[dict[str, str]]:
        kinds = {"pictures": "video", "sound": "audio"}
        return [{"type": kind} for modality, kind in kinds.items() if modality in modalities]

    def media(self, clip: ClipInput) -> MediaInputs:
        inputs = super().media(clip)
        arguments = dict(inputs.arguments)
        if "sound" in inputs.modalities:
            # Without the processor's padding, so that all that the tower returns stands for a token.
            length = int(arguments["input_features_mask"].sum())
            for name in ("input_features", "input_features_mask"):
                arguments[name] = arguments[name][:, :length]
        if "pictures" not in inputs.modalities:
            return replace(inputs, arguments=arguments)
        frames, others = inputs.placeholders[: len(clip.frames)], inputs.placeholders[len(clip.frames) :]
        timed = [f"{int(t // 60):02d}:{int(t % 60):02d} {f}" for t, f in zip(clip.frame_seconds, frames, strict=True)]
        return replace(inputs, placeholders=[" ".join(timed), *others], arguments=arguments)

    def token_arguments(self, token_ids: Tensor) -> dict[str, Any]:
        # Causal without padding: the masks that the model would make are left out, as the decoder makes its own.
        return {"attention_mask": dict.fromkeys(("full_attention", "sliding_attention"))}

    def token_extras(self, token_ids: Tensor) -> dict[str, Tensor]:
        """Embeddings of the tokens for each layer, `[N, S, layers, width]`."""
        return {"per_layer_inputs": self.text_model.get_per_layer_inputs(token_ids)}


class Qwen2Audio(ProcessorFamily):
    """Qwen2-Audio, which hears up to 30 seconds and sees nothing."""

    model_types = ("qwen2_audio",)
    sees = False
    hears = True

    def read_settings(self, directory: Path) -> None:
        super().read_settings(directory)
        # The processor's, as in transformers: the tokenizer's own is for text.
        self.tokenizer.chat_template = self.processor.chat_template

    @property
    def parts(self) -> dict[str, nn.Module]:
        inner = self.model.model
        return {"audio_tower": inner.audio_tower, "audio_projector": inner.multi_modal_projector}
