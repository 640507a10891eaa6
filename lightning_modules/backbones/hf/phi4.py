"""Phi-4-multimodal: each frame is an image in crops beside a view of the whole; sound follows the frames.

Its image processor needs torchvision; what that does to square frames is done here, and a test compares the two where
torchvision is installed.

Shape legend: T frames, I image size, C crop size, n = I / C crops per side, S audio samples, P prompt positions.
"""

from math import ceil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import ImageProcessingMixin, Phi3Model, Phi4MultimodalFeatureExtractor, PreTrainedModel

from datamodules.batch import SAMPLE_RATE
from lightning_modules.backbones.hf.family import ClipInput, Family, MediaInputs, images_and_sound
from lightning_modules.backbones.hf.replay import Call
from lightning_modules.backbones.percept import Modality

_IMAGE, _AUDIO = "<|image|>", "<|audio|>"

_LONG = 2**20
"""More than any real position."""


class _RotaryByRow(nn.Module):
    """LongRoPE whose frequencies follow each row's own prompt.

    The model's own module takes the long ones for all rows as soon as one is past the original context. Then a row
    would change with the batch it is in (decision 36), and a completion that crosses the border would meet keys that
    other frequencies have turned. Here a prompt that is too long has all of its positions moved by `_LONG`.

    Args:
        own: the model's, with both sets of frequencies.
    """

    def __init__(self, own: nn.Module) -> None:
        super().__init__()
        self.own = own

    def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        is_long = position_ids[..., None] >= _LONG
        frequencies = torch.where(is_long, self.own.long_inv_freq_by_row, self.own.original_inv_freq)
        angles = (position_ids[..., None] - is_long * _LONG).float() * frequencies
        angles = torch.cat([angles, angles], dim=-1)
        scaling = self.own.attention_scaling
        return (angles.cos() * scaling).to(x.dtype), (angles.sin() * scaling).to(x.dtype)


class Phi4Multimodal(Family):
    """Phi-4-multimodal, in transformers' own format; what a clip lacks is left out of its prompt."""

    model_types = ("phi4_multimodal",)
    hears = True
    placeholder = _IMAGE
    item_tokens = (_IMAGE, _AUDIO)
    adapters = ("vision-lora", "speech-lora")

    chat_template = (
        "{% for message in messages %}<|{{ message['role'] }}|>{% for item in message['content'] %}"
        "{{ item['text'] if item['type'] == 'text' else '<|' + item['type'] + '|>' }}{% endfor %}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    """The published prompt; the published template writes text alone."""

    def __init__(self, model: PreTrainedModel, tokenizer: Any, directory: Path) -> None:
        super().__init__(model, tokenizer, directory)
        config = model.config
        if (config.sliding_window or 0) >= config.max_position_embeddings:
            config.update({"sliding_window": None})  # as published: longer than any text
        self._text_model = self._without_media()

    def read_settings(self, directory: Path) -> None:
        settings, _ = ImageProcessingMixin.get_image_processor_dict(directory)
        # Published settings leave out what are the processor's defaults.
        given = (settings.get(key) or [0.5, 0.5, 0.5] for key in ("image_mean", "image_std"))
        self._mean, self._std = (torch.tensor(values).view(3, 1, 1) for values in given)
        self._feature_extractor = Phi4MultimodalFeatureExtractor.from_pretrained(directory)

    def _without_media(self) -> PreTrainedModel:
        """The language model, a Phi-3: the embeddings, layers and norm that stand in the model beside its towers."""
        inner = self.model.model
        with torch.device("meta"):
            text_model = Phi3Model(inner.config)
        for name, _ in list(text_model.named_children()):
            text_model.set_submodule(name, inner.get_submodule(name))
        own = inner.rotary_emb
        if own.rope_type == "longrope":
            past = own.inv_freq.new_full((1, 1), inner.config.rope_parameters["original_max_position_embeddings"])
            own(past, past)  # leaves the long frequencies in `inv_freq`
            # A buffer of the model's own module, since that follows the model to its device.
            own.register_buffer("long_inv_freq_by_row", own.inv_freq.clone(), persistent=False)
            text_model.set_submodule("rotary_emb", _RotaryByRow(own))
        return text_model

    @property
    def text_model(self) -> PreTrainedModel:
        return self._text_model

    @property
    def image_multiple(self) -> int:
        return self.model.config.vision_config.crop_size

    @property
    def parts(self) -> dict[str, nn.Module]:
        media = self.model.model.embed_tokens_extend
        image, audio = media.image_embed, media.audio_embed
        between = nn.ParameterList([image.global_img_feature_extensor, image.sub_img_feature_extensor])
        return {
            "vision_tower": image.img_processor,
            "vision_projector": nn.ModuleList([image.img_projection_up, image.img_projection_down, between]),
            "audio_tower": audio.encoder,
            "audio_projector": nn.ModuleList(m for m in audio.children() if isinstance(m, nn.Linear)),
        }

    @property
    def tower_calls(self) -> dict[str, list[Call]]:
        media = self.model.model.embed_tokens_extend
        image, vision = media.image_embed, media.image_embed.img_processor
        unread = [Call(module, kept=False) for module in (*vision.encoder.layers, vision.head)]
        # What is kept: means of 2 × 2 patches, of the layer that the projector reads.
        return {
            "vision_tower": [*unread, Call(image.image_token_compression)],
            "audio_tower": [Call(media.audio_embed.encoder)],
        }

    def content(self, num_frames: int, modalities: tuple[Modality, ...]) -> list[dict[str, str]]:
        return images_and_sound(num_frames, modalities)

    def media(self, clip: ClipInput) -> MediaInputs:
        config, placeholders, arguments = self.model.config, [], {}
        if "pictures" in clip.modalities:
            seen, num_tokens = self._seen(clip.frames)
            token = self.tokenizer.convert_ids_to_tokens(config.vision_config.image_token_id)
            placeholders += [token * num_tokens] * len(clip.frames)
            arguments |= seen
        if "sound" in clip.modalities:
            heard = self._heard(clip.waveform)
            token = self.tokenizer.convert_ids_to_tokens(config.audio_config.audio_token_id)
            placeholders.append(token * int(heard["audio_embed_sizes"]))
            arguments |= heard
        return MediaInputs(placeholders, arguments, clip.modalities)

    def _seen(self, frames: Tensor) -> tuple[dict[str, Tensor], int]:
        """Arguments for frames, uint8 `[T, 3, I, I]`, and the tokens of each.

        Of each frame the whole, made as small as a crop, then its crops, row by row. A token stands for 2 × 2 patches.
        One more ends each row of them, and one stands between crops and whole.
        """
        vision, side = self.model.config.vision_config, frames.shape[-1]
        size, crops_per_side = vision.crop_size, side // vision.crop_size
        pixels = self.normalised(frames)
        whole = pixels if crops_per_side == 1 else nn.functional.interpolate(pixels, (size, size), mode="bicubic")
        crops = pixels.unflatten(-2, (-1, size)).unflatten(-1, (-1, size))  # [T, 3, n, C, n, C]
        crops = crops.permute(0, 2, 4, 1, 3, 5).flatten(1, 2)
        patches = size // vision.patch_size
        width = ceil(patches / 2)
        arguments = {
            "image_pixel_values": torch.cat([whole[:, None], crops], dim=1),
            "image_sizes": torch.tensor([[side, side]] * len(frames), device=frames.device),
            "image_attention_mask": pixels.new_ones(len(frames), 1 + crops_per_side**2, patches, patches),
        }
        return arguments, sum(rows * (rows + 1) for rows in (width, crops_per_side * width)) + 1

    def _heard(self, waveform: Tensor) -> dict[str, Tensor]:
        """Arguments for sound `[S]`; less than one window of it is filled up with silence."""
        missing = max(self._feature_extractor.win_length - len(waveform), 0)
        samples = nn.functional.pad(waveform, (0, missing)).cpu().numpy()
        heard = self._feature_extractor([samples], sampling_rate=SAMPLE_RATE, return_tensors="pt")
        return {name: value.to(waveform.device) for name, value in heard.items()}

    def captured(self, inputs: dict[str, Any]) -> dict[str, Any]:
        inner, ids = self.model.model, inputs["input_ids"]
        media = {name: value for name, value in inputs.items() if name not in ("input_ids", "attention_mask")}
        embeddings = inner.embed_tokens_extend(ids, inner.embed_tokens(ids), **media)
        length, rope = ids.shape[1], inner.config.rope_parameters
        is_long = rope["rope_type"] == "longrope" and length > rope["original_max_position_embeddings"]
        positions = torch.arange(length, device=ids.device)[None] + _LONG * is_long
        return {"inputs_embeds": embeddings, "position_ids": positions}
