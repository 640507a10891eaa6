"""The thinkers of Qwen2.5-Omni and Qwen3-Omni: Qwen-VL with ears, audio and video tokens interleaved, aligned in time.

What a clip lacks is left out of its prompt: it is a video without sound, or a sound.

A published checkpoint may also hold a talker and a vocoder, which speak the thinker's text; they are not loaded.

Shape legend: T frames, S audio samples, M mel bins, F feature frames.
"""

import re
from bisect import bisect_left
from itertools import zip_longest
from math import ceil
from operator import itemgetter
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Qwen2_5OmniThinkerForConditionalGeneration,
    Qwen3OmniMoeThinkerForConditionalGeneration,
    WhisperFeatureExtractor,
)

from datamodules.batch import SAMPLE_RATE
from lightning_modules.backbones.hf.family import ClipInput, MediaInputs
from lightning_modules.backbones.hf.qwen_vl import Qwen3VL, QwenVL
from lightning_modules.backbones.hf.replay import Call
from lightning_modules.backbones.percept import Modality

_MIN_FEATURE_FRAMES = 3
"""The audio tower halves the feature frames, rounding up, and then averages pairs: of fewer there would be no token."""


def chunk_sizes(positions: list[int], width: int) -> list[int]:
    """Tokens per chunk of time.

    Chunk k begins with the first token at `k · width` or later, but one token after chunk k-1 at the earliest: a gap
    of several chunks leaves one token in each, as in Qwen's processor and in its model's positions.

    Args:
        positions: in time, of each token; ascending from 0.
        width: of a chunk, in positions.
    """
    starts = [0]
    while (start := max(bisect_left(positions, len(starts) * width), starts[-1] + 1)) < len(positions):
        starts.append(start)
    return [end - start for start, end in zip(starts, [*starts[1:], len(positions)], strict=True)]


class QwenOmni(QwenVL):
    """Qwen2.5-Omni, from a published checkpoint or from one of the thinker alone."""

    model_types = ("qwen2_5_omni", "qwen2_5_omni_thinker")
    hears = True
    unused_weights = re.compile(r"(talker|token2wav)\.")
    model_class = Qwen2_5OmniThinkerForConditionalGeneration
    audio_projectors: ClassVar[tuple[str, ...]] = ("ln_post", "proj")
    """Modules of the audio tower behind its layers."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, directory: Path) -> None:
        super().__init__(model, tokenizer, directory)
        self._feature_extractor = WhisperFeatureExtractor.from_pretrained(directory)

    @property
    def placeholder(self) -> str:
        return self.tokenizer.video_token

    @property
    def _audio_tower(self) -> Any:
        return self.model.model.audio_tower

    @property
    def parts(self) -> dict[str, nn.Module]:
        projector = [self._audio_tower.get_submodule(name) for name in self.audio_projectors]
        tower = [child for child in self._audio_tower.children() if not any(child is module for module in projector)]
        return {
            **super().parts,
            "audio_tower": nn.ModuleList(tower),
            "audio_projector": nn.ModuleList(projector),
        }

    @property
    def tower_calls(self) -> dict[str, list[Call]]:
        layers = self._audio_tower.layers
        calls = [Call(layer, kept=layer is layers[-1]) for layer in layers]
        return {**super().tower_calls, "audio_tower": calls}

    def content(self, num_frames: int, modalities: tuple[Modality, ...]) -> list[dict[str, str]]:
        return [{"type": "video" if "pictures" in modalities else "audio"}]

    @property
    def item_tokens(self) -> tuple[str, ...]:
        return (self.placeholder, self.tokenizer.audio_token)

    def media(self, clip: ClipInput) -> MediaInputs:
        if clip.modalities == ("sound",):
            heard = self._heard(clip.waveform)
            tokens = self.tokenizer.audio_token * self.num_audio_tokens(heard["input_features"].shape[-1])
            return MediaInputs([tokens], heard, clip.modalities)
        vision = self._vision
        patches, grid = self._patches(clip)
        seconds = self._grid_seconds(clip.seconds_per_frame * vision.temporal_patch_size)
        num_groups, height, width = grid[0].tolist()
        group_size = height * width // vision.spatial_merge_size**2
        arguments = {"pixel_values_videos": patches, "video_grid_thw": grid, "video_second_per_grid": seconds[None]}
        if not len(clip.waveform):
            return MediaInputs([self.tokenizer.video_token * (num_groups * group_size)], arguments)
        arguments |= self._heard(clip.waveform) | {"use_audio_in_video": True}
        # The model's own arithmetic, in float32: where two tokens meet, rounding decides which comes first.
        group_positions = torch.arange(num_groups) * seconds * self.model.config.position_id_per_seconds
        audio_length = self.num_audio_tokens(arguments["input_features"].shape[-1])
        order = self._order(group_positions.repeat_interleave(group_size), audio_length)
        return MediaInputs([f"{self.tokenizer.audio_bos_token}{order}{self.tokenizer.audio_eos_token}"], arguments)

    def _heard(self, waveform: Tensor) -> dict[str, Any]:
        features = self.log_mel(waveform)
        mask = torch.ones_like(features[:, 0], dtype=torch.long)
        return {"input_features": features, "feature_attention_mask": mask}

    def num_audio_tokens(self, num_feature_frames: int) -> int:
        """Tokens that the audio tower makes of log-mel frames: 25 for the 100 frames of a second."""
        return ((num_feature_frames - 1) // 2 + 1) // 2

    def _grid_seconds(self, seconds: float) -> Tensor:
        """Time from one group of frames to the next as the model is told it, float32 `[]`."""
        return torch.tensor(seconds)

    def _order(self, video_positions: Tensor, audio_length: int) -> str:
        """Placeholders of a video with sound: by chunks of two seconds, first what is seen and then what is heard.

        Args:
            video_positions: in time, of each video token, float32.
            audio_length: audio tokens, one per position.
        """
        tokenizer, config = self.tokenizer, self.model.config
        width = int(config.position_id_per_seconds * config.seconds_per_chunk)
        video = [tokenizer.video_token * size for size in chunk_sizes(video_positions.long().tolist(), width)]
        audio = [tokenizer.audio_token * size for size in chunk_sizes(list(range(audio_length)), width)]
        return "".join(seen + heard for seen, heard in zip_longest(video, audio, fillvalue=""))

    def log_mel(self, waveform: Tensor) -> Tensor:
        """Features of a waveform as long as it is, `[1, M, F]`: a frame per begun hop of 10 ms, at least three.

        Args:
            waveform: float32 mono 16 kHz `[S]`, S > 0.
        """
        extractor = self._feature_extractor
        num_frames = ceil(min(len(waveform), extractor.n_samples) / extractor.hop_length)
        num_frames = max(num_frames, _MIN_FEATURE_FRAMES)
        # The processor pads to 30 seconds or more, and drops the frames of padding behind the waveform. Of the silence,
        # the last frames see no more than one window, and that is added here.
        num_silent = ceil(extractor.n_fft / extractor.hop_length)
        features = extractor(
            waveform[: extractor.n_samples].cpu().numpy(),
            max_length=min((num_frames + num_silent) * extractor.hop_length, extractor.n_samples),
            sampling_rate=SAMPLE_RATE,
            return_tensors="pt",
        ).input_features
        return features[..., :num_frames].to(waveform.device)

    def token_arguments(self, token_ids: Tensor) -> dict[str, Any]:
        return {}


class Qwen3Omni(QwenOmni, Qwen3VL):
    """Qwen3-Omni's thinker, a mixture of experts: token by token in the order of time, features of several depths."""

    model_types = ("qwen3_omni_moe", "qwen3_omni_moe_thinker")
    unused_weights = re.compile(r"(talker|code2wav)\.")
    model_class = Qwen3OmniMoeThinkerForConditionalGeneration
    audio_projectors = ("ln_post", "proj1", "proj2")

    def num_audio_tokens(self, num_feature_frames: int) -> int:
        """Tokens that the audio tower makes of log-mel frames: of each second an eighth, rounded up."""
        seconds, rest = divmod(num_feature_frames, 100)
        return seconds * 13 + ceil(rest / 8)

    def _grid_seconds(self, seconds: float) -> Tensor:
        # A multiple of a millisecond or so, of which float32 holds every position exactly: so tokens stand where the
        # model, which adds what came before the clip, puts their positions.
        return torch.tensor(round(seconds * 1024) / 1024)

    def _order(self, video_positions: Tensor, audio_length: int) -> str:
        seen = [(position, self.tokenizer.video_token) for position in video_positions.tolist()]
        heard = [(float(position), self.tokenizer.audio_token) for position in range(audio_length)]
        return "".join(token for _, token in sorted(seen + heard, key=itemgetter(0)))

    def log_mel(self, waveform: Tensor) -> Tensor:
        """Features of a waveform as long as it is, `[1, M, F]`: a frame per whole hop of 10 ms, at least two."""
        extractor = self._feature_extractor
        waveform = nn.functional.pad(waveform, (0, max(extractor.n_fft - len(waveform), 0)))
        options = {"padding": True, "truncation": False, "return_tensors": "pt", "sampling_rate": SAMPLE_RATE}
        return extractor(waveform.cpu().numpy(), **options).input_features.to(waveform.device)
