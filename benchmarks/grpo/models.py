"""The models and clips of a geometry: random weights of the real architectures, random media."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    SiglipVisionConfig,
    SiglipVisionModel,
    WhisperConfig,
    WhisperFeatureExtractor,
)
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from benchmarks.grpo.geometries import Audio, Geometry, Vision
from datamodules.batch import Clip, ClipBatch, collate
from datamodules.clip_source import INSTRUCTION
from lightning_modules.backbones.composed import ComposedBackbone
from lightning_modules.backbones.decoder import Decoder
from lightning_modules.backbones.decoder_backbone import DecoderBackbone
from lightning_modules.backbones.humanomni import checkpoint
from lightning_modules.backbones.humanomni.backbone import HumanOmniBackbone
from lightning_modules.backbones.interface import Prompt
from lightning_modules.backbones.percept import Percept
from lightning_modules.backbones.tiny import CHAT_TEMPLATE, train_tokenizer

_NUM_FRAMES = 8
_MEL_FRAMES_PER_SECOND = 100


class _Endless:
    """No token ends a completion, so that every method samples the same number of tokens."""

    stop_token_ids = (-1,)


class TextBackbone(_Endless, DecoderBackbone):
    """A language model that reads the instruction as it is: for comparison with trainers of text-only models.

    Args:
        directory: Hugging Face directory of the model and its tokenizer.
        dtype: precision of the weights.
    """

    num_frames = image_size = 0

    def __init__(self, directory: Path, dtype: str) -> None:
        super().__init__()
        self.language_model = AutoModelForCausalLM.from_pretrained(directory, dtype=getattr(torch, dtype))
        self.tokenizer = load_word_tokenizer(directory)
        self._adapt(lora=None, gradient_checkpointing=False)

    @property
    def pretrained(self) -> PreTrainedModel:
        return self.language_model

    @property
    def decoder(self) -> Decoder:
        return Decoder.of(self.language_model)

    @property
    def parts(self) -> dict[str, nn.Module]:
        return {"language_model": self.language_model}

    def perceive(self, batch: ClipBatch) -> Percept:
        return Percept()

    def encode(self, batch: ClipBatch, percept: Percept | None = None) -> Prompt:
        tokens = self.tokenizer(list(batch.instructions), return_tensors="pt").to(self.language_model.device)
        positions = torch.arange(tokens["input_ids"].shape[1], device=self.language_model.device)
        embeddings = self.language_model.get_input_embeddings()(tokens["input_ids"])
        return Prompt(embeddings, tokens["attention_mask"], positions.expand_as(tokens["input_ids"]))

    def save(self, directory: str | Path) -> None:
        self.language_model.save_pretrained(directory)
        self.tokenizer.save_pretrained(directory)


class _EndlessComposed(_Endless, ComposedBackbone):
    pass


class _EndlessHumanOmni(_Endless, HumanOmniBackbone):
    @property
    def _checkpointed(self) -> dict[str, nn.Module]:
        # The other parts keep the random weights that they were made with.
        return {"language_model": self.language_model}


def build(geometry: Geometry, directory: Path, seed: int) -> DecoderBackbone:
    """Write random weights of a geometry to a directory, and load them; the same weights for the same seed."""
    transformers.logging.disable_progress_bar()
    transformers.logging.set_verbosity_error()
    torch.manual_seed(seed)
    if geometry.backbone == "text":
        _write_language_model(directory, geometry)
        return _frozen_but(TextBackbone(directory, geometry.dtype), geometry)
    assert geometry.vision is not None and geometry.audio is not None
    _write_vision(directory / "vision", geometry.vision)
    _write_audio(directory / "audio", geometry.audio)
    parts = {"vision": str(directory / "vision"), "audio": str(directory / "audio"), "dtype": geometry.dtype}
    if geometry.backbone == "composed":
        _write_language_model(directory / "language_model", geometry)
        load = partial(_EndlessComposed, language_model=str(directory / "language_model"), num_frames=_NUM_FRAMES)
        grid = geometry.vision.image // geometry.vision.patch // 2
        return _frozen_but(load(**parts, video_grid=grid), geometry)
    _write_humanomni(directory, geometry, geometry.vision, geometry.audio)
    return _frozen_but(_EndlessHumanOmni(str(directory), bert=str(directory / "bert"), **parts), geometry)


def _frozen_but(backbone: DecoderBackbone, geometry: Geometry) -> DecoderBackbone:
    backbone.set_trainable(geometry.trainable)
    return backbone


def make_batch(geometry: Geometry, seed: int) -> ClipBatch:
    """Random clips, or random texts of `prompt_tokens` words; the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    return collate([_make_clip(geometry, number, generator) for number in range(geometry.num_prompts)])


def _make_clip(geometry: Geometry, number: int, generator: torch.Generator) -> Clip:
    instruction, mel = INSTRUCTION, None
    if geometry.audio is None:
        words = torch.randint(geometry.language.vocabulary - 2, (geometry.prompt_tokens,), generator=generator)
        instruction = " ".join(f"w{word}" for word in words.tolist())
    else:
        num_mel_frames = _MEL_FRAMES_PER_SECOND * geometry.audio.seconds
        mel = torch.randn(geometry.audio.mel_bins, num_mel_frames, generator=generator)
    size, num_frames = (geometry.vision.image, _NUM_FRAMES) if geometry.vision else (1, 0)
    return Clip(
        id=f"clip{number}",
        media=f"clip{number}.mp4",
        frames=torch.randint(256, (num_frames, 3, size, size), generator=generator, dtype=torch.uint8),
        waveform=torch.zeros(1),
        has_audio=True,
        instruction=instruction,
        target="anger",
        mel=mel,
    )


def _write_language_model(directory: Path, geometry: Geometry) -> None:
    make_tokenizer: Callable[[int], PreTrainedTokenizerFast] = (
        _word_tokenizer if geometry.backbone == "text" else _chat_tokenizer
    )
    tokenizer = make_tokenizer(geometry.language.vocabulary)
    tokenizer.save_pretrained(directory)
    sizes = geometry.language
    config = Qwen2Config(
        vocab_size=sizes.vocabulary,
        hidden_size=sizes.hidden,
        intermediate_size=sizes.intermediate,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.heads,
        num_key_value_heads=sizes.kv_heads,
        max_position_embeddings=32_768,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    Qwen2ForCausalLM(config).to(getattr(torch, geometry.dtype)).save_pretrained(directory)


def load_word_tokenizer(directory: Path) -> PreTrainedTokenizerFast:
    """The tokenizer of a "text" geometry. AutoTokenizer would make a byte-level Qwen2 tokenizer of it."""
    return PreTrainedTokenizerFast.from_pretrained(directory)


def _word_tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    """`w0 w1 ...`: as many tokens as words."""
    words = ["<pad>", "<eos>", *(f"w{i}" for i in range(vocabulary - 2))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>")


def _chat_tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=train_tokenizer([INSTRUCTION], vocabulary, special),
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def _write_vision(directory: Path, sizes: Vision) -> None:
    config = SiglipVisionConfig(
        hidden_size=sizes.hidden,
        intermediate_size=sizes.intermediate,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.heads,
        image_size=sizes.image,
        patch_size=sizes.patch,
        vision_use_head=False,
    )
    SiglipVisionModel(config).save_pretrained(directory)
    settings = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": {"height": sizes.image, "width": sizes.image}}
    (directory / "preprocessor_config.json").write_text(json.dumps(settings))


def _write_audio(directory: Path, sizes: Audio) -> None:
    config = WhisperConfig(
        d_model=sizes.hidden,
        encoder_layers=sizes.layers,
        encoder_attention_heads=sizes.heads,
        encoder_ffn_dim=sizes.intermediate,
        num_mel_bins=sizes.mel_bins,
        max_source_positions=sizes.seconds * _MEL_FRAMES_PER_SECOND // 2,
    )
    WhisperEncoder(config).save_pretrained(directory)
    WhisperFeatureExtractor(feature_size=sizes.mel_bins, chunk_length=sizes.seconds).save_pretrained(directory)


def _write_humanomni(directory: Path, geometry: Geometry, vision: Vision, audio: Audio) -> None:
    """A checkpoint with the language model's weights only; see `_EndlessHumanOmni`."""
    _write_language_model(directory, geometry)
    config_file, (bert_hidden, bert_layers) = directory / "config.json", geometry.bert
    config = json.loads(config_file.read_text()) | {
        "model_type": checkpoint.MODEL_TYPE,
        "mm_projector_type": "all_in_one_small",
        "mm_hidden_size": vision.hidden,
        "audio_hidden_size": audio.hidden,
        "mm_vision_select_layer": -2,
        "num_frames": _NUM_FRAMES,
    }
    config_file.write_text(json.dumps(config))
    bert = directory / "bert"
    bert.mkdir()
    words = sorted(set(INSTRUCTION.lower()) - {" "})
    (bert / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]))
    BertTokenizer(str(bert / "vocab.txt")).save_pretrained(bert)
    BertConfig(
        hidden_size=bert_hidden,
        num_hidden_layers=bert_layers,
        num_attention_heads=max(bert_hidden // 64, 1),
        intermediate_size=4 * bert_hidden,
    ).save_pretrained(bert)
