"""What tiny checkpoints have in common: a tokenizer trained on the spot, settings of small towers and decoders."""

import json
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from lightning_modules.backbones.tiny import train_tokenizer

HALF = [0.5, 0.5, 0.5]
"""Mean and standard deviation of pixels, by channel."""


def write_tokenizer(
    directory: Path, texts: list[str], tokens: tuple[str, ...], template: str | None, eos: str, **names: str
) -> list[int]:
    """Write a tokenizer with `<|endoftext|>` as padding and the given special tokens; returns their ids.

    Some tokens may have names, by which they are attributes of the tokenizer.
    """
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=train_tokenizer(texts, 384, ["<|endoftext|>", *tokens]),
        pad_token="<|endoftext|>",
        eos_token=eos,
        additional_special_tokens=list(tokens),
        model_specific_special_tokens=names,
    )
    tokenizer.chat_template = template
    tokenizer.save_pretrained(directory)
    return tokenizer.convert_tokens_to_ids(list(tokens))


def write_json(file: Path, settings: dict) -> None:
    """Write settings as readable JSON."""
    file.write_text(json.dumps(settings, indent=2))


def text_settings(vocab_size: int = 384) -> dict:
    """Of a two-layer decoder, 64 wide, with rotary positions of three axes."""
    return {
        "vocab_size": vocab_size,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 2048,
        "bos_token_id": None,
        "eos_token_id": None,
        "initializer_range": 0.1,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]},
    }


def plain_text_settings(model_type: str) -> dict:
    """Of a two-layer decoder, 64 wide, with rotary positions of one axis."""
    settings = text_settings()
    return {**settings, "model_type": model_type, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}


def siglip_settings(image_size: int) -> dict:
    """Of a two-layer vision tower, 32 wide."""
    return {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": image_size,
        "patch_size": 8,
    }
