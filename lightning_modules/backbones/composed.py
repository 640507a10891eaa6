"""A multimodal LLM composed of transformers' own parts: SigLIP (sees), Whisper (hears), MLP projectors, a causal LM.

It joins any SigLIP, Whisper and decoder-only LM, from hub ids or local directories. The demo and the tests join tiny
random-weight parts (`python main.py tiny`; decision 38).

Shape legend: B clips, T frames, I image size, N patches per frame, D vision width, L encoder positions, A audio width,
H width of the language model, P prompt positions.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from datamodules.batch import ClipBatch
from datamodules.files.json_files import read_json_object, shown
from datamodules.files.writing import write_json
from lightning_modules.backbones import loading
from lightning_modules.backbones.adapters import LoRA, merged_state_dict
from lightning_modules.backbones.interface import Prompt
from lightning_modules.backbones.percept import Percept, Perception
from lightning_modules.backbones.recipe import Recipe
from lightning_modules.backbones.spliced import (
    MODALITY_FIELDS,
    SplicedBackbone,
    count_tower_weights,
    find_towers,
)

_CONFIG_FILE = "backbone.json"
_SIZES = ("num_frames", "video_grid", "audio_pool")
_PROJECTORS_FILE = "projectors.safetensors"


@dataclass
class ComposedPercept(Percept):
    """Pooled tower outputs: `video` `[B, T·grid², D]`, `audio` `[B, L // audio_pool, A]`."""

    modality_fields = MODALITY_FIELDS
    video: Tensor
    audio: Tensor


def _mlp(in_features: int, out_features: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(in_features, out_features), nn.GELU(), nn.Linear(out_features, out_features))


def _pool(patches: Tensor, grid: int) -> Tensor:
    """Means of `[N, side, side, D]` over the cells of a grid: `[N, grid, grid, D]`."""
    side = patches.shape[1]
    if side % grid:
        # Cells overlap. On CUDA its backward pass is not deterministic.
        return nn.functional.adaptive_avg_pool2d(patches.movedim(-1, 1), grid).movedim(1, -1)
    return patches.unflatten(2, (grid, -1)).unflatten(1, (grid, -1)).mean(dim=(2, 4))


class ComposedBackbone(SplicedBackbone):
    """SigLIP + Whisper + MLP projectors + causal LM.

    Args:
        path: directory written by `save`; when given, everything else comes from it.
        vision: SigLIP vision encoder, hub id or directory.
        audio: Whisper model, hub id or directory (its encoder and feature extractor are used).
        language_model: decoder-only LM with a chat template, hub id or directory.
        num_frames: frames per clip.
        video_grid: tokens per side and frame, after average pooling of the patches.
        audio_pool: encoder positions averaged into one audio token.
        dtype: precision of the weights in memory; with `lora`, the projectors' is float32 as the adapters' is.
        attn_implementation: attention of transformers, e.g. "sdpa" or "flash_attention_2"; None: its default.
        lora: train adapters of the language model instead of its weights; null trains the weights.
        gradient_checkpointing: recompute the language model's layers in the backward pass: less memory, more time.
        recipes: what is trained in a stage (`cold_start`, `grpo`) and at which learning rate, unless the stage says.

    Raises:
        ValueError: neither `path` nor all three parts are given, `path` is no such directory, a part cannot be found or
            has another architecture, or the weights do not fit in memory.
    """

    def __init__(
        self,
        path: str | None = None,
        vision: str | None = None,
        audio: str | None = None,
        language_model: str | None = None,
        num_frames: int = 8,
        video_grid: int = 7,
        audio_pool: int = 3,
        dtype: Literal["float32", "bfloat16"] = "float32",
        attn_implementation: str | None = None,
        lora: LoRA | None = None,
        gradient_checkpointing: bool = False,
        recipes: dict[str, Recipe] | None = None,
    ) -> None:
        super().__init__()
        self.recipes = recipes or {}
        if path is None and (vision is None or audio is None or language_model is None):
            raise ValueError(
                "ComposedBackbone needs either `path` (a directory that it saved) or all of `vision`, `audio` and "
                f"`language_model`. Got vision={vision!r}, audio={audio!r}, language_model={language_model!r}."
            )
        if path is not None:
            num_frames, video_grid, audio_pool = _read_sizes(Path(path))
            vision, audio, language_model = (f"{path}/{part}" for part in ("vision", "audio", "language_model"))
        self.num_frames, self.video_grid, self.audio_pool = num_frames, video_grid, audio_pool
        options = {"dtype": getattr(torch, dtype), "attn_implementation": attn_implementation}
        vision_directory, audio_directory = find_towers(vision, audio)
        language_directory = _find_language_model(language_model)
        num_weights = count_tower_weights(vision_directory, audio_directory)
        num_weights += loading.count_weights(language_directory)
        loading.require_memory(num_weights, dtype, type(self).__name__)
        self._load_towers(vision_directory, audio_directory, **options)
        with loading.named(language_directory):
            self.language_model = loading.pretrained(
                AutoModelForCausalLM, language_directory, trust_remote_code=False, **options
            )
            self.tokenizer = AutoTokenizer.from_pretrained(language_directory, trust_remote_code=False)
        hidden_size = self.language_model.config.get_text_config().hidden_size
        self.vision_projector = _mlp(self.vision_tower.config.hidden_size, hidden_size)
        self.audio_projector = _mlp(self.audio_tower.config.d_model, hidden_size)
        if path is not None:
            with loading.named(path):
                self._projectors.load_state_dict(load_file(Path(path) / _PROJECTORS_FILE))
        # Beside adapters, which are float32: a step of 1e-6 would be lost in bfloat16 in either.
        self._projectors.to(options["dtype"] if lora is None else torch.float32)
        self._adapt(lora, gradient_checkpointing)

    @property
    def _projectors(self) -> nn.ModuleDict:
        return nn.ModuleDict({"vision_projector": self.vision_projector, "audio_projector": self.audio_projector})

    @property
    def parts(self) -> dict[str, nn.Module]:
        return {
            "vision_tower": self.vision_tower,
            "audio_tower": self.audio_tower,
            "vision_projector": self.vision_projector,
            "audio_projector": self.audio_projector,
            "language_model": self.language_model,
        }

    def perceive(self, batch: ClipBatch) -> ComposedPercept:
        """Pooled tower outputs of each clip; a frozen tower runs without gradient.

        Raises:
            ValueError: the frames have another number or size than this backbone takes, or the mel features another
                shape.
        """
        self.check_frames(batch)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.is_frozen("vision_tower")):
            video = self._see(batch.frames)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.is_frozen("audio_tower")):
            audio = self._hear(batch)
        return ComposedPercept(video, audio)

    def perception(self) -> Perception:
        return self._perception_of(ComposedPercept, video_grid=self.video_grid, audio_pool=self.audio_pool)

    def _see(self, frames: Tensor) -> Tensor:
        patches = self.vision_tower(pixel_values=self._pixels(frames)).last_hidden_state  # [B·T, N, D]
        side = round(patches.shape[1] ** 0.5)
        pooled = _pool(patches.unflatten(1, (side, side)), self.video_grid)
        return pooled.reshape(frames.shape[0], -1, patches.shape[-1])

    def _hear(self, batch: ClipBatch) -> Tensor:
        mel = self._log_mel(batch).to(self.audio_tower.conv1.weight)
        heard = self.audio_tower(mel).last_hidden_state  # [B, L, A]
        return nn.functional.avg_pool1d(heard.mT, self.audio_pool).mT

    def encode(self, batch: ClipBatch, percept: ComposedPercept | None = None) -> Prompt:
        percept = self.perceive(batch) if percept is None else percept
        video, audio = (
            projector(features.to(projector[0].weight))
            for projector, features in ((self.vision_projector, percept.video), (self.audio_projector, percept.audio))
        )
        return self._splice(batch, video, audio)

    def save(self, directory: str | Path) -> None:
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        self._save_towers(directory / "vision", directory / "audio")
        weights = merged_state_dict(self.language_model)
        self.language_model.save_pretrained(directory / "language_model", state_dict=weights)
        self.tokenizer.save_pretrained(directory / "language_model")
        save_file(self._projectors.state_dict(), directory / _PROJECTORS_FILE)
        write_json(directory / _CONFIG_FILE, {name: getattr(self, name) for name in _SIZES})


def _find_language_model(name: str) -> Path:
    """Directory of a causal LM.

    Raises:
        ValueError: it cannot be found, is of another architecture, or was published as another kind of model.
    """
    directory = loading.find(name, "language_model")
    what = "a causal language model of transformers, such as Qwen/Qwen2.5-0.5B-Instruct"
    config = loading.require_model_type(directory, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, "language_model", what)
    # BERT and its like have a causal class, too, which would start from an untrained head.
    expected = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[config["model_type"]]
    if expected not in (config.get("architectures") or [expected]):
        raise ValueError(
            f"language_model: {directory} has model_type {config['model_type']!r} and holds a "
            f"{', '.join(config['architectures'])}, expected a {expected} ({what})."
        )
    return directory


def _read_sizes(path: Path) -> list[int]:
    file = path / _CONFIG_FILE
    if not path.is_dir():
        raise ValueError(f"There is no directory {path}, which model.backbone.path names.")
    if not file.is_file():
        raise ValueError(
            f"{path} is no ComposedBackbone directory: {file.name} is missing. Give a directory that `fit` exported "
            "(`<run_dir>/model`) or that `python main.py tiny` wrote, or name `vision`, `audio` and `language_model`."
        )
    settings = read_json_object(file)
    sizes = [settings.get(name) for name in _SIZES]
    if not all(type(size) is int for size in sizes):
        raise ValueError(f"{file}: got {shown(settings)}. Expected whole numbers for {', '.join(_SIZES)}.")
    return sizes
