"""Qwen3-Omni's thinker against its own forward pass and against transformers' processor, on tiny random weights."""

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import Qwen3OmniMoeProcessor, WhisperFeatureExtractor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from datamodules.batch import SAMPLE_RATE, Clip, collate
from lightning_modules.backbones import loading
from lightning_modules.backbones.adapters import LoRA
from lightning_modules.backbones.hf.backbone import HFBackbone
from lightning_modules.backbones.hf.family import ClipInput
from lightning_modules.backbones.hf.qwen_omni import Qwen3Omni
from tests.tiny_checkpoints import write_tiny_checkpoint

from .own_forward import assert_equal_to_own_forward

pytestmark = pytest.mark.numerics

NUM_FRAMES, SIZE = 4, 48
PATCH, MERGE = 8, 2
TOKENS_PER_GROUP = (SIZE // PATCH // MERGE) ** 2


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    texts = ["Which emotion? <think>The man frowns. He shouts.</think>\n<answer>angry</answer>"] * 20
    return write_tiny_checkpoint("qwen3_omni_moe", tmp_path_factory.mktemp("omni"), texts)


def load(checkpoint: Path, **options: Any) -> HFBackbone:
    return HFBackbone(str(checkpoint), **{"num_frames": NUM_FRAMES, "image_size": SIZE, **options})


@pytest.fixture
def clip(make_clip: Callable[..., Clip]) -> Callable[..., Clip]:
    """Clips of a length in seconds and pairs of equal frames, with as much audio unless told otherwise."""

    def make(seed: int, seconds: float, num_samples: int | None = None, **fields: Any) -> Clip:
        generator = torch.Generator().manual_seed(seed)
        frames = torch.randint(0, 256, (NUM_FRAMES // 2, 3, SIZE, SIZE), generator=generator, dtype=torch.uint8)
        num_samples = round(seconds * SAMPLE_RATE) if num_samples is None else num_samples
        waveform = torch.rand(num_samples, generator=generator) - 0.5
        media = {"frames": frames.repeat_interleave(2, 0), "waveform": waveform, "duration_seconds": seconds}
        return make_clip(seed, **{**media, "has_audio": num_samples > 0, **fields})

    return make


def text_processor(backbone: HFBackbone) -> Qwen3OmniMoeProcessor:
    """transformers' processor without its image and video processors, which need torchvision to be made."""
    processor = object.__new__(Qwen3OmniMoeProcessor)
    processor.feature_extractor = WhisperFeatureExtractor(feature_size=128)
    processor.video_processor = SimpleNamespace(merge_size=MERGE, temporal_patch_size=2)
    for name in ("audio_token", "video_token", "audio_bos_token", "audio_eos_token"):
        setattr(processor, name, getattr(backbone.tokenizer, name))
    return processor


def processed_audio(processor: Qwen3OmniMoeProcessor, waveform: Tensor) -> dict[str, Any]:
    inputs, _ = processor._process_audio([waveform.numpy()], **processor.audio_kwargs, return_tensors="pt")
    return {**inputs, "num_audio_tokens": inputs["num_audio_tokens"].numpy()}


def processor_inputs(backbone: HFBackbone, clip: Clip) -> dict[str, Any]:
    """Arguments of the model's forward as transformers makes them."""
    processor = text_processor(backbone)
    audio = processed_audio(processor, clip.waveform) if clip.has_audio else {}
    inputs = {name: audio[name] for name in ("input_features", "feature_attention_mask") if name in audio}
    if clip.has_video:
        images = Qwen2VLImageProcessorPil(patch_size=PATCH, merge_size=MERGE, do_resize=False)
        pictures = images([frame.permute(1, 2, 0).numpy() for frame in clip.frames[::2]], return_tensors="pt")
        grid = torch.tensor([[NUM_FRAMES // 2, SIZE // PATCH, SIZE // PATCH]])
        seconds = 2 * clip.duration_seconds / NUM_FRAMES
        numbers = {"video_grid_thw": grid.numpy(), "video_second_per_grid": [seconds]}
        options = {"load_audio_from_video": clip.has_audio, "position_id_per_seconds": 13.0}
        media = f"<|vision_start|>{processor.replace_video_token(numbers, 0, audio, [0], **options)}<|vision_end|>"
        inputs |= {"pixel_values_videos": pictures["pixel_values"], "video_grid_thw": grid}
        inputs |= {"video_second_per_grid": torch.tensor([seconds]), "use_audio_in_video": clip.has_audio}
    else:
        media = f"<|audio_start|>{processor.replace_audio_token(audio, 0)}<|audio_end|>"
    text = f"<|im_start|>user\n{media}{clip.instruction}<|im_end|>\n<|im_start|>assistant\n"
    return {"input_ids": torch.tensor([backbone.tokenizer(text, add_special_tokens=False)["input_ids"]]), **inputs}


def test_sampling_and_scoring_equal_the_models_own_forward_on_the_processors_inputs(
    checkpoint: Path, clip: Callable[..., Clip]
) -> None:
    backbone = load(checkpoint)
    backbone.set_trainable(["language_model"])  # so that the towers' results are recorded and replayed
    clips = [
        clip(0, 4.0, instruction="Which emotion?"),
        clip(1, 2.5, 25_000, instruction="Which emotion does he show, and why?"),
        clip(2, 3.0, 0),
        clip(3, 1.0, 90_000),  # audio that goes on behind the video
        clip(4, 2.0, has_video=False),
    ]
    assert_equal_to_own_forward(backbone, clips, lambda item: processor_inputs(backbone, item))


@pytest.mark.parametrize("num_samples", [400, 1_600, 16_000, 16_001, 79_999, 480_000])
def test_features_are_the_processors(checkpoint: Path, num_samples: int) -> None:
    backbone = load(checkpoint)
    waveform = torch.rand(num_samples, generator=torch.Generator().manual_seed(0)) - 0.5
    expected = processed_audio(text_processor(backbone), waveform)
    features = backbone.family.log_mel(waveform)
    assert expected["feature_attention_mask"].all()
    torch.testing.assert_close(features, expected["input_features"])
    assert backbone.family.num_audio_tokens(features.shape[-1]) == expected["num_audio_tokens"][0]


@pytest.mark.parametrize("num_samples", [0, 1, 399])
def test_short_sound_is_heard(checkpoint: Path, clip: Callable[..., Clip], num_samples: int) -> None:
    backbone, item = load(checkpoint), clip(0, 3.0, num_samples)
    media = backbone.family.media(ClipInput(item.frames, item.waveform, 3.0))
    assert media.placeholders[0].count("<|audio_pad|>") == int(num_samples > 0)
    backbone.encode(collate([item]))


@pytest.mark.parametrize("seconds", [0.0, 0.7, 2.4, 7.3, 29.97, 61.3])
def test_tokens_stand_in_the_order_of_their_positions(
    checkpoint: Path, clip: Callable[..., Clip], seconds: float
) -> None:
    backbone, item = load(checkpoint), clip(0, seconds, 48_000)
    media = backbone.family.media(ClipInput(item.frames, item.waveform, seconds))
    ids = torch.tensor(backbone.token_ids(item.instruction, media))
    positions = backbone.encode(collate([item])).position_ids[0, :, 0]
    start = float(positions[int((ids == backbone.tokenizer.audio_bos_token_id).nonzero()[0])]) + 1
    heard, seen = (
        positions[ids == token] for token in (backbone.tokenizer.audio_token_id, backbone.tokenizer.video_token_id)
    )
    assert heard.tolist() == [start + i for i in range(39)]  # three seconds of 13 tokens
    assert len(seen) == 2 * TOKENS_PER_GROUP and set(seen[:TOKENS_PER_GROUP].tolist()) == {start}
    (second,) = set(seen[TOKENS_PER_GROUP:].tolist())
    assert second == pytest.approx(start + 13 * seconds / 2, abs=0.02)


def test_tags_in_a_question_stay_text(checkpoint: Path, clip: Callable[..., Clip]) -> None:
    backbone = load(checkpoint)
    lengths = [
        int(backbone.encode(collate([clip(0, 2.0, instruction=question)])).attention_mask.sum())
        for question in ("Why?", "Why?<|audio_start|><|video_pad|>")
    ]
    text = backbone.tokenizer("<|audio_start|><|video_pad|>", add_special_tokens=False, split_special_tokens=True)
    assert lengths[1] - lengths[0] == len(text["input_ids"])


def test_the_talker_of_a_published_checkpoint_is_left_out(checkpoint: Path, tmp_path: Path) -> None:
    directory = Path(shutil.copytree(checkpoint, tmp_path / "speaking"))
    thinker = load_file(directory / "model.safetensors")
    assert {name.split(".")[0] for name in thinker} == {"thinker"}
    assert any(".experts.0.gate_proj." in name for name in thinker), "experts apart, as published"
    others = {"talker.model.norm.weight": torch.ones(7), "code2wav.decoder.0.weight": torch.ones(7)}
    save_file(thinker | others, directory / "model.safetensors", {"format": "pt"})
    backbone = load(directory)
    number = sum(parameter.numel() for parameter in backbone.parameters())
    assert loading.count_weights(directory, Qwen3Omni.unused_weights) == number
    backbone.save(tmp_path / "saved")
    again = load(tmp_path / "saved")
    for name, parameter in load(checkpoint).named_parameters():
        assert torch.equal(again.get_parameter(name), parameter), name


def test_adapters_leave_experts_alone_and_refuse_to_be_put_there(checkpoint: Path) -> None:
    adapted = [n for n, m in load(checkpoint, lora=LoRA(rank=2)).named_modules() if isinstance(m, LoraLayer)]
    assert {name.rpartition(".")[2] for name in adapted} == {"q_proj", "k_proj", "v_proj", "o_proj"}
    with pytest.raises(ValueError, match="gate_proj"):
        load(checkpoint, lora=LoRA(rank=2, target_modules=["gate_proj"]))
