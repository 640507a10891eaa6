"""Tiny models that take a clip as images: SmolVLM, Idefics3, LLaVA-OneVision, InternVL, Gemma 3n and 4."""

import json
from pathlib import Path

from transformers import (
    Gemma3nAudioFeatureExtractor,
    Gemma3nConfig,
    Gemma3nForConditionalGeneration,
    Gemma4AudioFeatureExtractor,
    Gemma4Config,
    Gemma4ForConditionalGeneration,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    InternVLConfig,
    InternVLForConditionalGeneration,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    PreTrainedModel,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
)

from tests.tiny_checkpoints.common import (
    HALF,
    plain_text_settings,
    siglip_settings,
    write_json,
    write_tokenizer,
)

_IDEFICS_TOKENS = ("<|im_start|>", "<end_of_utterance>", "<fake_token_around_image>", "<global-img>", "<image>")
_IDEFICS_TEMPLATE = (
    "<|im_start|>{% for message in messages %}{{ message['role'] | capitalize }}:{% for item in message['content'] %}"
    "{{ '<image>' if item['type'] == 'image' else item['text'] }}{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)


def smolvlm(directory: Path, texts: list[str], image_size: int = 48) -> PreTrainedModel:
    """SmolVLM2: writes what its processor reads, returns the model."""
    return SmolVLMForConditionalGeneration(SmolVLMConfig(**_idefics_settings(directory, texts, image_size)))


def idefics3(directory: Path, texts: list[str], image_size: int = 48) -> PreTrainedModel:
    """Idefics3: writes what its processor reads, returns the model."""
    return Idefics3ForConditionalGeneration(Idefics3Config(**_idefics_settings(directory, texts, image_size)))


def _idefics_settings(directory: Path, texts: list[str], image_size: int) -> dict:
    """Arguments of the configuration; the tokenizer and the settings of the processor are written."""
    ids = write_tokenizer(directory, texts, _IDEFICS_TOKENS, _IDEFICS_TEMPLATE, "<end_of_utterance>")
    scale = 2
    num_tokens = (image_size // 8 // scale) ** 2
    write_json(directory / "processor_config.json", {"image_seq_len": num_tokens})
    write_json(directory / "preprocessor_config.json", {"image_mean": HALF, "image_std": HALF})
    return {
        "image_token_id": ids[-1],
        "scale_factor": scale,
        "pad_token_id": 0,
        "vision_config": {**siglip_settings(image_size), "initializer_range": 0.1},
        "text_config": {**plain_text_settings("llama"), "pad_token_id": 0},
    }


_ONEVISION_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }} {% for item in message['content'] %}"
    "{% if item['type'] == 'video' %}<video>\n{% endif %}{% endfor %}{% for item in message['content'] %}"
    "{% if item['type'] == 'text' %}{{ item['text'] }}{% endif %}{% endfor %}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def llava_onevision(directory: Path, texts: list[str]) -> PreTrainedModel:
    """LLaVA-OneVision: writes what its processor reads, returns the model."""
    tokens = ("<|im_start|>", "<|im_end|>", "<image>", "<video>")
    ids = write_tokenizer(directory, texts, tokens, _ONEVISION_TEMPLATE, "<|im_end|>")
    image_size = 44  # five patches of 8, as 384 published pixels are 27 patches of 14: the rest is left out
    write_json(directory / "processor_config.json", {"num_image_tokens": 25, "vision_feature_select_strategy": "full"})
    size = {"height": image_size, "width": image_size}
    write_json(directory / "preprocessor_config.json", {"image_mean": HALF, "image_std": HALF, "size": size})
    config = LlavaOnevisionConfig(
        vision_config={
            **siglip_settings(image_size),
            "model_type": "siglip_vision_model",
            "vision_use_head": False,
        },
        text_config=plain_text_settings("qwen2"),
        image_token_id=ids[2],
        video_token_id=ids[3],
        image_grid_pinpoints=[[image_size, image_size]],
        tie_word_embeddings=False,
    )
    return LlavaOnevisionForConditionalGeneration(config)


_INTERNVL_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% for item in message['content'] %}"
    "{% if item['type'] == 'image' %}<IMG_CONTEXT>\n{% elif item['type'] == 'video' %}<video>\n"
    "{% else %}{{ item['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_INTERNVL_NAMES = {
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": "<IMG_CONTEXT>",
    "video_token": "<video>",
}


def internvl(directory: Path, texts: list[str]) -> PreTrainedModel:
    """InternVL: writes what its processor reads, returns the model."""
    tokens = ("<|im_start|>", "<|im_end|>", *_INTERNVL_NAMES.values())
    ids = write_tokenizer(directory, texts, tokens, _INTERNVL_TEMPLATE, "<|im_end|>", **_INTERNVL_NAMES)
    image_size = 32
    settings = {
        "image_processor_type": "GotOcr2ImageProcessor",
        "crop_to_patches": True,  # as published: tiles of an image, but not of a frame
        "size": {"height": image_size, "width": image_size},
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
    }
    write_json(directory / "preprocessor_config.json", settings)
    write_json(directory / "processor_config.json", {"image_seq_length": 4, "processor_class": "InternVLProcessor"})
    config = InternVLConfig(
        vision_config={**siglip_settings(image_size), "model_type": "internvl_vision", "initializer_range": 0.1},
        text_config=plain_text_settings("qwen2"),
        image_token_id=ids[tokens.index("<IMG_CONTEXT>")],
        image_seq_length=4,
        tie_word_embeddings=False,
    )
    return InternVLForConditionalGeneration(config)


_GEMMA_TEMPLATE = (
    "<bos>{% for message in messages %}<start_of_turn>{{ message['role'] }}\n{% for item in message['content'] %}"
    "{% if item['type'] == 'image' %}<image_soft_token>{% elif item['type'] == 'audio' %}<audio_soft_token>"
    "{% else %}{{ item['text'] | trim }}{% endif %}{% endfor %}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
_GEMMA_NAMES = {
    "boi_token": "<start_of_image>",
    "eoi_token": "<end_of_image>",
    "image_token": "<image_soft_token>",
    "boa_token": "<start_of_audio>",
    "eoa_token": "<end_of_audio>",
    "audio_token": "<audio_soft_token>",
}


def gemma3n(directory: Path, texts: list[str]) -> PreTrainedModel:
    """Needs timm, for the vision tower."""
    tokens = ("<bos>", "<start_of_turn>", "<end_of_turn>", *_GEMMA_NAMES.values())
    ids = write_tokenizer(directory, texts, tokens, _GEMMA_TEMPLATE, "<end_of_turn>", **_GEMMA_NAMES)
    size = {"height": 64, "width": 64}
    settings = {"image_processor_type": "SiglipImageProcessor", "do_normalize": False, "size": size}
    Gemma3nAudioFeatureExtractor(feature_size=32).save_pretrained(directory)
    file = directory / "preprocessor_config.json"
    write_json(file, {**json.loads(file.read_text()), **settings})
    lengths = {"image_seq_length": 4, "audio_seq_length": 28}
    write_json(directory / "processor_config.json", {**lengths, "processor_class": "Gemma3nProcessor"})
    vocab_size = 384
    text = {
        **plain_text_settings("gemma3n_text"),
        "vocab_size": vocab_size + 16,
        "vocab_size_per_layer_input": vocab_size,
        "hidden_size_per_layer_input": 8,
        "num_hidden_layers": 4,
        "num_kv_shared_layers": 2,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "activation_sparsity_pattern": [0.5, 0.0, 0.0, 0.0],
        "sliding_window": 24,
        "laurel_rank": 8,
        "pad_token_id": 0,
    }
    text["rope_parameters"] = dict.fromkeys(("sliding_attention", "full_attention"), text["rope_parameters"])
    # One of timm's own test architectures; the published tower has 300 million weights.
    vision = {"architecture": "test_efficientnet", "hidden_size": 256, "vocab_size": 8, "vocab_offset": vocab_size}
    audio = {
        "vocab_size": 8,
        "vocab_offset": vocab_size + 8,
        "input_feat_size": 32,
        "hidden_size": 32,
        "conf_num_attention_heads": 2,
        "conf_num_hidden_layers": 2,
        "sscp_conv_channel_size": [8, 4],
    }
    config = Gemma3nConfig(
        text_config=text,
        vision_config=vision,
        audio_config=audio,
        vision_soft_tokens_per_image=4,
        audio_soft_tokens_per_image=28,
        **{f"{name}_id": ids[tokens.index(token)] for name, token in _GEMMA_NAMES.items()},
    )
    return Gemma3nForConditionalGeneration(config)


_GEMMA4_NAMES = {
    "boi_token": "<|image>",
    "eoi_token": "<image|>",
    "image_token": "<|image|>",
    "boa_token": "<|audio>",
    "eoa_token": "<audio|>",
    "audio_token": "<|audio|>",
}
_GEMMA4_TEMPLATE = (
    "<bos>{% for message in messages %}<|turn>{{ message['role'] }}\n{% for item in message['content'] %}"
    "{% if item['type'] == 'text' %}{{ item['text'] | trim }}{% else %}<|{{ item['type'] }}|>{% endif %}"
    "{% endfor %}<turn|>\n{% endfor %}{% if add_generation_prompt %}<|turn>model\n{% endif %}"
)


def gemma4(directory: Path, texts: list[str]) -> PreTrainedModel:
    """Gemma 4 E2B, small: windows, layers that share keys and values, embeddings per layer."""
    tokens = ("<bos>", "<|turn>", "<turn|>", "<|video|>", *_GEMMA4_NAMES.values())
    ids = write_tokenizer(directory, texts, tokens, _GEMMA4_TEMPLATE, "<turn|>", **_GEMMA4_NAMES)
    # Patches so small that the 70 tokens of a frame are of few pixels.
    settings = {"image_processor_type": "Gemma4ImageProcessor", "patch_size": 2, "pooling_kernel_size": 2}
    Gemma4AudioFeatureExtractor(feature_size=32).save_pretrained(directory)
    file = directory / "preprocessor_config.json"
    write_json(file, {**json.loads(file.read_text()), **settings, "image_mean": [0.0] * 3, "image_std": [1.0] * 3})
    write_json(directory / "processor_config.json", {"processor_class": "Gemma4Processor"})
    text = {
        **plain_text_settings("gemma4_text"),
        "vocab_size_per_layer_input": 384,
        "hidden_size_per_layer_input": 8,
        "num_hidden_layers": 4,
        "num_kv_shared_layers": 2,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "global_head_dim": 32,
        "sliding_window": 24,
        "pad_token_id": 0,
    }
    del text["rope_parameters"]
    vision = {
        **siglip_settings(32),
        "num_key_value_heads": 2,
        "head_dim": 16,
        "patch_size": 2,
        "pooling_kernel_size": 2,
        "position_embedding_size": 64,
        "initializer_range": 0.1,
    }
    del vision["image_size"]
    audio = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "subsampling_conv_channels": [32, 4],
        "output_proj_dims": 32,
        "initializer_range": 0.1,
    }
    named = {f"{name}_id": ids[tokens.index(token)] for name, token in _GEMMA4_NAMES.items()}
    named["eoa_token_index"] = named.pop("eoa_token_id")
    config = Gemma4Config(
        text_config=text,
        vision_config=vision,
        audio_config=audio,
        video_token_id=ids[tokens.index("<|video|>")],
        **named,
    )
    return Gemma4ForConditionalGeneration(config)
