"""Qwen2.5-VL, Qwen3-VL and Qwen3.5 against their own forward pass and transformers' image processor, tiny weights."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from datamodules.batch import Clip, collate
from lightning_modules.backbones.hf.backbone import HFBackbone
from lightning_modules.backbones.hf.family import ClipInput, MediaInputs
from lightning_modules.backbones.hf.qwen_vl import patchify
from lightning_modules.backbones.interface import Sampling
from tests.tiny_checkpoints import write_tiny_checkpoint

pytestmark = pytest.mark.numerics

SIZE = 48
PATCH, MERGE = 8, 2
TOKENS_PER_PAIR = (SIZE // PATCH // MERGE) ** 2
PADS = "<|video_pad|>" * TOKENS_PER_PAIR
KINDS = ("qwen2_5_vl", "qwen3_vl", "qwen3_5")


@pytest.fixture(scope="module", params=KINDS)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    texts = ["Which emotion? <think>The man frowns. He shouts.</think>\n<answer>angry</answer>"] * 20
    return write_tiny_checkpoint(request.param, tmp_path_factory.mktemp("vl") / request.param, texts)


def load(checkpoint: Path, num_frames: int = 4, image_size: int = SIZE) -> HFBackbone:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*cannot hear")
        return HFBackbone(str(checkpoint), num_frames=num_frames, image_size=image_size)


@pytest.fixture
def clip(make_clip: Callable[..., Clip]) -> Callable[..., Clip]:
    def make(seed: int, seconds: float, num_frames: int = 4, **fields: Any) -> Clip:
        generator = torch.Generator().manual_seed(seed)
        frames = torch.randint(0, 256, (num_frames, 3, SIZE, SIZE), generator=generator, dtype=torch.uint8)
        return make_clip(seed, **{"frames": frames, "duration_seconds": seconds, **fields})

    return make


def image_patches(frames: Tensor) -> Tensor:
    """What transformers' processor makes of still images, each of which it takes for a pair of equal frames."""
    processor = Qwen2VLImageProcessorPil(patch_size=PATCH, merge_size=MERGE, do_resize=False)
    images = [frame.permute(1, 2, 0).numpy() for frame in frames]
    return processor(images, return_tensors="pt")["pixel_values"]


def media_text(kind: str, seconds: float) -> str:
    """Of two pairs of frames, written out: the pairs are at 1/4 and 3/4 of the clip."""
    if kind == "qwen2_5_vl":
        return f"<|vision_start|>{PADS * 2}<|vision_end|>"
    return "".join(
        f"<{time:.1f} seconds><|vision_start|>{PADS}<|vision_end|>" for time in (seconds / 4, seconds * 3 / 4)
    )


def own_logprobs(backbone: HFBackbone, kind: str, clip: Clip, completion: Tensor) -> Tensor:
    """By the model's own forward over prompt and completion, for a clip of two pairs of equal frames."""
    text = f"<|im_start|>user\n{media_text(kind, clip.duration_seconds)}{clip.instruction}<|im_end|>\n"
    prompt = backbone.tokenizer(f"{text}<|im_start|>assistant\n", add_special_tokens=False)["input_ids"]
    ids = torch.tensor([[*prompt, *completion.tolist()]])
    arguments = {
        "pixel_values_videos": image_patches(clip.frames[::2]),
        "video_grid_thw": torch.tensor([[2, SIZE // PATCH, SIZE // PATCH]]),
        "mm_token_type_ids": 2 * (ids == backbone.tokenizer.convert_tokens_to_ids("<|video_pad|>")).long(),
    }
    if kind == "qwen2_5_vl":
        arguments["second_per_grid_ts"] = [clip.duration_seconds / 2]
    with torch.no_grad():
        logits = backbone.model(input_ids=ids, attention_mask=torch.ones_like(ids), **arguments).logits
    return logits[0, len(prompt) - 1 : -1].log_softmax(-1).gather(1, completion[:, None])[:, 0]


def test_sampling_and_scoring_equal_the_models_own_forward(checkpoint: Path, clip: Callable[..., Clip]) -> None:
    backbone = load(checkpoint)
    backbone.set_trainable(["language_model"])  # so that the tower's results are recorded and replayed
    clips = [
        clip(0, 4.0, instruction="Which emotion?"),
        clip(1, 3.0, instruction="Which emotion does he show, and why?"),
        clip(2, 10.0, instruction="Why?"),
    ]
    for item in clips:
        item.frames = item.frames[[0, 0, 1, 1]]
    prompt = backbone.encode(collate(clips))
    sampled = backbone.generate(prompt, 2, Sampling(max_new_tokens=5))
    torch.testing.assert_close(backbone.logprobs(prompt, sampled), sampled.logprobs, atol=1e-4, rtol=0)
    # Not the sampled ones: in its own forward, the model takes random media tokens among them for media.
    completions = backbone.completion_ids(["The man frowns.", "He shouts."] * len(clips))
    scored = backbone.logprobs(prompt, completions)
    for row in range(len(completions)):
        keep = completions.mask[row]
        expected = own_logprobs(backbone, checkpoint.name, clips[row // 2], completions.token_ids[row][keep])
        torch.testing.assert_close(scored[row][keep], expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("size", "patch", "merge"), [(48, 8, 2), (56, 14, 2), (96, 16, 3)])
def test_patches_equal_those_of_the_image_processor(size: int, patch: int, merge: int) -> None:
    frames = torch.randint(0, 256, (3, 3, size, size), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    processor = Qwen2VLImageProcessorPil(patch_size=patch, merge_size=merge, do_resize=False)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (processor.image_mean, processor.image_std))
    expected = processor([frame.permute(1, 2, 0).numpy() for frame in frames], return_tensors="pt")
    patches, grid = patchify(((frames / 255 - mean) / std).repeat_interleave(2, dim=0), patch, merge, 2)
    assert grid.tolist() == [[3, size // patch, size // patch]]
    torch.testing.assert_close(patches, expected["pixel_values"])


def test_a_patch_holds_both_frames_of_a_pair_and_an_odd_last_frame_is_repeated() -> None:
    frames = torch.arange(3.0).view(3, 1, 1, 1).expand(3, 3, 16, 16)
    patches, grid = patchify(frames, patch_size=8, merge_size=2, temporal_patch_size=2)
    assert grid.tolist() == [[2, 2, 2]]
    pixels = patches.view(2, 4, 3, 2, 64)  # pair, patch, channel, frame, pixel
    assert (pixels[0, :, :, 0] == 0).all() and (pixels[0, :, :, 1] == 1).all()
    assert (pixels[1] == 2).all()


def test_inputs_equal_those_of_the_video_processor(checkpoint: Path, clip: Callable[..., Clip]) -> None:
    pytest.importorskip("torchvision", reason="transformers' video processor needs torchvision")
    from transformers import Qwen2VLVideoProcessor

    backbone = load(checkpoint, num_frames=5)
    item = clip(0, 2.0, num_frames=5)
    settings = {"do_resize": False, "do_sample_frames": False, "return_tensors": "pt"}
    expected = Qwen2VLVideoProcessor(patch_size=PATCH, merge_size=MERGE)(item.frames, **settings)
    arguments = backbone.family.media(ClipInput(item.frames, item.waveform, 2.0)).arguments
    assert torch.equal(arguments["video_grid_thw"], expected["video_grid_thw"])
    torch.testing.assert_close(arguments["pixel_values_videos"], expected["pixel_values_videos"])


@pytest.mark.parametrize(
    ("seconds", "num_frames", "times"),
    # Frames at 0.5, 1.5, 2.5, 3.5 s; then at 1, 3, 5 s, of which the last is repeated; a failed clip.
    [(4.0, 4, ["1.0", "3.0"]), (6.0, 3, ["2.0", "5.0"]), (0.0, 2, ["0.0"])],
)
def test_times_in_front_of_pairs_of_frames(
    tmp_path: Path, clip: Callable[..., Clip], seconds: float, num_frames: int, times: list[str]
) -> None:
    backbone = load(write_tiny_checkpoint("qwen3_vl", tmp_path / "qwen3_vl", ["What?"]), num_frames=num_frames)
    item = clip(0, seconds, num_frames)
    media = backbone.family.media(ClipInput(item.frames, item.waveform, seconds))
    expected = [f"<{time} seconds><|vision_start|>{PADS}<|vision_end|>" for time in times]
    assert media.placeholders == ["".join(expected)]
    assert backbone.encode(collate([item])).embeddings.isfinite().all()


def test_positions_in_time_of_qwen2_5_vl(tmp_path: Path, clip: Callable[..., Clip]) -> None:
    backbone = load(write_tiny_checkpoint("qwen2_5_vl", tmp_path / "qwen2_5_vl", ["What?"]))
    ids = torch.tensor(backbone.token_ids("What?", MediaInputs(["<|video_pad|>" * 2 * TOKENS_PER_PAIR], {})))
    video = ids == backbone.tokenizer.convert_tokens_to_ids("<|video_pad|>")
    per_second = backbone.model.config.vision_config.tokens_per_second
    for seconds in (2.0, 10.0):
        positions = backbone.encode(collate([clip(0, seconds, instruction="What?")])).position_ids[0, :, 0][video]
        start = int(positions[0])
        second_pair = start + int(per_second * seconds / 2)  # half a clip later
        assert positions.tolist() == [start] * TOKENS_PER_PAIR + [second_pair] * TOKENS_PER_PAIR


def test_tags_in_a_question_stay_text(checkpoint: Path, clip: Callable[..., Clip]) -> None:
    backbone = load(checkpoint)
    question = "<|video_pad|><|vision_start|><|im_end|>Why?"
    media = backbone.family.media(ClipInput(clip(0, 2.0).frames, torch.zeros(0), 2.0))
    ids = backbone.token_ids(question, media)
    assert ids.count(backbone.tokenizer.convert_tokens_to_ids("<|video_pad|>")) == 2 * TOKENS_PER_PAIR
    plain = backbone.tokenizer(question, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert not set(plain) & set(backbone.tokenizer.all_special_ids)
    assert any(ids[i : i + len(plain)] == plain for i in range(len(ids)))
    assert len(backbone.encode(collate([clip(0, 2.0, instruction=question)])).embeddings[0]) == len(ids)


def test_the_tower_runs_once_per_clip(checkpoint: Path, clip: Callable[..., Clip]) -> None:
    backbone = load(checkpoint)
    batch = collate([clip(0, 2.0), clip(1, 3.0)])
    backbone.set_trainable(["vision_projector"])
    runs: list[int] = []
    blocks = backbone.model.model.visual.blocks
    for block in blocks:
        block.attn.register_forward_hook(lambda *_: runs.append(1))
    percept = backbone.perceive(batch)
    assert len(runs) == 2 * len(blocks)
    prompt = backbone.encode(batch, percept)
    assert len(runs) == 2 * len(blocks)
    torch.cat([value.flatten() for value in (prompt.embeddings, *prompt.extras.values())]).square().sum().backward()
    projector = {id(p) for p in backbone.parts["vision_projector"].parameters()}
    assert {id(p) for p in backbone.parameters() if p.grad is not None} == projector
    backbone.set_trainable(["vision_tower"])  # in training, the tower is left to `encode`
    trained = backbone.encode(batch, backbone.perceive(batch))
    torch.testing.assert_close(trained.embeddings, prompt.embeddings, atol=1e-5, rtol=0)
    for name, value in prompt.extras.items():
        torch.testing.assert_close(trained.extras[name], value, atol=1e-5, rtol=0)


def test_an_image_size_that_cannot_be_cut_is_an_error(checkpoint: Path) -> None:
    with pytest.raises(ValueError, match="image_size is 40; .* needs a multiple of 16 pixels"):
        load(checkpoint, image_size=40)


def test_a_model_that_cannot_hear_says_so(checkpoint: Path) -> None:
    with pytest.warns(UserWarning, match="cannot hear"):
        HFBackbone(str(checkpoint), num_frames=4, image_size=SIZE)


def test_code_of_a_model_directory_is_never_run(tmp_path: Path) -> None:
    """A directory that names classes of its own, as remote code is shipped: its file would leave a mark."""
    directory = write_tiny_checkpoint("qwen2_5_vl", tmp_path / "model", ["Which emotion?"])
    mark = tmp_path / "mark"
    (directory / "evil.py").write_text(f"open({str(mark)!r}, 'w').close()\nclass Evil: ...\n")
    for name in ("config.json", "tokenizer_config.json", "preprocessor_config.json"):
        settings = json.loads((directory / name).read_text())
        keys = ("AutoConfig", "AutoModelForMultimodalLM", "AutoTokenizer", "AutoImageProcessor")
        settings["auto_map"] = dict.fromkeys(keys, "evil.Evil")
        if name == "tokenizer_config.json":
            settings["auto_map"]["AutoTokenizer"] = ["evil.Evil", "evil.Evil"]
        (directory / name).write_text(json.dumps(settings))
    HFBackbone(str(directory), num_frames=4, image_size=48)
    assert not mark.exists()
