"""The backbones that the contract is tested on: tiny random weights of the real architectures. Add yours to `CASES`."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from datamodules.batch import Clip, ClipBatch, collate
from lightning_modules.backbones.composed import ComposedBackbone
from lightning_modules.backbones.decoder_backbone import DecoderBackbone
from lightning_modules.backbones.hf.backbone import HFBackbone
from lightning_modules.backbones.humanomni.backbone import HumanOmniBackbone
from tests.tiny_checkpoints import write_tiny_checkpoint

GOLDEN = Path(__file__).parents[2] / "golden" / "humanomni_small"
TEXT = "Which emotion? <think>The man frowns hard. He shouts.</think>\n<answer>angry</answer>"


@dataclass(frozen=True)
class Case:
    """A backbone under test.

    Args:
        load: from a directory with tiny models and from constructor options to the backbone.
        num_frames: frames per clip that it takes.
        image_size: side of the frames in pixels.
        trained: parts that stage 3 trains; the others are towers.
        reload: from a directory that `save` wrote.
    """

    load: Callable[..., DecoderBackbone]
    num_frames: int
    image_size: int
    trained: tuple[str, ...]
    reload: Callable[[Path], DecoderBackbone]


def _composed(models: Path, **options: Any) -> DecoderBackbone:
    parts = {name: str(models / name) for name in ("vision", "audio", "language_model")}
    with torch.random.fork_rng():
        torch.manual_seed(0)  # of the projectors
        return ComposedBackbone(**parts, num_frames=2, video_grid=2, audio_pool=10, **options)


def _humanomni(models: Path, **options: Any) -> DecoderBackbone:
    return HumanOmniBackbone(str(GOLDEN), bert=str(GOLDEN / "towers" / "bert-tiny"), **options)


def _hf(model_type: str, num_frames: int, image_size: int, trained: tuple[str, ...]) -> Case:
    sizes = {"num_frames": num_frames, "image_size": image_size}

    def load(models: Path, **options: Any) -> DecoderBackbone:
        directory = models / "hf" / model_type
        if not directory.is_dir():
            write_tiny_checkpoint(model_type, directory, [TEXT] * 20)
        return HFBackbone(str(directory), **sizes, **options)

    return Case(load, num_frames, image_size, trained, lambda directory: HFBackbone(str(directory), **sizes))


_TRAINED = ("vision_projector", "language_model")
CASES = {
    "composed": Case(
        _composed, 2, 32, ("audio_projector", *_TRAINED), lambda directory: ComposedBackbone(str(directory))
    ),
    "humanomni": Case(
        _humanomni,
        8,
        48,
        ("bert", "bert_gate", "mm_projector", "audio_projector", "language_model"),
        lambda directory: HumanOmniBackbone(str(directory)),
    ),
    "qwen2_5_vl": _hf("qwen2_5_vl", 4, 48, _TRAINED),
    "qwen3_vl": _hf("qwen3_vl", 3, 48, _TRAINED),
    "qwen3_5": _hf("qwen3_5", 3, 48, _TRAINED),
    "qwen2_5_omni": _hf("qwen2_5_omni", 4, 48, ("audio_projector", *_TRAINED)),
    "qwen3_omni_moe": _hf("qwen3_omni_moe", 4, 48, ("audio_projector", *_TRAINED)),
    "qwen2_audio": _hf("qwen2_audio", 2, 48, ("audio_projector", "language_model")),
    "smolvlm": _hf("smolvlm", 4, 48, _TRAINED),
    "idefics3": _hf("idefics3", 4, 48, _TRAINED),
    "llava_onevision": _hf("llava_onevision", 4, 44, _TRAINED),
    "internvl": _hf("internvl", 4, 48, _TRAINED),
    "gemma4": _hf("gemma4", 2, 48, ("audio_projector", *_TRAINED)),
    "phi4_multimodal": _hf("phi4_multimodal", 2, 48, ("audio_projector", *_TRAINED)),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


@pytest.fixture
def load(case: Case, tiny_models: Path) -> Callable[..., DecoderBackbone]:
    """Constructor of the backbone under test; takes its options."""
    return lambda **options: case.load(tiny_models, **options)


@pytest.fixture
def model(load: Callable[..., DecoderBackbone]) -> DecoderBackbone:
    return load()


@pytest.fixture
def clips(case: Case, make_clip: Callable[..., Clip]) -> ClipBatch:
    """Three clips of different questions, sound and length."""

    def clip(seed: int) -> Clip:
        size = (case.num_frames, 3, case.image_size, case.image_size)
        frames = torch.randint(0, 256, size, generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
        question = "Which emotion does the man show?" + " Look at his face, and listen." * seed
        return make_clip(seed, frames=frames, instruction=question, duration_seconds=1.0 + seed)

    return collate([clip(seed) for seed in range(3)])
