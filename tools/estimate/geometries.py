"""Settings of HumanOmni models, for estimates where no published directory can be reached.

Tokenizers are trained on the spot on the instruction: a prompt's text has about as many tokens as with Qwen's.
"""

import json
from pathlib import Path

from transformers import (
    BertConfig,
    BertTokenizer,
    PreTrainedTokenizerFast,
    Qwen2Config,
    SiglipVisionConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
)

from datamodules.clip_source import INSTRUCTION
from lightning_modules.backbones.humanomni.checkpoint import MODEL_TYPE
from lightning_modules.backbones.tiny import CHAT_TEMPLATE, train_tokenizer
from tools.estimate.sizes import BASE, DECODERS, SO400M

_NUM_FRAMES = 8
_TOKENIZER_SIZE = 1_000
"""Enough for each word of the instruction to be one token."""


def write_settings(geometry: str, directory: Path) -> dict[str, str]:
    """Write the settings of one of `GEOMETRIES`, without weights.

    Returns:
        Options of `HumanOmniBackbone` that find them.
    """
    vision = _write_vision(directory / "vision", is_small=geometry == "0.5b")
    audio = WhisperConfig(
        d_model=1_280,
        encoder_layers=32,
        encoder_attention_heads=20,
        encoder_ffn_dim=5_120,
        num_mel_bins=128,
    )
    audio.save_pretrained(directory / "audio")
    WhisperFeatureExtractor(feature_size=128).save_pretrained(directory / "audio")
    _write_bert(directory / "bert")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=train_tokenizer(
            [INSTRUCTION] * 2, _TOKENIZER_SIZE, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
        ),
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(directory)
    config = Qwen2Config(**DECODERS[geometry], max_position_embeddings=32_768).to_dict() | {
        "model_type": MODEL_TYPE,
        "mm_projector_type": "all_in_one_small" if geometry == "0.5b" else "all_in_one",
        "mm_hidden_size": vision.hidden_size,
        "audio_hidden_size": audio.d_model,
        "mm_vision_select_layer": -2,
        "num_frames": _NUM_FRAMES,
    }
    (directory / "config.json").write_text(json.dumps(config))
    return {"path": str(directory), **{name: str(directory / name) for name in ("vision", "audio", "bert")}}


def _write_vision(directory: Path, is_small: bool) -> SiglipVisionConfig:
    size = 224 if is_small else 384
    config = SiglipVisionConfig(**(BASE if is_small else SO400M), image_size=size, patch_size=16 if is_small else 14)
    config.save_pretrained(directory)
    settings = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": {"height": size, "width": size}}
    (directory / "preprocessor_config.json").write_text(json.dumps(settings))
    return config


def _write_bert(directory: Path) -> None:
    BertConfig().save_pretrained(directory)  # the defaults are those of BERT base
    (directory / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]))
    BertTokenizer(str(directory / "vocab.txt")).save_pretrained(directory)
