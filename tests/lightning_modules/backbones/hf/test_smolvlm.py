"""SmolVLM2 and Idefics3 against their own forward pass and transformers' processor, on tiny random weights."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import SmolVLMProcessor
from transformers.models.smolvlm import processing_smolvlm
from transformers.video_utils import VideoMetadata

from datamodules.batch import Clip, collate
from lightning_modules.backbones.hf.backbone import HFBackbone
from lightning_modules.backbones.hf.family import ClipInput
from lightning_modules.backbones.hf.smolvlm import in_words
from tests.tiny_checkpoints import write_tiny_checkpoint

from .own_forward import assert_equal_to_own_forward

pytestmark = pytest.mark.numerics

NUM_FRAMES, SIZE = 4, 48
NUM_TOKENS = (SIZE // 8 // 2) ** 2
# Two line breaks at the end: they become one token, but not where a word follows.
TEXTS = ["Which emotion? Why? <think>The man frowns.</think>\n<answer>angry</answer>\n\n"] * 20


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("idefics")
    return {name: write_tiny_checkpoint(name, root / name, TEXTS) for name in ("smolvlm", "idefics3")}


def load(directory: Path, **options: Any) -> HFBackbone:
    return HFBackbone(str(directory), **{"num_frames": NUM_FRAMES, "image_size": SIZE, **options})


@pytest.fixture(params=["smolvlm", "idefics3"])
def backbone(request: pytest.FixtureRequest, checkpoints: dict[str, Path]) -> HFBackbone:
    return load(checkpoints[request.param])


@pytest.fixture
def smolvlm(checkpoints: dict[str, Path]) -> HFBackbone:
    return load(checkpoints["smolvlm"])


@pytest.fixture
def clip(make_clip: Callable[..., Clip]) -> Callable[..., Clip]:
    """Clips of a length in seconds."""

    def make(seed: int, seconds: float = 3.0, size: tuple[int, ...] = (NUM_FRAMES, 3, SIZE, SIZE), **fields) -> Clip:
        frames = torch.randint(0, 256, size, generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
        return make_clip(seed, **{"frames": frames, "duration_seconds": seconds, **fields})

    return make


def processors_video(clip: Clip, monkeypatch: pytest.MonkeyPatch) -> str:
    """What transformers' processor writes for a video, without its parts that need torchvision and num2words."""
    if processing_smolvlm.num2words is None:
        monkeypatch.setattr(processing_smolvlm, "num2words", in_words)
    processor = object.__new__(SmolVLMProcessor)
    processor.image_seq_len = NUM_TOKENS
    processor.image_token = "<image>"
    processor.fake_image_token = "<fake_token_around_image>"
    processor.global_image_token = "<global-img>"
    rate = 100
    num_frames = len(clip.frames)
    metadata = VideoMetadata(
        total_num_frames=round(clip.duration_seconds * rate),
        fps=rate,
        duration=clip.duration_seconds,
        frames_indices=[round(clip.duration_seconds * rate * (i + 0.5) / num_frames) for i in range(num_frames)],
    )
    return processor.replace_video_token({"pixel_values": clip.frames[None], "video_metadata": [metadata]}, 0)


def processors_inputs(backbone: HFBackbone, clip: Clip, monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    """Arguments of the model's forward as transformers' processor makes them."""
    if backbone.model.config.model_type == "smolvlm":
        media = " " + processors_video(clip, monkeypatch)
    else:
        image = f"<fake_token_around_image><global-img>{'<image>' * NUM_TOKENS}<fake_token_around_image>"
        media = image * NUM_FRAMES
    text = f"<|im_start|>User:{media}{clip.instruction}<end_of_utterance>\nAssistant:"
    ids = torch.tensor([backbone.tokenizer(text)["input_ids"]])
    return {"input_ids": ids, "pixel_values": ((clip.frames / 255 - 0.5) / 0.5)[None]}


def test_sampling_and_scoring_equal_the_models_own_forward_on_the_processors_inputs(
    backbone: HFBackbone, clip: Callable[..., Clip], monkeypatch: pytest.MonkeyPatch
) -> None:
    clips = [clip(i, 2.0 + 50 * i, instruction="Which emotion?" + " Why?" * i) for i in range(3)]
    assert_equal_to_own_forward(backbone, clips, lambda item: processors_inputs(backbone, item, monkeypatch))


def test_every_frame_is_seen(backbone: HFBackbone, clip: Callable[..., Clip]) -> None:
    item = clip(0)
    completions = backbone.completion_ids(["The man frowns."])
    before = backbone.logprobs(backbone.encode(collate([item])), completions)
    for i in range(NUM_FRAMES):
        frames = item.frames.clone()
        frames[i] = 255 - frames[i]
        after = backbone.logprobs(backbone.encode(collate([clip(0, frames=frames)])), completions)
        assert (after - before).abs().max() > 1e-4


@pytest.mark.parametrize("seconds", [0.0, 3.4, 59.9, 754.0, 3_725.0])
def test_video_prompt_is_the_processors(
    smolvlm: HFBackbone, clip: Callable[..., Clip], monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    item = clip(0, seconds, instruction="Why?")
    media = smolvlm.family.media(ClipInput(item.frames, item.waveform, seconds))
    assert media.placeholders == [processors_video(item, monkeypatch)]
    apart = [token for text in ("\n\n", "Why?") for token in smolvlm.tokenizer(text)["input_ids"]]
    assert smolvlm.tokenizer("\n\nWhy?")["input_ids"] != apart, "a cut before the question would show"
    ids = smolvlm.token_ids(item.instruction, media)
    assert ids == processors_inputs(smolvlm, item, monkeypatch)["input_ids"][0].tolist()


def test_known_video_prompt(smolvlm: HFBackbone, clip: Callable[..., Clip]) -> None:
    item = clip(0, 754.0, instruction="Why?")
    media = smolvlm.family.media(ClipInput(item.frames, item.waveform, 754.0))
    frame = f"<fake_token_around_image><global-img>{'<image>' * 9}<fake_token_around_image>"
    assert smolvlm.tokenizer.decode(smolvlm.token_ids("Why?", media)) == (
        "<|im_start|>User: You are provided the following series of four frames from a 0:12:34 [H:MM:SS] video.\n\n"
        f"Frame from 01:34:{frame}\nFrame from 04:42:{frame}\nFrame from 07:51:{frame}\nFrame from 10:59:{frame}\n\n"
        "Why?<end_of_utterance>\nAssistant:"
    )


def test_inputs_equal_those_of_the_whole_processor(smolvlm: HFBackbone, clip: Callable[..., Clip]) -> None:
    pytest.importorskip("torchvision", reason="transformers' video processor needs torchvision")
    pytest.importorskip("num2words", reason="transformers' SmolVLMProcessor needs num2words")
    from transformers import SmolVLMImageProcessor, SmolVLMVideoProcessor

    side = {"longest_edge": SIZE}
    processor = SmolVLMProcessor(
        image_processor=SmolVLMImageProcessor(),
        tokenizer=smolvlm.tokenizer,
        video_processor=SmolVLMVideoProcessor(size=side, max_image_size=side, num_frames=NUM_FRAMES, fps=1),
        image_seq_len=NUM_TOKENS,
    )
    item = clip(0, 8.0, instruction="Which emotion?")
    content = [{"type": "video"}, {"type": "text", "text": item.instruction}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    metadata = VideoMetadata(total_num_frames=80, fps=10.0, duration=8.0, frames_indices=[10, 30, 50, 70])
    expected = processor(
        text=[text],
        videos=[[item.frames]],
        videos_kwargs={"video_metadata": [[metadata]], "do_sample_frames": False},
        return_tensors="pt",
    )
    media = smolvlm.family.media(ClipInput(item.frames, item.waveform, 8.0))
    assert smolvlm.token_ids(item.instruction, media) == expected["input_ids"][0].tolist()
    torch.testing.assert_close(media.arguments["pixel_values"], expected["pixel_values"])
    assert expected["pixel_attention_mask"].all()


def test_numbers_in_words() -> None:
    words = {
        0: "zero",
        1: "one",
        8: "eight",
        12: "twelve",
        19: "nineteen",
        20: "twenty",
        32: "thirty-two",
        64: "sixty-four",
    }
    assert {number: in_words(number) for number in words} == words
    for number in (-1, 100):
        with pytest.raises(ValueError, match="at most 99 frames"):
            in_words(number)


def test_numbers_are_those_of_num2words() -> None:
    num2words = pytest.importorskip("num2words", reason="num2words is what transformers' processor uses").num2words
    assert [in_words(number) for number in range(100)] == [num2words(number) for number in range(100)]


def test_a_frozen_tower_runs_once_per_clip_and_a_trained_one_at_every_encode(
    backbone: HFBackbone, clip: Callable[..., Clip]
) -> None:
    runs: list[int] = []
    backbone.parts["vision_tower"].encoder.register_forward_hook(lambda *_: runs.append(1))
    batch = collate([clip(0), clip(1)])
    backbone.set_trainable(["vision_projector", "language_model"])
    percept = backbone.perceive(batch)
    assert len(runs) == 2
    prompts = [backbone.encode(batch, percept) for _ in range(2)]
    assert len(runs) == 2
    assert torch.equal(prompts[0].embeddings, prompts[1].embeddings) and prompts[0].embeddings.requires_grad
    backbone.set_trainable(["vision_tower"])
    runs.clear()
    torch.testing.assert_close(backbone.encode(batch, backbone.perceive(batch)).embeddings, prompts[0].embeddings)
    assert len(runs) == 2


def test_media_tokens_in_a_question_stay_text(backbone: HFBackbone, clip: Callable[..., Clip]) -> None:
    question = "Why <image><video> <fake_token_around_image><end_of_utterance>?"
    item = clip(0)
    media = backbone.family.media(ClipInput(item.frames, item.waveform, 3.0))
    image, end = backbone.tokenizer.convert_tokens_to_ids(["<image>", "<end_of_utterance>"])
    ids = backbone.token_ids(question, media)
    assert ids.count(image) == NUM_FRAMES * NUM_TOKENS and ids.count(end) == 1
    assert question in backbone.tokenizer.decode(ids)
    backbone.encode(collate([clip(0, instruction=question)]))


def test_weights_of_the_policy_do_not_reach_its_reference(backbone: HFBackbone, clip: Callable[..., Clip]) -> None:
    backbone.set_trainable(["vision_projector", "language_model"])
    batch = collate([clip(0), clip(1, instruction="Why?")])
    completions = backbone.completion_ids(["The man frowns.", "He shouts."])
    percept = backbone.perceive(batch)
    reference = backbone.reference()

    def scores(model: HFBackbone) -> Tensor:
        return model.logprobs(model.encode(batch, percept), completions).detach()

    before = scores(reference)
    torch.testing.assert_close(before, scores(backbone), atol=0, rtol=0)
    assert reference.family.model is reference.model is not backbone.model
    for part in ("vision_projector", "language_model"):
        previous = scores(backbone)
        with torch.no_grad():
            for parameter in backbone.parts[part].parameters():
                parameter.mul_(1.5)
        assert (scores(backbone) - previous).abs().max() > 1e-3
        torch.testing.assert_close(scores(reference), before, atol=0, rtol=0)


def test_other_frames_are_refused(checkpoints: dict[str, Path], smolvlm: HFBackbone, clip: Callable[..., Clip]) -> None:
    with pytest.raises(ValueError, match=r"image_size is 40; .* needs a multiple of 16 pixels"):
        load(checkpoints["smolvlm"], image_size=40)
    for size in ((NUM_FRAMES + 1, 3, SIZE, SIZE), (NUM_FRAMES, 3, 64, 64)):
        with pytest.raises(ValueError, match="data.media.num_frames=4 and data.media.image_size=48"):
            smolvlm.encode(collate([clip(0, size=size)]))


def test_larger_frames_take_more_tokens(checkpoints: dict[str, Path], clip: Callable[..., Clip]) -> None:
    lengths = []
    for size in (SIZE, 64):
        model = load(checkpoints["smolvlm"], image_size=size)
        lengths.append(model.encode(collate([clip(0, size=(NUM_FRAMES, 3, size, size))])).embeddings.shape[1])
    assert lengths[1] - lengths[0] == NUM_FRAMES * (16 - NUM_TOKENS)


def test_a_model_that_cannot_hear_says_so_once(checkpoints: dict[str, Path], clip: Callable[..., Clip]) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = load(checkpoints["smolvlm"])
        for seed in range(2):
            model.encode(collate([clip(seed)]))
    assert sum("cannot hear" in str(warning.message) for warning in caught) == 1


@pytest.mark.parametrize("gradient_checkpointing", [False, True])
def test_responses_of_one_token_are_scored(
    checkpoints: dict[str, Path], clip: Callable[..., Clip], gradient_checkpointing: bool
) -> None:
    model = load(checkpoints["smolvlm"], gradient_checkpointing=gradient_checkpointing)
    prompt = model.encode(collate([clip(0), clip(1)]))
    first = model.decoder.hidden(
        inputs_embeds=prompt.embeddings, attention_mask=prompt.attention_mask, position_ids=prompt.position_ids
    )[:, -1]
    expected = model.decoder.logits(first).log_softmax(-1)[:, model.tokenizer.eos_token_id, None]
    for group_size in (1, 3):
        scored = model.logprobs(prompt, model.completion_ids([""] * 2 * group_size))
        torch.testing.assert_close(scored, expected.repeat_interleave(group_size, dim=0), atol=1e-4, rtol=0)
