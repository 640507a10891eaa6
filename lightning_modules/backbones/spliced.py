"""What backbones share that place media tokens into a chat template's text: vision tower, audio tower, causal LM.

Shape legend: B clips, T frames, I image size, H width of the language model, P prompt positions.
"""

import copy
from typing import Any, Self

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, WhisperFeatureExtractor
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from datamodules.batch import SAMPLE_RATE, ClipBatch
from lightning_modules.backbones import decoding
from lightning_modules.backbones.interface import Backbone, Completions, Prompt, Sampling

MEDIA = "\x00media\x00"
"""Stands for the media while the chat template is rendered; not typeable, so that a literal `<video>` stays text."""


def load_audio_tower(source: str, **options: Any) -> WhisperEncoder:
    """The encoder of a Whisper model, hub id or directory, whatever head it was published with."""
    tower = WhisperEncoder.from_pretrained(
        source, key_mapping={r"^(model\.)?encoder\.": ""}, use_safetensors=True, **options
    )
    # `save_pretrained` would undo the renaming, which has no inverse: the encoder is saved under its own names.
    tower._weight_conversions = None
    return tower


class SplicedBackbone(Backbone):
    """Towers whose projected tokens stand between text tokens: `<vi_start>video<vi_end>`, `<au_start>audio<au_end>`.

    A subclass sets `vision_tower`, `language_model`, `feature_extractor`, `tokenizer` and `_image_settings` (the vision
    tower's `preprocessor_config.json`).
    """

    vision_tower: PreTrainedModel
    language_model: PreTrainedModel
    feature_extractor: WhisperFeatureExtractor
    _image_settings: dict[str, Any]

    def __init__(self) -> None:
        super().__init__()
        self._segments: dict[str, list[list[int]]] = {}

    @property
    def stop_token_ids(self) -> list[int]:
        """End of turn and end of text: either ends a completion."""
        return sorted({self.tokenizer.eos_token_id, self.tokenizer.pad_token_id})

    def _check_frames(self, batch: ClipBatch) -> None:
        expected = (self.num_frames, 3, self.image_size, self.image_size)
        if tuple(batch.frames.shape[1:]) != expected:
            raise ValueError(
                f"Frames per clip have shape {tuple(batch.frames.shape[1:])}, this backbone takes {expected}. "
                f"Set data.media.num_frames={self.num_frames} and data.media.image_size={self.image_size}."
            )

    def _pixels(self, frames: Tensor) -> Tensor:
        """uint8 `[B, T, 3, I, I]` as the vision tower takes it: `[B·T, 3, I, I]`."""
        mean, std = (
            frames.new_tensor(self._image_settings[key], dtype=self.vision_tower.dtype).view(3, 1, 1)
            for key in ("image_mean", "image_std")
        )
        return (frames.flatten(0, 1).to(self.vision_tower.dtype) / 255 - mean) / std

    def _log_mel(self, batch: ClipBatch) -> Tensor:
        """Features from the loader, else computed here, where the device has to wait for them."""
        if batch.mel is None:
            waveforms = [
                row[:length].cpu().numpy()
                for row, length in zip(batch.waveform, batch.waveform_lengths.tolist(), strict=True)
            ]
            return self.feature_extractor(waveforms, sampling_rate=SAMPLE_RATE, return_tensors="pt").input_features
        expected = (self.feature_extractor.feature_size, self.feature_extractor.nb_max_frames)
        if tuple(batch.mel.shape[1:]) != expected:
            num_bins, seconds = expected[0], self.feature_extractor.chunk_length
            raise ValueError(
                f"Mel features per clip have shape {tuple(batch.mel.shape[1:])}, this backbone takes {expected}. "
                f"Set data.media.mel.num_bins={num_bins} and data.media.mel.seconds={seconds}."
            )
        return batch.mel

    def _splice(self, batch: ClipBatch, video: Tensor, audio: Tensor) -> Prompt:
        """Prompts with each clip's video tokens `[B, Nv, H]` and audio tokens `[B, Na, H]` in their places."""
        embed = self.language_model.get_input_embeddings()
        rows = []
        for i, instruction in enumerate(batch.instructions):
            before, between, after = (
                embed(torch.tensor(ids, device=video.device)) for ids in self._tokenize(instruction)
            )
            rows.append(torch.cat([before, video[i].to(before), between, audio[i].to(before), after]))
        lengths = torch.tensor([len(row) for row in rows], device=video.device)
        embeddings = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_side="left")
        position_ids = torch.arange(embeddings.shape[1], device=video.device) - (embeddings.shape[1] - lengths)[:, None]
        return Prompt(embeddings, (position_ids >= 0).long(), position_ids.clamp(min=0))

    def _tokenize(self, instruction: str) -> list[list[int]]:
        """Token ids before the video, between video and audio, and after the audio."""
        if instruction not in self._segments:
            rendered = self.tokenizer.apply_chat_template(
                [{"role": "user", "content": f"{MEDIA}\n{instruction}"}], tokenize=False, add_generation_prompt=True
            )
            before, after = rendered.split(MEDIA, 1)
            texts = (f"{before}<vi_start>", "<vi_end>\n<au_start>", f"<au_end>{after}")
            self._segments[instruction] = [self.tokenizer(t, add_special_tokens=False)["input_ids"] for t in texts]
        return self._segments[instruction]

    def generate(self, prompt: Prompt, num_return_sequences: int, sampling: Sampling) -> Completions:
        return decoding.sample(
            self.language_model,
            prompt,
            num_return_sequences,
            sampling,
            self.stop_token_ids,
            self.tokenizer.pad_token_id,
        )

    def logprobs(self, prompt: Prompt, completions: Completions, temperature: float = 1.0) -> Tensor:
        return decoding.score(self.language_model, prompt, completions, temperature)

    def reference(self) -> Self:
        # Whatever is frozen stands in the memo, so that deepcopy shares it.
        frozen = {id(p): p for p in self.parameters() if not p.requires_grad}
        reference = copy.deepcopy(self, memo={**frozen, id(self.tokenizer): self.tokenizer})
        return reference.requires_grad_(False).eval()
