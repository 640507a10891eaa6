"""Models that see a clip through their checkpoint's processor, and LLaVA-OneVision: against their own forward pass.

Gemma 3n's vision tower is one of timm: its tests are skipped where timm cannot be imported.
"""

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers import LlavaOnevisionProcessor, ProcessorMixin
from transformers.image_processing_backends import PilBackend

from datamodules.batch import SAMPLE_RATE, Clip, collate
from lightning_modules.backbones.hf.backbone import HFBackbone
from lightning_modules.backbones.hf.family import ClipInput
from tests.tiny_checkpoints import write_tiny_checkpoint

from .own_forward import assert_equal_to_own_forward

pytestmark = pytest.mark.numerics

NUM_FRAMES = 3
SIZES = {"internvl": 48, "llava_onevision": 44, "gemma3n": 48, "gemma4": 48, "qwen2_audio": 48}
"""Of the frames. InternVL's and Gemma's processors resize them, to 32 and 64 pixels."""

TEXTS = ["Which emotion? Why? <think>The man frowns.</think>\n<answer>angry</answer>\n\n"] * 20


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Directory of a tiny checkpoint, by type of model."""
    root = tmp_path_factory.mktemp("processors")

    def find(name: str) -> Path:
        if name == "gemma3n":
            pytest.importorskip("timm", reason="Gemma 3n's vision tower is one of timm")
        return root / name if (root / name).is_dir() else write_tiny_checkpoint(name, root / name, TEXTS)

    return find


@pytest.fixture
def load(checkpoint: Callable[[str], Path]) -> Callable[..., HFBackbone]:
    def make(name: str, **options: Any) -> HFBackbone:
        settings = {"num_frames": NUM_FRAMES, "image_size": SIZES[name], **options}
        return HFBackbone(str(checkpoint(name)), **settings)

    return make


@pytest.fixture
def clip(make_clip: Callable[..., Clip]) -> Callable[..., Clip]:
    """Clips for one of the models."""

    def make(name: str, seed: int, num_frames: int = NUM_FRAMES, **fields: Any) -> Clip:
        generator = torch.Generator().manual_seed(seed)
        size = (num_frames, 3, SIZES[name], SIZES[name])
        frames = torch.randint(0, 256, size, generator=generator, dtype=torch.uint8)
        waveform = torch.rand(SAMPLE_RATE // 2 + 9_000 * seed, generator=generator) - 0.5
        return make_clip(seed, **{"frames": frames, "waveform": waveform, "duration_seconds": 1.0 + seed, **fields})

    return make


def onevision_text(backbone: HFBackbone, clip: Clip) -> str:
    """What transformers' processor writes for a video, without its parts that need torchvision."""
    processor = object.__new__(LlavaOnevisionProcessor)
    processor.video_token, processor.num_image_tokens = "<video>", 25
    return processor.replace_video_token({"pixel_values_videos": [clip.frames]}, 0)


def at_least_a_second(clip: Clip) -> np.ndarray:
    return np.pad(clip.waveform.numpy(), (0, max(SAMPLE_RATE - len(clip.waveform), 0)))


def processors_inputs(backbone: HFBackbone, clip: Clip) -> dict[str, Tensor]:
    """Arguments of the model's forward as transformers' processor makes them of the rendered prompt."""
    name, question = backbone.model.config.model_type, clip.instruction
    images = [Image.fromarray(frame.permute(1, 2, 0).numpy()) for frame in clip.frames]
    if name == "llava_onevision":
        text = f"<|im_start|>user {onevision_text(backbone, clip)}\n{question}<|im_end|><|im_start|>assistant\n"
        frames = ((clip.frames / 255 - 0.5) / 0.5)[None]
        return {"input_ids": backbone.tokenizer(text, return_tensors="pt")["input_ids"], "pixel_values_videos": frames}
    options: dict[str, Any] = {"images": images, "return_tensors": "pt", "add_special_tokens": False}
    if name == "internvl":
        numbered = "".join(f"Frame{i + 1}: <IMG_CONTEXT>\n" for i in range(NUM_FRAMES))
        text = f"<|im_start|>user\n{numbered}{question}<|im_end|>\n<|im_start|>assistant\n"
        options["images_kwargs"] = {"crop_to_patches": False}
    elif name == "qwen2_audio":
        media = "Audio 1: <|audio_bos|><|AUDIO|><|audio_eos|>\n" * clip.has_audio
        text = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        text += f"<|im_start|>user\n{media}{question}<|im_end|>\n<|im_start|>assistant\n"
        del options["images"]
        options["audio"] = [at_least_a_second(clip)] if clip.has_audio else None
    elif name == "gemma4":
        return gemmas_inputs(backbone, clip)
    else:
        media = "<image_soft_token>" * NUM_FRAMES * clip.has_video + "<audio_soft_token>" * clip.has_audio
        text = f"<bos><start_of_turn>user\n{media}{question}<end_of_turn>\n<start_of_turn>model\n"
        options["images"] = images if clip.has_video else None
        options["audio"] = [at_least_a_second(clip)] if clip.has_audio else None
    inputs = backbone.family.processor(text=[text], **options)
    return {key: value for key, value in inputs.items() if key not in ("attention_mask", "token_type_ids")}


def gemmas_inputs(backbone: HFBackbone, clip: Clip) -> dict[str, Tensor]:
    """Of a prompt with a video, whose processor would need torchvision: its frames are prepared as images."""
    processor, inputs, media = backbone.family.processor, {}, ""
    if clip.has_video:
        frames = [Image.fromarray(frame.permute(1, 2, 0).numpy()) for frame in clip.frames]
        pictures = processor.image_processor(frames, max_soft_tokens=70, return_tensors="pt")
        seconds = [clip.duration_seconds * (i + 0.5) / len(frames) for i in range(len(frames))]
        metadata = SimpleNamespace(fps=1.0, timestamps=seconds)
        numbers = {"num_soft_tokens_per_video": pictures["num_soft_tokens_per_image"][:1].tolist()}
        media += processor.replace_video_token({**numbers, "video_metadata": [metadata]}, 0)
        inputs |= {
            "pixel_values_videos": pictures["pixel_values"],
            "video_position_ids": pictures["image_position_ids"],
        }
        inputs |= {"num_frames_per_video": torch.tensor([len(frames)])}
    if clip.has_audio:
        heard = processor.feature_extractor([at_least_a_second(clip)], return_tensors="pt")
        media += processor.replace_audio_token(heard, 0)
        inputs |= dict(heard)
    text = f"<bos><|turn>user\n{media}{clip.instruction}<turn|>\n<|turn>model\n"
    return {"input_ids": torch.tensor([backbone.tokenizer(text, add_special_tokens=False)["input_ids"]]), **inputs}


@pytest.mark.parametrize("name", SIZES)
def test_sampling_and_scoring_equal_the_models_own_forward_on_the_processors_inputs(
    load: Callable[..., HFBackbone], clip: Callable[..., Clip], name: str
) -> None:
    backbone = load(name)
    clips = [
        clip(name, 0, instruction="Which emotion?"),
        clip(name, 1, instruction="Which emotion does he show, and why?"),
        clip(name, 2, waveform=torch.zeros(0), has_audio=False),
        clip(name, 3, has_video=False),
    ]
    prompt, scored = assert_equal_to_own_forward(backbone, clips, lambda item: processors_inputs(backbone, item))
    # One completion per prompt, which takes another path through the language model.
    single = backbone.logprobs(prompt, backbone.completion_ids(["The man frowns."] * len(clips)))
    torch.testing.assert_close(single, scored[::2, : single.shape[1]], atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", SIZES)
def test_every_frame_is_seen_by_those_that_see_and_sound_is_heard_by_those_that_hear(
    load: Callable[..., HFBackbone], clip: Callable[..., Clip], name: str
) -> None:
    backbone = load(name)
    completions = backbone.completion_ids(["The man frowns."])

    def scores(item: Clip) -> Tensor:
        return backbone.logprobs(backbone.encode(collate([item])), completions)

    item = clip(name, 1)
    for i in range(NUM_FRAMES):
        frames = item.frames.clone()
        frames[i] = 255 - frames[i]
        difference = (scores(clip(name, 1, frames=frames)) - scores(item)).abs().max()
        assert (difference > 1e-4) == backbone.family.sees
    difference = (scores(clip(name, 1, waveform=item.waveform.flip(0) / 2)) - scores(item)).abs().max()
    assert (difference > 1e-4) == backbone.family.hears


@pytest.mark.parametrize("name", SIZES)
def test_frozen_towers_run_once_per_clip_and_their_results_survive_use(
    load: Callable[..., HFBackbone], clip: Callable[..., Clip], name: str
) -> None:
    backbone = load(name)
    towers = {part for part in backbone.parts if part.endswith("_tower")}
    senses = {"vision_tower": backbone.family.sees, "audio_tower": backbone.family.hears}
    assert towers == {tower for tower, has in senses.items() if has}
    runs: list[str] = []
    for part in towers:
        for child in list(backbone.parts[part].modules())[1:]:
            child.register_forward_hook(lambda *_, part=part: runs.append(part))
    backbone.set_trainable([part for part in backbone.parts if part not in towers])
    batch = collate([clip(name, 0), clip(name, 1)])
    percept = backbone.perceive(batch)
    assert set(runs) == towers
    runs.clear()
    # Twice: Gemma 3n scales what its vision tower returned in place.
    prompts = [backbone.encode(batch, percept) for _ in range(2)]
    assert not runs and prompts[0].embeddings.requires_grad
    assert torch.equal(prompts[0].embeddings, prompts[1].embeddings)
    backbone.set_trainable(list(backbone.parts))
    whole = backbone.encode(batch, backbone.perceive(batch))
    assert set(runs) == towers
    for prompt in prompts:
        torch.testing.assert_close(prompt.embeddings, whole.embeddings, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", SIZES)
def test_parts_are_the_whole_model(load: Callable[..., HFBackbone], name: str) -> None:
    backbone = load(name)
    in_parts = [id(parameter) for part in backbone.parts.values() for parameter in part.parameters()]
    assert sorted(in_parts) == sorted(id(parameter) for parameter in backbone.parameters())
    newline = getattr(backbone.model.model, "image_newline", None)
    assert newline is None or any(newline is parameter for parameter in backbone.parts["vision_projector"].parameters())


@pytest.mark.parametrize("name", SIZES)
def test_weights_of_the_policy_do_not_reach_its_reference(
    load: Callable[..., HFBackbone], clip: Callable[..., Clip], name: str
) -> None:
    backbone = load(name)
    trained = [part for part in backbone.parts if not part.endswith("_tower")]
    backbone.set_trainable(trained)
    batch = collate([clip(name, 0), clip(name, 1, instruction="Why?")])
    completions = backbone.completion_ids(["The man frowns.", "He shouts."])
    percept = backbone.perceive(batch)
    reference = backbone.reference()

    def scores(model: HFBackbone) -> Tensor:
        return model.logprobs(model.encode(batch, percept), completions).detach()

    before = scores(reference)
    torch.testing.assert_close(before, scores(backbone), atol=1e-5, rtol=0)
    assert reference.family.model is reference.model is not backbone.model
    for part in trained:
        previous = scores(backbone)
        with torch.no_grad():
            for parameter in backbone.parts[part].parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        assert (scores(backbone) - previous).abs().max() > 1e-3
        torch.testing.assert_close(scores(reference), before, atol=0, rtol=0)


@pytest.mark.parametrize("name", SIZES)
def test_media_tokens_in_a_question_stay_text(
    load: Callable[..., HFBackbone], clip: Callable[..., Clip], name: str
) -> None:
    backbone = load(name)
    specials = "".join(backbone.tokenizer.added_tokens_encoder)
    plain, marked = (clip(name, 0, instruction=question) for question in ("Why?", f"Why? {specials}"))
    lengths = [int(backbone.encode(collate([item])).attention_mask.sum()) for item in (plain, marked)]
    text = backbone.tokenizer(f" {specials}", add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert lengths[1] - lengths[0] == len(text) > len(backbone.tokenizer.added_tokens_encoder)


@pytest.mark.parametrize("name", SIZES)
def test_what_is_saved_loads_again(
    load: Callable[..., HFBackbone], clip: Callable[..., Clip], tmp_path: Path, name: str
) -> None:
    backbone = load(name)
    backbone.save(tmp_path / "model")
    again = HFBackbone(str(tmp_path / "model"), num_frames=NUM_FRAMES, image_size=SIZES[name])
    batch = collate([clip(name, 0), clip(name, 1)])
    for mine, other in zip(vars(backbone.encode(batch)).values(), vars(again.encode(batch)).values(), strict=True):
        torch.testing.assert_close(other, mine, atol=0, rtol=0)


@pytest.mark.parametrize("name", SIZES)
def test_only_a_model_that_cannot_hear_or_see_says_so(checkpoint: Callable[[str], Path], name: str) -> None:
    directory = str(checkpoint(name))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        backbone = HFBackbone(directory, num_frames=NUM_FRAMES, image_size=SIZES[name])
    for sense, has in (("hear", backbone.family.hears), ("see", backbone.family.sees)):
        assert sum(f"cannot {sense}:" in str(warning.message) for warning in caught) == (not has)


def test_internvl_is_shown_the_video_of_its_processor(
    load: Callable[..., HFBackbone], clip: Callable[..., Clip]
) -> None:
    backbone = load("internvl")
    item = clip("internvl", 0, instruction="Why?")
    media = backbone.family.media(ClipInput(item.frames, item.waveform, 1.0))
    # The frames, resized: none is cut into tiles, although an image of this size would be.
    assert media.arguments.keys() == {"pixel_values"} and media.arguments["pixel_values"].shape == (
        NUM_FRAMES,
        3,
        32,
        32,
    )
    video = backbone.family.processor.replace_video_token({"pixel_values_videos": [media.arguments["pixel_values"]]}, 0)
    text = f"<|im_start|>user\n{video}\nWhy?<|im_end|>\n<|im_start|>assistant\n"
    assert backbone.tokenizer.decode(backbone.token_ids("Why?", media)) == text
    assert backbone.token_ids("Why?", media) == backbone.tokenizer(text)["input_ids"]


def test_images_are_processed_the_same_with_and_without_torchvision(load: Callable[..., HFBackbone]) -> None:
    processor = load("internvl").family.processor
    assert isinstance(processor, ProcessorMixin) and processor.video_processor is None
    assert isinstance(processor.image_processor, PilBackend)


def test_onevision_is_shown_the_video_of_its_processor(
    load: Callable[..., HFBackbone], clip: Callable[..., Clip]
) -> None:
    backbone = load("llava_onevision")
    item = clip("llava_onevision", 0)
    media = backbone.family.media(ClipInput(item.frames, item.waveform, 1.0))
    assert media.placeholders == [onevision_text(backbone, item)] == ["<video>" * (NUM_FRAMES * 9 + 1)]


def test_onevision_inputs_equal_those_of_the_whole_processor(
    load: Callable[..., HFBackbone], clip: Callable[..., Clip]
) -> None:
    pytest.importorskip("torchvision", reason="transformers' video processor needs torchvision")
    from transformers import AutoProcessor

    backbone = load("llava_onevision")
    item = clip("llava_onevision", 0, instruction="Why?")
    size = {"height": 44, "width": 44}
    processor = AutoProcessor.from_pretrained(backbone.model.name_or_path)
    content = [{"type": "video"}, {"type": "text", "text": "Why?"}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    expected = processor(text=[text], videos=[item.frames], videos_kwargs={"size": size}, return_tensors="pt")
    media = backbone.family.media(ClipInput(item.frames, item.waveform, 1.0))
    assert backbone.token_ids("Why?", media) == expected["input_ids"][0].tolist()
    torch.testing.assert_close(media.arguments["pixel_values_videos"], expected["pixel_values_videos"])


def test_other_frames_are_refused(load: Callable[..., HFBackbone], clip: Callable[..., Clip]) -> None:
    for size in (40, 88):
        with pytest.raises(ValueError, match=f"image_size is {size}; .* needs 44 pixels"):
            load("llava_onevision", image_size=size)
    for name in ("llava_onevision", "internvl"):
        with pytest.raises(ValueError, match=f"data.media.num_frames=3 and data.media.image_size={SIZES[name]}"):
            load(name).encode(collate([clip(name, 0, num_frames=4)]))


@pytest.mark.parametrize("mask", ["blocks", "by kind of layer", "hidden positions"])
def test_a_prompt_that_is_not_causal_is_refused(load: Callable[..., HFBackbone], mask: str) -> None:
    backbone = load("internvl")
    embeddings = torch.randn(1, 5, 64)
    masks = {
        "blocks": torch.zeros(1, 1, 5, 5),
        "by kind of layer": {"full_attention": torch.zeros(1, 1, 5, 5)},  # as Gemma 3 gives it
        "hidden positions": torch.tensor([[0, 1, 1, 1, 1]]),
    }
    captured = {"inputs_embeds": embeddings, "position_ids": None}
    with pytest.raises(ValueError, match="an attention mask of its own"):
        backbone._row({**captured, "attention_mask": masks[mask]})
    for plain in (None, torch.ones(1, 5, dtype=torch.long)):
        assert backbone._row({**captured, "attention_mask": plain}).position_ids.tolist() == [[0, 1, 2, 3, 4]]


def test_arguments_that_would_be_lost_are_refused(load: Callable[..., HFBackbone]) -> None:
    family = load("internvl").family
    captured = {"inputs_embeds": torch.randn(1, 5, 64), "attention_mask": torch.ones(1, 5), "use_cache": False}
    features = torch.randn(1, 5, 3)
    assert family.extras({**captured, "features": features}) == {"features": features}
    with pytest.raises(ValueError, match=r"gives its language model features of shape \(7, 3\)"):
        family.extras({**captured, "features": torch.randn(7, 3)})


def test_sound_before_images_is_refused(load: Callable[..., HFBackbone]) -> None:
    family = load("gemma3n").family
    image, sound = "<image_soft_token>", "<audio_soft_token>"
    assert family.cut(f"a{image}b{image}c{sound}d") == ["a", "b", "c", "d"]
    with pytest.raises(ValueError, match="expected all images before the sound"):
        family.cut(f"a{sound}b{image}c")


@pytest.mark.parametrize("num_samples", [0, 1, SAMPLE_RATE, 31 * SAMPLE_RATE])
def test_gemma_hears_any_length(load: Callable[..., HFBackbone], clip: Callable[..., Clip], num_samples: int) -> None:
    backbone = load("gemma3n")
    waveform = torch.rand(num_samples, generator=torch.Generator().manual_seed(0)) - 0.5
    media = backbone.family.media(ClipInput(clip("gemma3n", 0).frames, waveform, 1.0))
    assert len(media.placeholders) == NUM_FRAMES + 1
    assert media.placeholders[-1] == f"\n\n<start_of_audio>{'<audio_soft_token>' * 28}<end_of_audio>\n\n"
    seconds = media.arguments["input_features_mask"].sum() / 100
    assert seconds == pytest.approx(min(max(num_samples / SAMPLE_RATE, 1), 30), abs=0.05)


def test_gradients_of_gemma_are_finite_where_prompts_are_padded(
    load: Callable[..., HFBackbone], clip: Callable[..., Clip]
) -> None:
    backbone = load("gemma3n")
    backbone.set_trainable(list(backbone.parts))
    prompt = backbone.encode(collate([clip("gemma3n", 0), clip("gemma3n", 1, instruction="Why?")]))
    assert (prompt.attention_mask == 0).any()
    backbone.logprobs(prompt, backbone.completion_ids(["The man frowns.", "He shouts."] * 2)).sum().backward()
    gradients = [parameter.grad for parameter in backbone.parameters() if parameter.grad is not None]
    assert gradients and all(gradient.isfinite().all() for gradient in gradients)


def test_a_clip_that_qwen_audio_cannot_hear_leaves_the_question_alone(
    load: Callable[..., HFBackbone], clip: Callable[..., Clip]
) -> None:
    backbone = load("qwen2_audio")
    backbone.set_trainable(["language_model"])
    silent = collate([clip("qwen2_audio", 0, waveform=torch.zeros(0), has_audio=False, instruction="Why?")])
    media = backbone.family.media(ClipInput(silent.frames[0], torch.zeros(0), 1.0))
    assert (media.placeholders, media.arguments, media.modalities) == ([], {}, ())
    assert "<|AUDIO|>" not in backbone.tokenizer.decode(backbone.token_ids("Why?", media))
    percept = backbone.perceive(silent)
    assert percept.recordings == [{"audio_tower": []}]
    others = backbone.perceive(collate([clip("qwen2_audio", 1)]))
    lent = percept.replaced("sound", others)
    torch.testing.assert_close(backbone.encode(silent, lent).embeddings, backbone.encode(silent, percept).embeddings)


def test_a_gemma_whose_frames_are_not_read_causally_is_refused(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    directory = Path(shutil.copytree(checkpoint("gemma4"), tmp_path / "large"))
    file = directory / "config.json"
    settings = json.loads(file.read_text())
    settings["text_config"]["use_bidirectional_attention"] = "vision"
    file.write_text(json.dumps(settings))
    with pytest.raises(ValueError, match="see each other in this model .*'vision'.* E2B or E4B"):
        HFBackbone(str(directory), num_frames=NUM_FRAMES, image_size=48)
