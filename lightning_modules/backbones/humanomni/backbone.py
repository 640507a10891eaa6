"""HumanOmni, the paper's backbone: HumanOmni-0.5B/7B, R1-Omni-0.5B and ERV-0.5B/7B as published.

Written from the published architecture and tested against golden values of the published code, none of which runs here.
Where that code is faulty: decisions 3, 4, 24, 34 and 36.

Shape legend: B clips, T frames, S patches per side, D vision width, L encoder positions, A audio width, H width of the
language model.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from huggingface_hub import save_torch_state_dict
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, BertConfig, BertModel, Qwen2Config

from datamodules.batch import ClipBatch
from lightning_modules.backbones import loading
from lightning_modules.backbones.adapters import LoRA, merged_state_dict
from lightning_modules.backbones.humanomni import checkpoint
from lightning_modules.backbones.humanomni.projector import AllInOneProjector, mix, mlp
from lightning_modules.backbones.interface import Prompt
from lightning_modules.backbones.percept import Percept, Perception
from lightning_modules.backbones.recipe import Recipe
from lightning_modules.backbones.spliced import (
    MODALITY_FIELDS,
    SplicedBackbone,
    count_tower_weights,
    find_towers,
)

_GATE_WIDTH = 3584
"""Hard-coded in the published code, whatever the language model's width."""

_AUDIO_POOL = 3
_TOWERS = {"vision": "towers/vision", "audio": "towers/audio", "bert": "towers/bert"}


@dataclass
class HumanOmniPercept(Percept):
    """Tower outputs: `video` `[B, T, S², D]`, `audio` `[B, L // 3, A]`."""

    modality_fields = MODALITY_FIELDS
    video: Tensor
    audio: Tensor


class HumanOmniBackbone(SplicedBackbone):
    """SigLIP + Whisper + three video branches mixed by what BERT reads in the question + Qwen2.

    Args:
        path: checkpoint directory or hub id, as published or as `save` wrote it.
        vision: SigLIP hub id or directory; by default what the checkpoint's `mm_vision_tower` names. A directory that
            `save` wrote brings its own towers, and they win.
        audio: likewise Whisper; by default what `mm_audio_tower` names.
        bert: likewise BERT's configuration and tokenizer (its weights come from the checkpoint).
        dtype: precision of the weights in memory.
        attn_implementation: attention of transformers, e.g. "sdpa" or "flash_attention_2"; None: its default.
        lora: train adapters of the language model instead of its weights; null trains the weights.
        gradient_checkpointing: recompute the language model's layers in the backward pass: less memory, more time.
        recipes: what is trained in a stage (`cold_start`, `grpo`) and at which learning rate, unless the stage says.

    Raises:
        ValueError: another architecture, missing or unexpected weights, a tower that is not where it should be, or
            weights that do not fit in memory.
    """

    def __init__(
        self,
        path: str,
        vision: str | None = None,
        audio: str | None = None,
        bert: str | None = None,
        dtype: Literal["float32", "bfloat16"] = "float32",
        attn_implementation: str | None = None,
        lora: LoRA | None = None,
        gradient_checkpointing: bool = False,
        recipes: dict[str, Recipe] | None = None,
    ) -> None:
        super().__init__()
        self.recipes = recipes or {}
        directory = loading.find(path)
        self._config = config = checkpoint.read_config(directory)
        self.num_frames: int = config["num_frames"]
        vision_directory, audio_directory = find_towers(
            _tower(directory, "vision", vision, config.get("mm_vision_tower")),
            _tower(directory, "audio", audio, config.get("mm_audio_tower")),
        )
        bert = _tower(directory, "bert", bert, "google-bert/bert-base-uncased")
        bert_directory = loading.find(bert, "bert", weights=False)
        loading.require_model_type(bert_directory, {"bert"}, "bert", "a BERT model")
        options = {"dtype": getattr(torch, dtype), "attn_implementation": attn_implementation}
        num_weights = count_tower_weights(vision_directory, audio_directory)
        num_weights += loading.count_weights(directory, skip=checkpoint.UNUSED)
        loading.require_memory(num_weights, dtype, type(self).__name__)
        self._load_towers(vision_directory, audio_directory, **options)
        with loading.named(bert_directory):
            self.bert_tokenizer = AutoTokenizer.from_pretrained(bert_directory, trust_remote_code=False)
            self.bert = BertModel(BertConfig.from_pretrained(bert_directory), add_pooling_layer=False)
        with loading.named(directory):
            self.tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=False)
        hidden_size = config["hidden_size"]
        known = set(Qwen2Config().to_dict()) | {"rope_theta", "rope_scaling"}
        own = {"model_type": Qwen2Config.model_type, "architectures": ["Qwen2ForCausalLM"]}
        language_config = Qwen2Config.from_dict({**{k: v for k, v in config.items() if k in known}, **own})
        self.language_model = AutoModelForCausalLM.from_config(language_config, trust_remote_code=False, **options)
        self.bert_gate = nn.Sequential(
            nn.Linear(self.bert.config.hidden_size, _GATE_WIDTH), nn.GELU(), nn.Linear(_GATE_WIDTH, 3)
        )
        self.audio_projector = mlp(config["audio_hidden_size"], hidden_size)
        self.mm_projector = AllInOneProjector(config["mm_projector_type"], config["mm_hidden_size"], hidden_size)
        self.to(options["dtype"])
        checkpoint.load(self._checkpointed, directory)
        self._adapt(lora, gradient_checkpointing)

    @property
    def _checkpointed(self) -> dict[str, nn.Module]:
        """The modules whose weights stand in the checkpoint."""
        return {name: part for name, part in self.parts.items() if not name.endswith("_tower")}

    @property
    def parts(self) -> dict[str, nn.Module]:
        names = ("vision_tower", "audio_tower", "bert", "bert_gate", "mm_projector", "audio_projector")
        return {name: self.get_submodule(name) for name in (*names, "language_model")}

    def perceive(self, batch: ClipBatch) -> HumanOmniPercept:
        self.check_frames(batch)
        return HumanOmniPercept(self.see(self._pixels(batch.frames)), self.hear(self._log_mel(batch)))

    def perception(self) -> Perception:
        return self._perception_of(HumanOmniPercept, layer=self._config["mm_vision_select_layer"])

    def see(self, pixels: Tensor) -> Tensor:
        """Patch features `[B, T, S², D]` of normalised frames `[B·T, 3, I, I]`: last layer but one, no norm."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.is_frozen("vision_tower")):
            layers = self.vision_tower(pixel_values=pixels, output_hidden_states=True).hidden_states
        return layers[self._config["mm_vision_select_layer"]].unflatten(0, (-1, self.num_frames))

    def hear(self, mel: Tensor) -> Tensor:
        """Pooled Whisper features `[B, L // 3, A]` of log-mel features `[B, bins, 2L]`."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.is_frozen("audio_tower")):
            heard = self.audio_tower(mel.to(self.audio_tower.conv1.weight)).last_hidden_state
        return nn.functional.avg_pool1d(heard.mT, _AUDIO_POOL).mT

    def gate(self, instructions: list[str]) -> Tensor:
        """Weights of the video, body and face branch for each bare question: `[B, 3]`."""
        tokens = self.bert_tokenizer(
            instructions,
            padding=True,
            truncation=True,
            split_special_tokens=True,
            max_length=self.bert.config.max_position_embeddings,
            return_tensors="pt",
        ).to(self.bert.device)
        return self.bert_gate(self.bert(**tokens).last_hidden_state[:, 0]).softmax(dim=-1)

    def encode(self, batch: ClipBatch, percept: HumanOmniPercept | None = None) -> Prompt:
        percept = self.perceive(batch) if percept is None else percept
        video = mix(self.mm_projector(percept.video), self.gate(batch.instructions))
        return self._splice(batch, video, self.audio_projector(percept.audio))

    def save(self, directory: str | Path) -> None:
        """Write the checkpoint with the published key names, and beside it the towers that it was trained with."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        vision, audio, bert = (directory / _TOWERS[name] for name in ("vision", "audio", "bert"))
        self._save_towers(vision, audio)
        self.bert.config.save_pretrained(bert)
        self.bert_tokenizer.save_pretrained(bert)
        self.tokenizer.save_pretrained(directory)
        config = {**self._config, "mm_vision_tower": _TOWERS["vision"], "mm_audio_tower": _TOWERS["audio"]}
        (directory / "config.json").write_text(json.dumps(config, indent=2))
        tensors = {
            checkpoint.published_name(module, name): tensor
            for module, part in self._checkpointed.items()
            for name, tensor in merged_state_dict(part).items()
        }
        if self._config["tie_word_embeddings"]:
            del tensors["lm_head.weight"]
        save_torch_state_dict(tensors, directory)


def _tower(directory: Path, name: str, given: str | None, configured: str | None) -> str:
    """Directory or hub id of a tower: the one saved with the checkpoint, else the one given, else the configured."""
    if (directory / _TOWERS[name]).is_dir():
        return str(directory / _TOWERS[name])
    source = given or configured or ""
    if given is None and (directory / source).is_dir() and source:
        return str(directory / source)
    is_hub_id = source.count("/") == 1 and not source.startswith((".", "/", "towers/"))
    if not Path(source).is_dir() and not is_hub_id:
        hint = {"vision": "google/siglip-base-patch16-224", "audio": "openai/whisper-large-v3"}.get(name, source)
        raise ValueError(
            f"The {name} tower {source!r} of {directory} is no directory here (published configurations name the "
            f"authors' disks). Set model.backbone.init_args.{name} to its directory or hub id, e.g. {hint} "
            "(so400m-patch14-384 for the 7B models)."
        )
    return source
