"""Tiny Phi-4-multimodal, with both adapters in folders of their own."""

import json
from pathlib import Path

import torch
from peft import LoraConfig
from safetensors.torch import save_file
from torch import nn
from transformers import (
    Phi4MultimodalConfig,
    Phi4MultimodalFeatureExtractor,
    Phi4MultimodalForCausalLM,
    PreTrainedModel,
)

from tests.tiny_checkpoints.common import HALF, plain_text_settings, siglip_settings, write_json, write_tokenizer

_TOKENS = ("<|end|>", "<|user|>", "<|assistant|>", "<|system|>", "<|image|>", "<|audio|>")
_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
ADAPTERS = {"vision-lora": (4, 8), "speech-lora": (5, 10)}
"""Folder → rank, and alpha, which is twice the rank as published."""


def phi4_multimodal(directory: Path, texts: list[str]) -> PreTrainedModel:
    """Writes what its processor reads and its adapters, returns the model: crops of 48 pixels, LongRoPE past 100."""
    names = {"image_token": "<|image|>", "audio_token": "<|audio|>"}
    ids = dict(
        zip(_TOKENS, write_tokenizer(directory, texts, _TOKENS, _TEMPLATE, "<|endoftext|>", **names), strict=True)
    )
    Phi4MultimodalFeatureExtractor().save_pretrained(directory)
    file = directory / "preprocessor_config.json"
    settings = {"image_processor_type": "Phi4MultimodalImageProcessorFast", "dynamic_hd": 36}
    write_json(file, {**json.loads(file.read_text()), **settings, "image_mean": HALF, "image_std": HALF})
    text = plain_text_settings("phi4_multimodal")
    del text["model_type"], text["head_dim"]
    vision = {
        **siglip_settings(48),
        "num_hidden_layers": 3,
        "crop_size": 48,
        "image_token_id": ids["<|image|>"],
        "initializer_range": 0.1,
    }
    audio = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_blocks": 2,
        "num_attention_heads": 2,
        "ext_pw_out_channel": 32,
        "depthwise_separable_out_channel": 32,
        "nemo_conv_channels": 16,
        "audio_token_id": ids["<|audio|>"],
        "initializer_range": 0.1,
    }
    factors = {"short_factor": [1.0] * 6, "long_factor": [1.0 + 0.5 * i for i in range(6)]}
    config = Phi4MultimodalConfig(
        **{
            **text,
            "rope_parameters": {**text["rope_parameters"], "rope_type": "longrope", **factors},
            "partial_rotary_factor": 0.75,
            "original_max_position_embeddings": 100,
            "sliding_window": 2 * text["max_position_embeddings"],
            "bos_token_id": 0,
            "eos_token_id": [0, ids["<|end|>"]],
            "pad_token_id": 0,
            "tie_word_embeddings": True,
        },
        vision_config=vision,
        audio_config=audio,
    )
    model = Phi4MultimodalForCausalLM(config)
    for name, (rank, alpha) in ADAPTERS.items():
        _write_adapter(model, directory / name, rank, alpha)
    return model


def _write_adapter(model: PreTrainedModel, directory: Path, rank: int, alpha: int) -> None:
    """Random factors of the decoder's layers, under names and settings of transformers' conversion script."""
    targets = r"model.layers.\d+.((self_attn.(qkv|o)_proj)|(mlp.(gate_up|down)_proj))"
    LoraConfig(r=rank, lora_alpha=alpha, target_modules=targets, task_type="CAUSAL_LM").save_pretrained(directory)
    factors = {}
    for name, layer in model.model.layers.named_modules():
        if isinstance(layer, nn.Linear):
            factors[f"model.layers.{name}.lora_A.weight"] = 0.1 * torch.randn(rank, layer.in_features)
            factors[f"model.layers.{name}.lora_B.weight"] = 0.1 * torch.randn(layer.out_features, rank)
    save_file(factors, directory / "adapter_model.safetensors", {"format": "pt"})
