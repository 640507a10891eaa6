"""What backbones share that place media tokens into a chat template's text: vision tower, audio tower, causal LM.

Shape legend: B clips, T frames, I image size, H width of the language model, P prompt positions.
"""

import json
import re
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict
from torch import Tensor, nn
from transformers import ImageProcessingMixin, PreTrainedModel, SiglipVisionModel, WhisperFeatureExtractor
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from datamodules.batch import SAMPLE_RATE, ClipBatch
from lightning_modules.backbones import loading
from lightning_modules.backbones.adapters import merged_state_dict
from lightning_modules.backbones.decoder import Decoder
from lightning_modules.backbones.decoder_backbone import DecoderBackbone, end_tokens
from lightning_modules.backbones.interface import Prompt
from lightning_modules.backbones.percept import Modality, Percept, Perception
from lightning_modules.backbones.precision import in_float32
from lightning_modules.chat_template import QUESTION, render_around

MODALITY_FIELDS: dict[Modality, str] = {"pictures": "video", "sound": "audio"}
"""Of the percepts of such backbones."""

_MEDIA = "\x00media\x00"
"""Stands for the media while the chat template is rendered. Not typeable: a literal `<video>` stays text."""

_NO_TOWER = re.compile(r"text_model\.|logit_(scale|bias)$|(model\.)?decoder\.|proj_out\.")
"""What SigLIP and Whisper are published with beside the encoders."""


def find_towers(vision: str, audio: str) -> tuple[Path, Path]:
    """Directories of a SigLIP and of a Whisper model.

    Raises:
        ValueError: one cannot be found, or is of another architecture.
    """
    vision_directory, audio_directory = loading.find(vision, "vision"), loading.find(audio, "audio")
    siglip, whisper = "a SigLIP model, such as google/siglip-base-patch16-224", "a Whisper model"
    loading.require_model_type(vision_directory, {"siglip", "siglip_vision_model"}, "vision", siglip)
    loading.require_model_type(audio_directory, {"whisper"}, "audio", f"{whisper}, such as openai/whisper-large-v3")
    return vision_directory, audio_directory


def count_tower_weights(vision: Path, audio: Path) -> int:
    """How many numbers the towers of two directories have, without those of the published models' other halves."""
    return sum(loading.count_weights(directory, skip=_NO_TOWER) for directory in (vision, audio))


def load_audio_tower(directory: str | Path, **options: Any) -> WhisperEncoder:
    """The encoder of a Whisper model, whatever head it was published with."""
    return loading.pretrained(WhisperEncoder, directory, key_mapping={r"^(model\.)?encoder\.": ""}, **options)


class SplicedBackbone(DecoderBackbone):
    """Towers whose projected tokens stand between text tokens: `<vi_start>video<vi_end>`, `<au_start>audio<au_end>`.

    A subclass calls `_load_towers`, and sets `language_model` and `tokenizer`.
    """

    language_model: PreTrainedModel

    def save_language_model(self, directory: Path) -> None:
        weights = merged_state_dict(self.language_model)
        # A head of its own, even where it is tied to the embeddings: vLLM's build for CPUs leaves a tied one as it was
        # when weights are loaded again.
        weights["lm_head.weight"] = self.language_model.get_output_embeddings().weight.detach().clone()
        own = self.language_model.config
        type(own).from_dict({**own.to_dict(), "tie_word_embeddings": False}).save_pretrained(directory)
        self.language_model.generation_config.save_pretrained(directory)
        self.tokenizer.save_pretrained(directory)
        save_torch_state_dict(weights, directory)

    def __init__(self) -> None:
        super().__init__()
        self._segments: dict[str, list[list[int]]] = {}

    def _load_towers(self, vision: Path, audio: Path, **options: Any) -> None:
        """Load both towers from their directories, SigLIP's without its pooling head, and what prepares their input."""
        self._attention = options["attn_implementation"]
        with loading.named(vision):
            self.vision_tower = loading.pretrained(SiglipVisionModel, vision, vision_use_head=False, **options)
            settings, _ = ImageProcessingMixin.get_image_processor_dict(vision)
            # AutoImageProcessor asks for its class, which not everyone has written.
            self._image_settings = {"image_processor_type": "SiglipImageProcessor", **settings}
        with loading.named(audio):
            self.audio_tower = load_audio_tower(audio, **options)
            self.feature_extractor = WhisperFeatureExtractor.from_pretrained(audio)
        self.image_size = self.vision_tower.config.image_size

    def _save_towers(self, vision: Path, audio: Path) -> None:
        self.vision_tower.save_pretrained(vision)
        (vision / "preprocessor_config.json").write_text(json.dumps(self._image_settings, indent=2))
        # Under the encoder's own names: the renaming when it was loaded has no inverse.
        self.audio_tower.save_pretrained(audio, save_original_format=False)
        self.feature_extractor.save_pretrained(audio)

    def _perception_of(self, percept_class: type[Percept], **settings: Any) -> Perception:
        towers = {"vision_tower": self.vision_tower, "audio_tower": self.audio_tower}
        common = {
            **{name: tower.config for name, tower in towers.items()},
            "attention": self._attention,
            "image": self._image_settings,
            "sound": self.feature_extractor.to_dict(),
        }
        return Perception(towers, {**common, **settings}, percept_class)

    @property
    def pretrained(self) -> PreTrainedModel:
        return self.language_model

    @property
    def decoder(self) -> Decoder:
        return Decoder.of(self.language_model)

    @property
    def stop_token_ids(self) -> list[int]:
        return sorted({*super().stop_token_ids, *end_tokens(self.language_model)})

    @property
    def media_settings(self) -> dict[str, int]:
        own = {"mel.num_bins": self.feature_extractor.feature_size, "mel.seconds": self.feature_extractor.chunk_length}
        return super().media_settings | own

    def _pixels(self, frames: Tensor) -> Tensor:
        """uint8 `[B, T, 3, I, I]` as the vision tower takes it: `[B·T, 3, I, I]`."""
        mean, std = (
            frames.new_tensor(self._image_settings[key], dtype=self.vision_tower.dtype).view(3, 1, 1)
            for key in ("image_mean", "image_std")
        )
        return frames.flatten(0, 1).to(self.vision_tower.dtype).div_(255).sub_(mean).div_(std)

    def _log_mel(self, batch: ClipBatch) -> Tensor:
        """Features from the loader, else computed here, where the device has to wait for them."""
        if batch.mel is None:
            waveforms = [
                row[:length].cpu().numpy()
                for row, length in zip(batch.waveform, batch.waveform_lengths.tolist(), strict=True)
            ]
            with in_float32(batch.waveform.device):
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
        texts = [ids for question in batch.questions for ids in self._tokenize(question)]
        # All at once: each call has a gradient as large as the vocabulary's embeddings.
        embed = self.language_model.get_input_embeddings()
        embedded = embed(torch.tensor(list(chain(*texts)), device=video.device)).split(list(map(len, texts)))
        rows = []
        for i in range(len(batch)):
            before, between, after = embedded[3 * i : 3 * i + 3]
            rows.append(torch.cat([before, video[i].to(before), between, audio[i].to(before), after]))
        lengths = torch.tensor([len(row) for row in rows], device=video.device)
        embeddings = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_side="left")
        position_ids = torch.arange(embeddings.shape[1], device=video.device) - (embeddings.shape[1] - lengths)[:, None]
        return Prompt(embeddings, (position_ids >= 0).long(), position_ids.clamp(min=0))

    def _tokenize(self, question: str) -> list[list[int]]:
        """Token ids before the video, between video and audio, and after the audio.

        Only the template may hold special tokens, never the question.
        """
        if question not in self._segments:
            before, middle, end = self._template
            self._segments[question] = [
                self._ids(f"{before}<vi_start>"),
                self._ids("<vi_end>\n<au_start>"),
                # Together with what stands before it, as a tokenizer may merge the two.
                self._ids(f"<au_end>{middle}{question}", split_special_tokens=True) + self._ids(end),
            ]
        return self._segments[question]

    @cached_property
    def _template(self) -> list[str]:
        """What the chat template writes before the media, between them and the question, and after it."""
        return render_around(self.tokenizer, f"{_MEDIA}\n{QUESTION}", (_MEDIA, QUESTION))

    def _ids(self, text: str, **options: Any) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False, **options)["input_ids"]
