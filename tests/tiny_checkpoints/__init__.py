"""Tiny random-weight checkpoints of the multimodal architectures, in the layout of the published ones.

Real configuration and model classes, real tokenizers (trained on the spot); for machines without weights (tests).
"""

import json
from collections.abc import Callable
from pathlib import Path

import torch
from lightning.pytorch.utilities.seed import isolate_rng
from transformers import PreTrainedModel

from tests.tiny_checkpoints import frames, phi4, qwen
from tests.tiny_checkpoints.common import write_json

_CLIP_STATISTICS = ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711])

WRITERS: dict[str, Callable[[Path, list[str]], PreTrainedModel]] = {
    "qwen2_5_vl": qwen.qwen2_5_vl,
    "qwen3_vl": qwen.qwen3_vl,
    "qwen3_5": qwen.qwen3_5,
    "qwen2_5_omni": qwen.qwen2_5_omni,
    "qwen3_omni_moe": qwen.qwen3_omni_moe,
    "qwen2_audio": qwen.qwen2_audio,
    "smolvlm": frames.smolvlm,
    "idefics3": frames.idefics3,
    "llava_onevision": frames.llava_onevision,
    "internvl": frames.internvl,
    "gemma3n": frames.gemma3n,
    "gemma4": frames.gemma4,
    "phi4_multimodal": phi4.phi4_multimodal,
}
"""By `model_type`: writes the tokenizer and makes the model."""


def write_tiny_checkpoint(model_type: str, output: str | Path, texts: list[str], seed: int = 0) -> Path:
    """Write a checkpoint directory of one of `WRITERS`; returns it.

    Args:
        model_type: as in transformers' configurations.
        output: directory to write to.
        texts: what the tokenizer is trained on.
        seed: of the weights.
    """
    directory = Path(output)
    directory.mkdir(parents=True, exist_ok=True)
    with isolate_rng():
        torch.manual_seed(seed)
        model = WRITERS[model_type](directory, texts)
    model.save_pretrained(directory)
    mean, std = _CLIP_STATISTICS
    file = directory / "preprocessor_config.json"
    settings = json.loads(file.read_text()) if file.is_file() else {}
    write_json(file, {"image_mean": mean, "image_std": std, **settings})
    return directory
