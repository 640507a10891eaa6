"""Video-language models of transformers, from their published checkpoints, through transformers' own classes.

Clips pass one by one up to the language model, which sees them together, padded on the left. So a row of a batch is
what it is alone, whatever a model does with padding.

Shape legend: B clips, T frames, I image size, P prompt positions, H hidden size.
"""

import warnings
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from datamodules.batch import ClipBatch
from datamodules.files.json_files import read_json_object
from datamodules.rationale import TAGS
from lightning_modules.backbones import loading, published_adapter
from lightning_modules.backbones.adapters import LoRA, merged_state_dict
from lightning_modules.backbones.decoder import Decoder
from lightning_modules.backbones.decoder_backbone import LANGUAGE_MODEL, DecoderBackbone, as_part, end_tokens
from lightning_modules.backbones.hf import (  # noqa: F401 - the families are found among Family's subclasses
    llava_onevision,
    phi4,
    processor_family,
    qwen_omni,
    qwen_vl,
    smolvlm,
)
from lightning_modules.backbones.hf.family import ClipInput, MediaInputs, find_family, known_model_types
from lightning_modules.backbones.hf.percept import HFPercept
from lightning_modules.backbones.hf.replay import Recording, record, replay
from lightning_modules.backbones.interface import Prompt
from lightning_modules.backbones.percept import Modality, Perception
from lightning_modules.backbones.precision import in_float32
from lightning_modules.backbones.recipe import Recipe
from lightning_modules.chat_template import QUESTION, render_around, tokenize_around

_PROCESSOR_FILES = (
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "processor_config.json",
    "chat_template.json",
)


class HFBackbone(DecoderBackbone):
    """A video-language model of transformers whose family is known (`lightning_modules/backbones/hf/`).

    Args:
        path: hub id (`id@revision` for another than the main one) or directory of a published checkpoint, or what
            `save` wrote.
        num_frames: frames per clip.
        image_size: side of the frames, in pixels; a multiple of what the model cuts them into.
        dtype: precision of the weights in memory.
        attn_implementation: attention of transformers, e.g. "sdpa" or "flash_attention_2"; None: its default.
        adapter: of a model that is published with adapters (Phi-4-multimodal), the folder of the one to merge into the
            weights; null: the family's first. An export has it merged already.
        lora: train adapters of the language model instead of its weights; null trains the weights.
        gradient_checkpointing: recompute the language model's layers in the backward pass: less memory, more time.
        recipes: trained parts and learning rate by stage, `cold_start` and `grpo`.

    Raises:
        ValueError: an architecture that is not known here, an adapter that the checkpoint lacks, or an image size that
            cannot be cut into patches.
    """

    def __init__(
        self,
        path: str,
        num_frames: int = 8,
        image_size: int = 224,
        dtype: Literal["float32", "bfloat16"] = "float32",
        attn_implementation: str | None = None,
        adapter: str | None = None,
        lora: LoRA | None = None,
        gradient_checkpointing: bool = False,
        recipes: dict[str, Recipe] | None = None,
    ) -> None:
        super().__init__()
        directory = loading.find(path)
        config = loading.require_model_type(directory, known_model_types(), "path", "a multimodal LLM")
        family = find_family(config["model_type"])
        adapter = published_adapter.find(directory, family.adapters, config, adapter)
        options = {"dtype": getattr(torch, dtype), "attn_implementation": attn_implementation}
        loading.require_memory(loading.count_weights(directory, family.unused_weights), dtype, path)
        with loading.named(directory):
            self.model = family.load(directory, adapter, **options)
            self.tokenizer = _load_tokenizer(directory, self.model.config)
            self.family = family(self.model, self.tokenizer, directory)
        self.num_frames, self.image_size, self.recipes = num_frames, image_size, recipes
        self._attention = attn_implementation
        self._templates: dict[tuple[Modality, ...], list[str]] = {}
        # Written again by `save`: transformers' processors, which own these files, need torchvision.
        self._processor_files = {
            name: (directory / name).read_bytes() for name in _PROCESSOR_FILES if (directory / name).is_file()
        }
        only = self.family.only_image_size
        if image_size % self.family.image_multiple or only not in (None, image_size):
            expected = f"a multiple of {self.family.image_multiple}" if only is None else only
            raise ValueError(
                f"image_size is {image_size}; {path} needs {expected} pixels. Set it here and as data.media.image_size."
            )
        if not self.family.hears:
            warnings.warn(f"{path} cannot hear: it is trained and evaluated on video alone.", stacklevel=2)
        if not self.family.sees:
            warnings.warn(
                f"{path} cannot see: of a clip without sound, its prompt has the question alone.", stacklevel=2
            )
        self._adapt(lora, gradient_checkpointing)

    @property
    def pretrained(self) -> PreTrainedModel:
        return self.model

    @property
    def decoder(self) -> Decoder:
        decoder = Decoder.of(self.model, self.family.prompt_arguments, self.family.token_extras)
        return replace(decoder, body=self.family.text_model)

    @property
    def parts(self) -> dict[str, nn.Module]:
        return {**self.family.parts, LANGUAGE_MODEL: as_part(self.decoder)}

    @property
    def stop_token_ids(self) -> list[int]:
        return sorted({*super().stop_token_ids, *end_tokens(self.model)})

    def perceive(self, batch: ClipBatch) -> HFPercept:
        """What the frozen towers return for each clip; a tower in training is left to `encode`.

        Raises:
            ValueError: the frames have another number or size than this backbone takes.
        """
        self.check_frames(batch)
        towers = {name: calls for name, calls in self.family.tower_calls.items() if self.is_frozen(name)}
        media = [self._media(batch, i) for i in range(len(batch))]
        recordings: list[dict[str, Recording]] = []
        for i in range(len(batch)):
            with ExitStack() as stack:
                stack.enter_context(torch.no_grad())
                recordings.append({name: stack.enter_context(record(calls)) for name, calls in towers.items()})
                if towers:
                    self._captured(batch.questions[i], media[i])
        return HFPercept(recordings, media)

    def perception(self) -> Perception:
        config = self.model.config
        towers = {name: part for name, part in self.parts.items() if name in self.family.tower_calls}
        settings = {
            "family": type(self.family).__name__,
            "config": {name: value for name, value in config.to_dict().items() if name != "text_config"},
            "attention": self._attention,
            "processor": {name: content.decode() for name, content in self._processor_files.items()},
        }
        return Perception(towers, settings, HFPercept)

    def encode(self, batch: ClipBatch, percept: HFPercept | None = None) -> Prompt:
        percept = self.perceive(batch) if percept is None else percept
        rows = []
        for i, (recordings, media) in enumerate(zip(percept.recordings, percept.media, strict=True)):
            with ExitStack() as stack:
                for name, recording in recordings.items():
                    stack.enter_context(replay(self.family.tower_calls[name], recording))
                rows.append(self._row(self._captured(batch.questions[i], media or self._media(batch, i))))
        return _stack(rows)

    def _media(self, batch: ClipBatch, index: int) -> MediaInputs:
        """One clip as the model takes it in."""
        waveform = batch.waveform[index, : batch.waveform_lengths[index]]
        duration, has_video = float(batch.durations_seconds[index]), bool(batch.has_video[index])
        clip = ClipInput(batch.frames[index], waveform, duration, has_video)
        with in_float32(batch.frames.device):
            return self.family.media(clip)

    def _captured(self, instruction: str, media: MediaInputs) -> dict[str, Any]:
        """What the language model is called with for one clip and question."""
        ids = torch.tensor([self.token_ids(instruction, media)], device=self.model.device)
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), **media.arguments}
        inputs |= self.family.token_arguments(ids)
        return self.family.captured(inputs)

    def _row(self, captured: dict[str, Any]) -> Prompt:
        """A prompt of one row, without padding.

        Raises:
            ValueError: the model does not let each position attend to all before it, and to no other.
        """
        embeddings = captured["inputs_embeds"]
        mask = captured.get("attention_mask")
        masks = mask.values() if isinstance(mask, dict) else [mask]  # by kind of layer
        if not all(m is None or (isinstance(m, Tensor) and m.dim() == 2 and m.all()) for m in masks):
            raise ValueError(
                f"{type(self.model).__name__} gives its language model an attention mask of its own, such as one in "
                "which the patches of an image see each other. Here a prompt is causal; this model would read it "
                "differently from how it was trained."
            )
        positions = captured.get("position_ids")
        if positions is None:
            positions = torch.arange(embeddings.shape[1], device=embeddings.device)[None]
        elif positions.dim() == 3:
            positions = positions[-3:].movedim(0, -1)  # of four axes, the first is for packed rows
        mask = torch.ones(embeddings.shape[:2], dtype=torch.long, device=embeddings.device)
        return Prompt(embeddings, mask, positions, self.family.extras(captured))

    def token_ids(self, instruction: str, media: MediaInputs) -> list[int]:
        """A prompt's tokens. Only the template and the placeholders may hold special tokens, never the question."""
        before, after = self._template(media.modalities)
        pieces, placeholders = self.family.cut(before), media.placeholders
        if len(pieces) != len(placeholders) + 1:
            raise ValueError(
                f"The chat template writes {self.family.placeholder!r} {len(pieces) - 1} times for a clip; expected "
                f"{len(placeholders)}. It may be of another model: {before!r}."
            )
        before = pieces[0] + "".join(p + piece for p, piece in zip(placeholders, pieces[1:], strict=True))
        return tokenize_around(self.tokenizer, before, instruction, after)

    def _template(self, modalities: tuple[Modality, ...]) -> list[str]:
        """What the chat template writes around a question, the clip before it."""
        if modalities not in self._templates:
            content = [*self.family.content(self.num_frames, modalities), {"type": "text", "text": QUESTION}]
            before, after = render_around(self.tokenizer, content, chat_template=self.family.chat_template)
            # A model that thinks may find `<think>` written for it; here completions begin with it themselves.
            self._templates[modalities] = [before, after.partition(TAGS[0])[0]]
        return self._templates[modalities]

    def save(self, directory: str | Path) -> None:
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        self.model.save_pretrained(directory, state_dict=merged_state_dict(self.model))
        for name, content in self._processor_files.items():
            (directory / name).write_bytes(content)
        self.tokenizer.save_pretrained(directory)


def _load_tokenizer(directory: Path, config: PreTrainedConfig) -> PreTrainedTokenizerBase:
    """The tokenizer, with the processor's chat template where there is one (the tokenizer of Omni has none)."""
    tokenizer = AutoTokenizer.from_pretrained(directory, config=config, trust_remote_code=False)
    file = directory / "chat_template.json"
    if file.is_file():
        tokenizer.chat_template = read_json_object(file).get("chat_template")
    return tokenizer


def _stack(rows: list[Prompt]) -> Prompt:
    """Prompts of one row each, padded on the left to the longest."""
    length = max(row.embeddings.shape[1] for row in rows)

    def padded(tensor: Tensor, value: Tensor) -> Tensor:
        return torch.cat([value.expand(1, length - tensor.shape[1], *tensor.shape[2:]), tensor], dim=1)

    def stacked(tensors: list[Tensor]) -> Tensor:
        return torch.cat([padded(tensor, tensor.new_zeros(())) for tensor in tensors])

    return Prompt(
        # Not 0: Gemma 3n takes the root of an embedding's size, whose gradient would be NaN, although it is masked.
        torch.cat([padded(row.embeddings, row.embeddings[:, :1].detach()) for row in rows]),
        stacked([row.attention_mask for row in rows]),
        stacked([row.position_ids for row in rows]),
        {name: stacked([row.extras[name] for row in rows]) for name in rows[0].extras},
    )
