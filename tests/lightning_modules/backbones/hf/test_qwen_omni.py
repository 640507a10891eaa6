"""Qwen2.5-Omni's thinker against its own forward pass and against transformers' processor, on tiny random weights."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import Qwen2_5OmniProcessor, WhisperFeatureExtractor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from datamodules.batch import SAMPLE_RATE, Clip, ClipBatch, collate
from lightning_modules.backbones import loading
from lightning_modules.backbones.adapters import LoRA
from lightning_modules.backbones.hf.backbone import HFBackbone
from lightning_modules.backbones.hf.family import ALL_MODALITIES, ClipInput, MediaInputs
from lightning_modules.backbones.hf.qwen_omni import QwenOmni, chunk_sizes
from lightning_modules.backbones.interface import Sampling
from tests.tiny_checkpoints import write_tiny_checkpoint

from .own_forward import assert_equal_to_own_forward

pytestmark = pytest.mark.numerics

SIZE = 48
PATCH, MERGE = 8, 2
TOKENS_PER_GROUP = (SIZE // PATCH // MERGE) ** 2


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    texts = ["Which emotion? <think>The man frowns. He shouts.</think>\n<answer>angry</answer>"] * 20
    return write_tiny_checkpoint("qwen2_5_omni", tmp_path_factory.mktemp("omni"), texts)


def load(checkpoint: Path, num_frames: int = 4, **options: Any) -> HFBackbone:
    return HFBackbone(str(checkpoint), num_frames=num_frames, image_size=SIZE, **options)


@pytest.fixture
def clip(make_clip: Callable[..., Clip]) -> Callable[..., Clip]:
    """Clips of a length in seconds, with as much audio unless told otherwise."""

    def make(seed: int, seconds: float, num_frames: int = 4, num_samples: int | None = None, **fields: Any) -> Clip:
        generator = torch.Generator().manual_seed(seed)
        frames = torch.randint(0, 256, (num_frames, 3, SIZE, SIZE), generator=generator, dtype=torch.uint8)
        num_samples = round(seconds * SAMPLE_RATE) if num_samples is None else num_samples
        waveform = torch.rand(num_samples, generator=generator) - 0.5
        media = {"frames": frames, "waveform": waveform, "has_audio": num_samples > 0, "duration_seconds": seconds}
        return make_clip(seed, **{**media, **fields})

    return make


def text_processor(backbone: HFBackbone) -> Qwen2_5OmniProcessor:
    """transformers' processor without its image and video processors, which need torchvision to be made."""
    processor = object.__new__(Qwen2_5OmniProcessor)
    processor.feature_extractor = WhisperFeatureExtractor(feature_size=128)
    processor.video_processor = SimpleNamespace(merge_size=MERGE, temporal_patch_size=2)
    for name in ("audio_token", "video_token", "audio_bos_token", "audio_eos_token"):
        setattr(processor, name, getattr(backbone.tokenizer, name))
    return processor


def prompt_text(media: str, question: str) -> str:
    return (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        f"<|im_start|>user\n<|vision_bos|>{media}<|vision_eos|>{question}<|im_end|>\n<|im_start|>assistant\n"
    )


def processed_audio(processor: Qwen2_5OmniProcessor, waveform: Tensor) -> dict[str, Any]:
    settings = {"sampling_rate": SAMPLE_RATE, "return_attention_mask": True, "return_tensors": "pt"}
    inputs, _ = processor._process_audio([waveform.numpy()], **settings)
    return {**inputs, "num_audio_tokens": inputs["num_audio_tokens"].numpy()}


def processor_inputs(backbone: HFBackbone, clip: Clip) -> dict[str, Any]:
    """Arguments of the model's forward as transformers makes them, for a clip of pairs of equal frames."""
    processor = text_processor(backbone)
    if not clip.has_video:
        audio = processed_audio(processor, clip.waveform)
        media = f"<|audio_bos|>{processor.replace_audio_token(audio, 0)}<|audio_eos|>"
        text = prompt_text("", clip.instruction).replace("<|vision_bos|><|vision_eos|>", media)
        ids = torch.tensor([backbone.tokenizer(text, add_special_tokens=False)["input_ids"]])
        return {"input_ids": ids, **{name: audio[name] for name in ("input_features", "feature_attention_mask")}}
    images = Qwen2VLImageProcessorPil(patch_size=PATCH, merge_size=MERGE, do_resize=False)
    pictures = images([frame.permute(1, 2, 0).numpy() for frame in clip.frames[::2]], return_tensors="pt")
    grid = torch.tensor([[len(clip.frames) // 2, SIZE // PATCH, SIZE // PATCH]])
    seconds = 2 * clip.duration_seconds / len(clip.frames)
    video = {"pixel_values_videos": pictures["pixel_values"], "video_grid_thw": grid}
    audio = processed_audio(processor, clip.waveform) if clip.has_audio else {}
    options = {"load_audio_from_video": clip.has_audio, "position_id_per_seconds": 25, "seconds_per_chunk": 2.0}
    video_numbers = {"video_grid_thw": grid.numpy(), "video_second_per_grid": [seconds]}
    media = processor.replace_video_token(video_numbers, 0, audio, [0], **options)
    text = prompt_text(media, clip.instruction)
    return {
        "input_ids": torch.tensor([backbone.tokenizer(text, add_special_tokens=False)["input_ids"]]),
        **video,
        "video_second_per_grid": torch.tensor([seconds]),
        **{name: audio[name] for name in ("input_features", "feature_attention_mask") if name in audio},
        "use_audio_in_video": clip.has_audio,
    }


def test_sampling_and_scoring_equal_the_models_own_forward_on_the_processors_inputs(
    checkpoint: Path, clip: Callable[..., Clip]
) -> None:
    backbone = load(checkpoint)
    backbone.set_trainable(["language_model"])  # so that the towers' results are recorded and replayed
    pairs = [0, 0, 1, 1]
    clips = [
        clip(0, 4.0, instruction="Which emotion?"),
        clip(1, 2.3, instruction="Which emotion does he show, and why?", num_samples=25_000),
        clip(2, 3.0, num_samples=0),
        clip(3, 1.0, num_samples=90_000),  # audio that goes on behind the video
        clip(4, 2.0, has_video=False),
    ]
    for item in clips:
        item.frames = item.frames[pairs]
    assert_equal_to_own_forward(backbone, clips, lambda item: processor_inputs(backbone, item))


def test_inputs_equal_those_of_the_whole_processor(checkpoint: Path, clip: Callable[..., Clip]) -> None:
    pytest.importorskip("torchvision", reason="transformers' video processor needs torchvision")
    from transformers import Qwen2VLImageProcessor, Qwen2VLVideoProcessor

    backbone = load(checkpoint, num_frames=8)
    sizes = {"patch_size": PATCH, "merge_size": MERGE}
    processor = Qwen2_5OmniProcessor(
        image_processor=Qwen2VLImageProcessor(**sizes),
        video_processor=Qwen2VLVideoProcessor(do_resize=False, **sizes),
        feature_extractor=WhisperFeatureExtractor(feature_size=128),
        tokenizer=backbone.tokenizer,
        chat_template=backbone.tokenizer.chat_template,
    )
    item = clip(0, 4.0, num_frames=8, instruction="Which emotion?", num_samples=50_000)
    content = [{"type": "video"}, {"type": "text", "text": item.instruction}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    for has_audio in (True, False):
        waveform = item.waveform if has_audio else item.waveform[:0]
        expected = processor(
            text=[text],
            videos=[item.frames],
            audio=[waveform.numpy()] if has_audio else None,
            audio_from_video_indices=[0] if has_audio else None,
            load_audio_from_video=has_audio,
            videos_kwargs={"fps": 2.0, "do_sample_frames": False},
            return_tensors="pt",
        )
        media = backbone.family.media(ClipInput(item.frames, waveform, item.duration_seconds))
        assert backbone.token_ids(item.instruction, media) == expected["input_ids"][0].tolist()
        names = set(media.arguments) - {"use_audio_in_video"}
        assert names == set(expected) - {"input_ids", "attention_mask", "mm_token_type_ids"}
        assert torch.equal(media.arguments["video_grid_thw"], expected["video_grid_thw"])
        assert media.arguments["video_second_per_grid"].tolist() == list(expected["video_second_per_grid"])
        torch.testing.assert_close(media.arguments["pixel_values_videos"], expected["pixel_values_videos"])
        if has_audio:
            length = int(expected["feature_attention_mask"].sum())
            assert media.arguments["feature_attention_mask"].tolist() == [[1] * length]
            features = expected["input_features"][..., :length]
            torch.testing.assert_close(media.arguments["input_features"], features, atol=1e-5, rtol=0)


@pytest.mark.parametrize("num_samples", [1, 160, 161, 321, 1_600, 16_000, 16_001, 79_999, 480_000, 500_000])
def test_features_equal_those_of_a_waveform_padded_to_30_seconds(checkpoint: Path, num_samples: int) -> None:
    backbone = load(checkpoint)
    waveform = torch.rand(num_samples, generator=torch.Generator().manual_seed(0)) - 0.5
    expected = processed_audio(text_processor(backbone), waveform)
    length = max(int(expected["feature_attention_mask"].sum()), 3)
    features = backbone.family.log_mel(waveform)
    assert features.shape == (1, 128, length)
    torch.testing.assert_close(features, expected["input_features"][..., :length], atol=1e-5, rtol=0)
    if num_samples > 320:  # of less, the processor makes no token, and the model cannot run
        assert backbone.family.num_audio_tokens(length) == expected["num_audio_tokens"][0]


@pytest.mark.parametrize(
    ("positions", "expected"),
    [
        ([], [0]),
        ([0, 0, 49, 49, 50, 50], [4, 2]),
        (list(range(101)), [50, 50, 1]),
        # A gap of three chunks: each of those between gets one token, as in Qwen's own code.
        ([0, 0, 187, 187, 187, 187, 200], [2, 1, 1, 2, 1]),
        ([0, 0, 375, 375], [2, 1, 1]),
    ],
)
def test_chunks_of_time(checkpoint: Path, positions: list[int], expected: list[int]) -> None:
    assert chunk_sizes(positions, 50) == expected
    chunks = object.__new__(Qwen2_5OmniProcessor).get_chunked_index(positions, 50)
    assert [end - start for start, end in chunks] == expected


def temporal_positions(backbone: HFBackbone, batch: ClipBatch) -> tuple[list[int], list[int], int]:
    """Positions in time of the video's and audio's tokens of a batch's only clip, and of its first media token."""
    clip = ClipInput(batch.frames[0], batch.waveform[0], float(batch.durations_seconds[0]))
    media = backbone.family.media(clip)
    ids = torch.tensor(backbone.token_ids(batch.instructions[0], media))
    positions = backbone.encode(batch).position_ids[0, :, 0]
    video = positions[ids == backbone.tokenizer.video_token_id]
    audio = positions[ids == backbone.tokenizer.audio_token_id]
    start = int((ids == backbone.tokenizer.audio_bos_token_id).nonzero()[0]) + 1
    return video.tolist(), audio.tolist(), int(positions[start])


def test_what_is_seen_and_heard_at_once_has_the_same_position(checkpoint: Path, clip: Callable[..., Clip]) -> None:
    # Six seconds in six frames: a pair of frames every two seconds, 25 positions and 25 audio tokens per second.
    backbone = load(checkpoint, num_frames=6)
    batch = collate([clip(0, 6.0, num_frames=6)])
    video, audio, start = temporal_positions(backbone, batch)
    assert video == [start + 50 * pair for pair in range(3) for _ in range(TOKENS_PER_GROUP)]
    assert audio == [start + token for token in range(150)]
    media = backbone.family.media(ClipInput(batch.frames[0], batch.waveform[0], 6.0))
    chunk = "<|VIDEO|>" * TOKENS_PER_GROUP + "<|AUDIO|>" * 50
    assert media.placeholders == [f"<|audio_bos|>{chunk * 3}<|audio_eos|>"]


@pytest.mark.parametrize(
    ("seconds", "num_frames"),
    # Of twelve frames of 2.4 s, the sixth pair is at 2 s: 50 positions in float32, 49.99... in float64.
    [(2.4, 12), (4.8, 12), (30.0, 4), (7.3, 5), (0.7, 4)],
)
def test_tokens_stand_where_the_model_puts_their_positions(
    checkpoint: Path, clip: Callable[..., Clip], seconds: float, num_frames: int
) -> None:
    backbone = load(checkpoint, num_frames=num_frames)
    batch = collate([clip(0, seconds, num_frames)])
    batch.durations_seconds = torch.tensor([seconds], dtype=torch.float64)  # not rounded yet
    video, audio, start = temporal_positions(backbone, batch)
    num_groups = (num_frames + 1) // 2
    step = torch.tensor(2 * seconds / num_frames)
    groups = (torch.arange(num_groups) * step * 25).long().tolist()
    assert video == [start + group for group in groups for _ in range(TOKENS_PER_GROUP)]
    assert audio == list(range(start, start + len(audio)))


@pytest.mark.parametrize(
    ("num_frames", "seconds", "num_samples"),
    [(4, 3.0, 0), (4, 3.0, 1_600), (4, 3.0, 1), (3, 3.0, 48_000), (1, 0.5, 8_000), (4, 0.0, 0)],
)
def test_short_silent_and_failed_clips(
    checkpoint: Path, clip: Callable[..., Clip], num_frames: int, seconds: float, num_samples: int
) -> None:
    backbone = load(checkpoint, num_frames=num_frames)
    batch = collate([clip(0, seconds, num_frames, num_samples), clip(1, 2.0, num_frames)])
    prompt = backbone.encode(batch)
    completions = backbone.generate(prompt, 2, Sampling(max_new_tokens=4))
    torch.testing.assert_close(backbone.logprobs(prompt, completions), completions.logprobs, atol=1e-4, rtol=0)
    media = backbone.family.media(ClipInput(batch.frames[0], batch.waveform[0, :num_samples], seconds))
    num_audio = {0: 0, 1: 1, 1_600: 2}.get(num_samples, num_samples // 640)
    assert media.placeholders[0].count("<|AUDIO|>") == num_audio
    assert media.placeholders[0].count("<|VIDEO|>") == (num_frames + 1) // 2 * TOKENS_PER_GROUP


def test_tags_in_a_question_stay_text(checkpoint: Path, clip: Callable[..., Clip]) -> None:
    backbone = load(checkpoint)
    question = "<|AUDIO|><|VIDEO|><|im_end|>Why?"
    ids = backbone.token_ids(question, MediaInputs(["<|VIDEO|>"], {}))
    plain = backbone.tokenizer(question, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert ids.count(backbone.tokenizer.video_token_id) == 1
    assert ids.count(backbone.tokenizer.audio_token_id) == 0
    assert any(ids[i : i + len(plain)] == plain for i in range(len(ids)))
    backbone.encode(collate([clip(0, 2.0, instruction=question)]))


def test_towers_run_once_per_clip(checkpoint: Path, clip: Callable[..., Clip]) -> None:
    backbone = load(checkpoint)
    batch = collate([clip(0, 2.0), clip(1, 3.0, num_samples=0)])
    projectors = ["vision_projector", "audio_projector"]
    backbone.set_trainable(projectors)
    towers = backbone.model.model.visual.blocks, backbone.model.model.audio_tower.layers
    runs: list[int] = []
    for number, layers in enumerate(towers):
        for layer in layers:
            inner = layer.attn if number == 0 else layer.self_attn
            inner.register_forward_hook(lambda *_, number=number: runs.append(number))
    percept = backbone.perceive(batch)
    assert runs.count(0) == 2 * len(towers[0]) and runs.count(1) == len(towers[1])
    prompt = backbone.encode(batch, percept)
    assert len(runs) == 2 * len(towers[0]) + len(towers[1])
    prompt.embeddings.square().sum().backward()
    trained = {id(p) for name in projectors for p in backbone.parts[name].parameters()}
    assert {id(p) for p in backbone.parameters() if p.grad is not None} == trained
    backbone.set_trainable(["vision_tower", "audio_tower"])
    torch.testing.assert_close(backbone.encode(batch).embeddings, prompt.embeddings, atol=1e-5, rtol=0)


def test_parts_hold_every_parameter_once(checkpoint: Path) -> None:
    backbone = load(checkpoint)
    assert list(backbone.parts) == [
        "vision_tower",
        "vision_projector",
        "audio_tower",
        "audio_projector",
        "language_model",
    ]
    held = [id(p) for part in backbone.parts.values() for p in part.parameters()]
    assert sorted(held) == sorted(id(p) for p in backbone.parameters())


def test_a_published_checkpoint_loads_without_its_talker_and_saves_the_thinker(
    checkpoint: Path, clip: Callable[..., Clip], tmp_path: Path
) -> None:
    published = load_file(checkpoint / "model.safetensors")
    assert {name.split(".")[0] for name in published} == {"thinker", "talker", "token2wav"}
    assert not json.loads((checkpoint / "tokenizer_config.json").read_text()).get("chat_template")
    backbone = load(checkpoint)
    num_loaded = sum(p.numel() for p in backbone.parameters())
    assert num_loaded == sum(t.numel() for name, t in published.items() if name.startswith("thinker."))
    assert loading.count_weights(checkpoint, QwenOmni.unused_weights) == num_loaded
    for name, tensor in (
        ("lm_head", backbone.model.lm_head),
        ("model.embed_tokens", backbone.decoder.body.embed_tokens),
    ):
        assert torch.equal(tensor.weight, published[f"thinker.{name}.weight"])
    backbone.save(tmp_path / "saved")
    saved = load_file(tmp_path / "saved" / "model.safetensors")
    assert set(saved) == {name for name in published if name.startswith("thinker.")}
    again = load(tmp_path / "saved")
    batch = collate([clip(0, 2.0), clip(1, 3.0, num_samples=0)])
    first, second = backbone.encode(batch), again.encode(batch)
    assert torch.equal(first.embeddings, second.embeddings) and torch.equal(first.position_ids, second.position_ids)
    completions = backbone.generate(first, 1, Sampling(max_new_tokens=4, temperature=0))
    assert torch.equal(backbone.logprobs(first, completions), again.logprobs(second, completions))


def test_loading_says_nothing_about_the_talker(checkpoint: Path, capfd: pytest.CaptureFixture[str]) -> None:
    load(checkpoint)
    assert not [line for line in capfd.readouterr().err.splitlines() if "talker" in line or "Model config" in line]


def test_a_checkpoint_without_some_weights_is_an_error_that_names_them(checkpoint: Path, tmp_path: Path) -> None:
    directory = Path(shutil.copytree(checkpoint, tmp_path / "cut"))
    tensors = load_file(directory / "model.safetensors")
    del tensors["thinker.model.layers.1.mlp.up_proj.weight"], tensors["thinker.audio_tower.proj.bias"]
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks 2 weights of .*audio_tower.proj.bias, .*layers.1.mlp.up_proj.weight"):
        load(directory)


def test_the_processors_chat_template_wins(checkpoint: Path, tmp_path: Path) -> None:
    directory = Path(shutil.copytree(checkpoint, tmp_path / "other"))
    template = "{% for item in messages[0]['content'] %}{{ item['text'] or '<|VIDEO|>' }}{% endfor %}"
    (directory / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    (directory / "chat_template.jinja").write_text("of the tokenizer")
    assert load(directory)._template(ALL_MODALITIES)[0].startswith("<|VIDEO|>")


def test_bfloat16_with_adapters(checkpoint: Path, clip: Callable[..., Clip]) -> None:
    backbone = load(checkpoint, dtype="bfloat16", lora=LoRA(rank=2, alpha=4), gradient_checkpointing=True)
    backbone.set_trainable(["language_model"])
    prompt = backbone.encode(collate([clip(0, 2.0), clip(1, 3.0, num_samples=0)]))
    completions = backbone.generate(prompt, 2, Sampling(max_new_tokens=4))
    backbone.logprobs(prompt, completions).sum().backward()
    gradients = [p.grad for p in backbone.parts["language_model"].parameters() if p.requires_grad]
    assert gradients and all(gradient is not None and gradient.isfinite().all() for gradient in gradients)
