"""What is measured: sizes of models and batches, by name.

Sizes of HumanOmni-0.5B: SigLIP base, Whisper large v3 and Qwen2.5-0.5B, as published.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Language:
    """Sizes of a Qwen2 language model with tied embeddings; `vocabulary` in tokens."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int
    vocabulary: int


@dataclass(frozen=True)
class Vision:
    """Sizes of a SigLIP encoder; `image` and `patch` in pixels per side."""

    hidden: int
    layers: int
    heads: int
    intermediate: int
    image: int = 224
    patch: int = 16


@dataclass(frozen=True)
class Audio:
    """Sizes of a Whisper encoder; `seconds` is its window."""

    hidden: int
    layers: int
    heads: int
    intermediate: int
    mel_bins: int = 128
    seconds: int = 30


@dataclass(frozen=True)
class Geometry:
    """One workload.

    Args:
        backbone: "text" (language model alone), "composed" or "humanomni".
        language: sizes of the language model.
        trainable: parts that are trained.
        num_prompts: prompts per step, B.
        group_size: completions per prompt, G.
        new_tokens: tokens of every completion, C: no token ends one.
        prompt_tokens: words of a "text" prompt, each one token; with media the clip decides.
        vision: sizes of the vision tower, None for "text".
        audio: sizes of the audio tower, None for "text".
        bert: width and layers of HumanOmni's BERT.
        dtype: precision of the weights.
        beta: weight of the KL penalty.
        micro_batch: prompts per forward pass of scoring and update; None: all.
        completion_batch: completions of each prompt per backward pass of `shared`; None: all.
        compiled: `shared` samples with torch.compile.
        liger: `shared` computes log-probabilities with Liger's kernel.
        baseline_micro_batch: the same for the baselines, where the whole batch would not fit.
    """

    backbone: Literal["text", "composed", "humanomni"]
    language: Language
    trainable: tuple[str, ...]
    num_prompts: int
    group_size: int
    new_tokens: int
    prompt_tokens: int = 0
    vision: Vision | None = None
    audio: Audio | None = None
    bert: tuple[int, int] = (768, 12)
    dtype: Literal["float32", "bfloat16"] = "float32"
    beta: float = 0.04
    micro_batch: int | None = None
    completion_batch: int | None = 4
    compiled: bool = False
    liger: bool = False
    baseline_micro_batch: int | None = None


_COMPOSED = ("vision_projector", "audio_projector", "language_model")
_HUMANOMNI = ("bert", "bert_gate", "mm_projector", "audio_projector", "language_model")
_SMALL = Language(hidden=64, layers=2, heads=4, kv_heads=2, intermediate=96, vocabulary=384)
_SMALL_VISION = Vision(hidden=32, layers=2, heads=2, intermediate=64, image=64)
_SMALL_AUDIO = Audio(hidden=32, layers=1, heads=2, intermediate=64, mel_bins=40, seconds=1)

GEOMETRIES = {
    "cpu": Geometry(
        backbone="text",
        language=Language(hidden=512, layers=6, heads=8, kv_heads=2, intermediate=1376, vocabulary=2_000),
        trainable=("language_model",),
        num_prompts=1,
        group_size=8,
        new_tokens=128,
        prompt_tokens=760,
    ),
    # HumanOmni-0.5B's parts at a quarter of their width and depth and a sixteenth of the vocabulary; media as there.
    "towers": Geometry(
        backbone="composed",
        language=Language(hidden=224, layers=6, heads=7, kv_heads=1, intermediate=1216, vocabulary=9_496),
        vision=Vision(hidden=192, layers=3, heads=3, intermediate=768),
        audio=Audio(hidden=320, layers=8, heads=5, intermediate=1280),
        trainable=_COMPOSED,
        num_prompts=1,
        group_size=8,
        new_tokens=225,
    ),
    "humanomni_0.5b": Geometry(
        backbone="humanomni",
        language=Language(hidden=896, layers=24, heads=14, kv_heads=2, intermediate=4_864, vocabulary=151_936),
        vision=Vision(hidden=768, layers=12, heads=12, intermediate=3_072),
        audio=Audio(hidden=1_280, layers=32, heads=20, intermediate=5_120),
        trainable=_HUMANOMNI,
        num_prompts=16,
        group_size=8,
        new_tokens=225,
        dtype="bfloat16",
        micro_batch=4,
        baseline_micro_batch=1,
    ),
    "smoke": Geometry(
        backbone="composed",
        language=_SMALL,
        vision=_SMALL_VISION,
        audio=_SMALL_AUDIO,
        trainable=_COMPOSED,
        num_prompts=2,
        group_size=2,
        new_tokens=5,
        micro_batch=1,
    ),
    "smoke_text": Geometry(
        backbone="text",
        language=_SMALL,
        trainable=("language_model",),
        num_prompts=2,
        group_size=2,
        new_tokens=5,
        prompt_tokens=12,
    ),
    "smoke_humanomni": Geometry(
        backbone="humanomni",
        language=_SMALL,
        vision=_SMALL_VISION,
        audio=_SMALL_AUDIO,
        bert=(32, 1),
        trainable=_HUMANOMNI,
        num_prompts=2,
        group_size=2,
        new_tokens=5,
    ),
}
