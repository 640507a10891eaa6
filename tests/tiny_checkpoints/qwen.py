"""Tiny Qwen2.5-VL, Qwen3-VL, Qwen3.5, Qwen2.5-Omni, Qwen3-Omni and Qwen2-Audio."""

import json
from pathlib import Path

from transformers import (
    PreTrainedModel,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5OmniConfig,
    Qwen2_5OmniForConditionalGeneration,
    Qwen2AudioConfig,
    Qwen2AudioForConditionalGeneration,
    Qwen3_5Config,
    Qwen3_5ForConditionalGeneration,
    Qwen3OmniMoeConfig,
    Qwen3OmniMoeForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    WhisperFeatureExtractor,
)

from tests.tiny_checkpoints.common import plain_text_settings, text_settings, write_json, write_tokenizer

_QWEN_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for item in message['content'] %}"
    "{% if item['type'] == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif item['type'] == 'text' %}{{ item['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_QWEN_TOKENS = ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")


_VISION = {
    "depth": 3,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_heads": 2,
    "out_hidden_size": 64,
    "patch_size": 8,
    "initializer_range": 0.1,
}
"""Settings that the vision towers of both Qwen-VL have in common."""


def qwen2_5_vl(directory: Path, texts: list[str]) -> PreTrainedModel:
    """Qwen2.5-VL: writes what its processor reads, returns the model."""
    ids = write_tokenizer(directory, texts, _QWEN_TOKENS, _QWEN_TEMPLATE, "<|im_end|>")
    vision = {
        **_VISION,
        "window_size": 32,
        "fullatt_block_indexes": [1],
    }
    config = Qwen2_5_VLConfig(
        text_config=text_settings(), vision_config=vision, **_qwen_ids(dict(zip(_QWEN_TOKENS, ids, strict=True)))
    )
    return Qwen2_5_VLForConditionalGeneration(config)


def qwen3_vl(directory: Path, texts: list[str]) -> PreTrainedModel:
    """Qwen3-VL: writes what its processor reads, returns the model."""
    ids = write_tokenizer(directory, texts, _QWEN_TOKENS, _QWEN_TEMPLATE, "<|im_end|>")
    vision = {
        **_VISION,
        "num_position_embeddings": 16,
        "deepstack_visual_indexes": [0],
    }
    config = Qwen3VLConfig(
        text_config=text_settings(), vision_config=vision, **_qwen_ids(dict(zip(_QWEN_TOKENS, ids, strict=True)))
    )
    return Qwen3VLForConditionalGeneration(config)


def qwen3_5(directory: Path, texts: list[str]) -> PreTrainedModel:
    """Qwen3.5, whose template opens the model's thinking: every other layer has a recurrent state."""
    template = _QWEN_TEMPLATE.replace("<|im_start|>assistant\n", "<|im_start|>assistant\n<think>\n")
    ids = write_tokenizer(directory, texts, _QWEN_TOKENS, template, "<|im_end|>")
    states = {f"linear_{kind}_head_dim": 16 for kind in ("key", "value")}
    states |= {"linear_num_key_heads": 2, "linear_num_value_heads": 4}
    text = {
        **text_settings(),
        **states,
        "num_hidden_layers": 4,
        "layer_types": ["linear_attention", "full_attention"] * 2,
    }
    config = Qwen3_5Config(
        text_config=text,
        vision_config={**_VISION, "num_position_embeddings": 16},
        **_qwen_ids(dict(zip(_QWEN_TOKENS, ids, strict=True))),
    )
    return Qwen3_5ForConditionalGeneration(config)


def _qwen_ids(ids: dict[str, int]) -> dict[str, int]:
    return {
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
    }


_OMNI_NAMES = {
    "image_token": "<|IMAGE|>",
    "audio_token": "<|AUDIO|>",
    "video_token": "<|VIDEO|>",
    "vision_bos_token": "<|vision_bos|>",
    "vision_eos_token": "<|vision_eos|>",
    "audio_bos_token": "<|audio_bos|>",
    "audio_eos_token": "<|audio_eos|>",
}
_OMNI_TEMPLATE = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    + _QWEN_TEMPLATE.replace(
        "<|vision_start|><|video_pad|><|vision_end|>",
        "<|vision_bos|><|VIDEO|><|vision_eos|>{% elif item['type'] == 'audio' %}<|audio_bos|><|AUDIO|><|audio_eos|>",
    )
)


def qwen2_5_omni(directory: Path, texts: list[str]) -> PreTrainedModel:
    """As published: thinker, talker and vocoder in one checkpoint, the chat template beside the tokenizer."""
    tokens = ("<|im_start|>", "<|im_end|>", *_OMNI_NAMES.values())
    ids = dict(zip(tokens, write_tokenizer(directory, texts, tokens, None, "<|im_end|>", **_OMNI_NAMES), strict=True))
    write_json(directory / "chat_template.json", {"chat_template": _OMNI_TEMPLATE})
    WhisperFeatureExtractor(feature_size=128, return_attention_mask=True).save_pretrained(directory)
    placeholders = {f"{name}_token_index": ids[f"<|{name.upper()}|>"] for name in ("image", "audio", "video")}
    borders = {
        "audio_start_token_id": ids["<|audio_bos|>"],
        "audio_end_token_id": ids["<|audio_eos|>"],
        "vision_start_token_id": ids["<|vision_bos|>"],
        "vision_end_token_id": ids["<|vision_eos|>"],
    }
    vision = {
        "depth": 3,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 2,
        "out_hidden_size": 64,
        "patch_size": 8,
        "window_size": 32,
        "fullatt_block_indexes": [1],
        "initializer_range": 0.1,
    }
    audio = {
        "num_mel_bins": 128,
        "encoder_layers": 2,
        "encoder_attention_heads": 2,
        "encoder_ffn_dim": 48,
        "d_model": 32,
        "output_dim": 64,
        "n_window": 20,
        "max_source_positions": 20,
        "initializer_range": 0.1,
    }
    thinker = {
        "text_config": text_settings(),
        "vision_config": vision,
        "audio_config": audio,
        **placeholders,
        **borders,
    }
    config = Qwen2_5OmniConfig(thinker_config=thinker, talker_config=_omni_talker(), token2wav_config=_omni_token2wav())
    return Qwen2_5OmniForConditionalGeneration(config)


_OMNI3_NAMES = {
    "image_token": "<|image_pad|>",
    "audio_token": "<|audio_pad|>",
    "video_token": "<|video_pad|>",
    "vision_bos_token": "<|vision_start|>",
    "vision_eos_token": "<|vision_end|>",
    "audio_bos_token": "<|audio_start|>",
    "audio_eos_token": "<|audio_end|>",
}
_OMNI3_TEMPLATE = _QWEN_TEMPLATE.replace(
    "<|vision_end|>", "<|vision_end|>{% elif item['type'] == 'audio' %}<|audio_start|><|audio_pad|><|audio_end|>"
)


def qwen3_omni_moe(directory: Path, texts: list[str]) -> PreTrainedModel:
    """As those are published that do not speak: the thinker under its name, the chat template beside the tokenizer."""
    tokens = ("<|im_start|>", "<|im_end|>", *_OMNI3_NAMES.values())
    ids = dict(zip(tokens, write_tokenizer(directory, texts, tokens, None, "<|im_end|>", **_OMNI3_NAMES), strict=True))
    write_json(directory / "chat_template.json", {"chat_template": _OMNI3_TEMPLATE})
    WhisperFeatureExtractor(feature_size=128, return_attention_mask=True).save_pretrained(directory)
    audio = {
        "encoder_layers": 2,
        "encoder_attention_heads": 2,
        "encoder_ffn_dim": 48,
        "d_model": 32,
        "output_dim": 64,
        "downsample_hidden_size": 4,
        "n_window_infer": 200,
        "initializer_range": 0.1,
    }
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "mlp_only_layers": []}
    thinker = {
        "text_config": {**text_settings(), **experts},
        "vision_config": {**_VISION, "num_position_embeddings": 16, "deepstack_visual_indexes": [0]},
        "audio_config": audio,
        "position_id_per_seconds": 13,
        "audio_start_token_id": ids["<|audio_start|>"],
        "vision_start_token_id": ids["<|vision_start|>"],
        **{f"{name}_token_id": ids[f"<|{name}_pad|>"] for name in ("image", "audio", "video")},
    }
    return Qwen3OmniMoeForConditionalGeneration(Qwen3OmniMoeConfig(thinker_config=thinker, enable_audio_output=False))


_AUDIO_TOKENS = ("<|im_start|>", "<|im_end|>", "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>")


def qwen2_audio(directory: Path, texts: list[str]) -> PreTrainedModel:
    """Qwen2-Audio, which hears five seconds: as published, its chat template is for text alone."""
    ids = write_tokenizer(directory, texts, _AUDIO_TOKENS, None, "<|im_end|>")
    file = directory / "tokenizer_config.json"
    template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    write_json(file, {**json.loads(file.read_text()), "chat_template": template})
    WhisperFeatureExtractor(feature_size=32, chunk_length=5).save_pretrained(directory)
    audio = {
        "num_mel_bins": 32,
        "encoder_layers": 2,
        "encoder_attention_heads": 2,
        "encoder_ffn_dim": 48,
        "d_model": 32,
        "max_source_positions": 250,
        "initializer_range": 0.1,
    }
    config = Qwen2AudioConfig(
        audio_config={**audio, "model_type": "qwen2_audio_encoder"},
        text_config=plain_text_settings("qwen2"),
        audio_token_index=ids[_AUDIO_TOKENS.index("<|AUDIO|>")],
        tie_word_embeddings=False,
    )
    return Qwen2AudioForConditionalGeneration(config)


def _omni_talker() -> dict:
    """Of what speaks: never run here, so as small as its classes allow."""
    tokens = ("tts_text_start", "tts_text_end", "tts_text_pad")
    tokens += ("tts_codec_start", "tts_codec_end", "tts_codec_pad", "tts_codec_mask")
    tokens += ("vision_start", "vision_end", "audio_start", "audio_end")
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}
    sizes = {"vocab_size": 16, "embedding_size": 64, "hidden_size": 16, "intermediate_size": 16, "head_dim": 8}
    heads = {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1}
    return {**{f"{token}_token_id": 0 for token in tokens}, **sizes, **heads, "rope_parameters": rope}


def _omni_token2wav() -> dict:
    """Of the vocoder, likewise."""
    encoder = {"mel_dim": 8, "enc_emb_dim": 8, "enc_dim": 8, "enc_attention_channels": 4, "enc_se_channels": 4}
    blocks = {"enc_channels": [8, 8, 16], "enc_kernel_sizes": [3, 3, 1], "enc_dilations": [1, 1, 1]}
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "head_dim": 8, "emb_dim": 8}
    dit = {**encoder, **blocks, **sizes, "enc_res2net_scale": 2, "num_embeds": 8}
    upsampling = {"upsample_initial_channel": 16, "upsample_rates": [2], "upsample_kernel_sizes": [4]}
    residual = {"resblock_kernel_sizes": [3], "resblock_dilation_sizes": [[1, 3, 5]]}
    return {"dit_config": dit, "bigvgan_config": {"mel_dim": 8, **upsampling, **residual}}
