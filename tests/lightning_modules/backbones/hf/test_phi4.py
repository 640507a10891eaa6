"""Phi-4-multimodal against its own forward pass, its adapters against peft, its pictures against its processor.

The whole of its processor needs torchvision: the test that runs it is skipped where torchvision cannot be imported.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import Phi4MultimodalFeatureExtractor, Phi4MultimodalForCausalLM

from datamodules.batch import SAMPLE_RATE, Clip, collate
from lightning_modules.backbones import generation
from lightning_modules.backbones.adapters import LoRA, merged_state_dict
from lightning_modules.backbones.hf.backbone import HFBackbone
from lightning_modules.backbones.hf.family import ClipInput
from lightning_modules.backbones.interface import Sampling
from tests.tiny_checkpoints import write_tiny_checkpoint
from tests.tiny_checkpoints.phi4 import ADAPTERS

from .own_forward import assert_equal_to_own_forward

pytestmark = pytest.mark.numerics

NUM_FRAMES, CROP, PATCH, ORIGINAL_CONTEXT = 2, 48, 8, 100
TEXTS = ["Which emotion? Why? <think>The man frowns. He shouts.</think>\n<answer>angry</answer>"] * 20


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint("phi4_multimodal", tmp_path_factory.mktemp("phi4"), TEXTS)


def load(checkpoint: Path, **options: Any) -> HFBackbone:
    return HFBackbone(str(checkpoint), **{"num_frames": NUM_FRAMES, "image_size": CROP, **options})


@pytest.fixture
def clip(make_clip: Callable[..., Clip]) -> Callable[..., Clip]:
    def make(seed: int, size: int = CROP, **fields: Any) -> Clip:
        generator = torch.Generator().manual_seed(seed)
        frames = torch.randint(0, 256, (NUM_FRAMES, 3, size, size), generator=generator, dtype=torch.uint8)
        waveform = torch.rand(SAMPLE_RATE // 2 + 9_000 * seed, generator=generator) - 0.5
        return make_clip(seed, **{"frames": frames, "waveform": waveform, "duration_seconds": 1.0 + seed, **fields})

    return make


def documented_inputs(backbone: HFBackbone, clip: Clip) -> dict[str, Tensor]:
    """Arguments of the model's forward, as its processor makes them of `<|user|>images, sound, question<|end|>`."""
    media, inputs = "", {}
    if clip.has_video:
        side = clip.frames.shape[-1]
        pictures = []
        for frame in clip.frames:
            pixels = (frame / 255 - 0.5) / 0.5
            whole = torch.nn.functional.interpolate(pixels[None], (CROP, CROP), mode="bicubic", align_corners=False)[0]
            corners = [(y, x) for y in range(0, side, CROP) for x in range(0, side, CROP)]
            pictures.append(torch.stack([whole, *(pixels[:, y : y + CROP, x : x + CROP] for y, x in corners)]))
        patches = CROP // PATCH
        tokens = patches // 2
        of_crops = side // CROP * tokens
        media += "<|image|>" * (of_crops * (of_crops + 1) + 1 + tokens * (tokens + 1)) * NUM_FRAMES
        inputs |= {
            "image_pixel_values": torch.stack(pictures),
            "image_sizes": torch.full((NUM_FRAMES, 2), side),
            "image_attention_mask": torch.ones(NUM_FRAMES, len(pictures[0]), patches, patches),
        }
    if clip.has_audio:
        heard = Phi4MultimodalFeatureExtractor()(
            [clip.waveform.numpy()], sampling_rate=SAMPLE_RATE, return_tensors="pt"
        )
        media += "<|audio|>" * int(heard["audio_embed_sizes"])
        inputs |= dict(heard)
    text = f"<|user|>{media}{clip.instruction}<|end|><|assistant|>"
    return {"input_ids": torch.tensor([backbone.tokenizer(text, add_special_tokens=False)["input_ids"]]), **inputs}


@pytest.mark.parametrize("size", [CROP, 2 * CROP])
def test_sampling_and_scoring_equal_the_models_own_forward_on_documented_inputs(
    checkpoint: Path, clip: Callable[..., Clip], size: int
) -> None:
    """In one batch, prompts on either side of the original context, past which rotary frequencies change."""
    backbone = load(checkpoint, image_size=size)
    backbone.set_trainable(["language_model"])  # so that the towers' results are recorded and replayed
    clips = [
        clip(0, size, instruction="Which emotion?"),
        clip(4, size, instruction="Which emotion does he show, and why? Look at his face, and listen to him."),
        clip(2, size, waveform=torch.zeros(0), has_audio=False),
        clip(3, size, has_video=False, instruction="Why?"),
    ]
    if size == CROP:  # the audio tower's windows are of 40 seconds
        clips.append(clip(4, size, has_video=False, waveform=torch.rand(45 * SAMPLE_RATE) - 0.5))
    prompt, _ = assert_equal_to_own_forward(backbone, clips, lambda item: documented_inputs(backbone, item))
    lengths = prompt.attention_mask.sum(1)
    assert lengths.min() < ORIGINAL_CONTEXT - 20 and lengths.max() > ORIGINAL_CONTEXT


def test_a_completion_that_crosses_the_original_context_goes_on_as_it_began(
    checkpoint: Path, clip: Callable[..., Clip]
) -> None:
    backbone = load(checkpoint)
    item = clip(0, instruction="Which emotion?")
    prompt = backbone.encode(collate([item]))
    length = int(prompt.attention_mask.sum())
    assert length < ORIGINAL_CONTEXT
    long = Sampling(max_new_tokens=ORIGINAL_CONTEXT - length + 10)
    completions = generation.sample(backbone.decoder, prompt, 2, long, range(-1, 0), 0)
    assert completions.lengths.max() > ORIGINAL_CONTEXT - length
    torch.testing.assert_close(backbone.logprobs(prompt, completions), completions.logprobs, atol=1e-4, rtol=0)


def test_what_a_clip_lacks_is_left_out_and_special_tokens_stay_text(
    checkpoint: Path, clip: Callable[..., Clip]
) -> None:
    backbone, item = load(checkpoint), clip(0)
    image, audio = "<|image|>" * 25, "<|audio|>" * 6  # of 48 windows, of which 8 are a token
    for frames, waveform, has_video, media in (
        (item.frames, item.waveform, True, image * NUM_FRAMES + audio),
        (item.frames, torch.zeros(0), True, image * NUM_FRAMES),
        (item.frames, item.waveform, False, audio),
    ):
        inputs = backbone.family.media(ClipInput(frames, waveform, 1.0, has_video))
        text = backbone.tokenizer.decode(backbone.token_ids("Why<|image|>?", inputs))
        assert text == f"<|user|>{media}Why<|image|>?<|end|><|assistant|>"
        ids = backbone.token_ids("Why<|image|>?", inputs)
        assert ids.count(backbone.tokenizer.convert_tokens_to_ids("<|image|>")) == media.count("<|image|>")
    assert backbone.encode(collate([clip(1, waveform=torch.zeros(1))])).attention_mask.all()


@pytest.mark.parametrize("adapter", [None, *ADAPTERS])
def test_the_adapter_is_merged_as_peft_does_and_an_export_has_it(
    checkpoint: Path, adapter: str | None, tmp_path: Path
) -> None:
    backbone = load(checkpoint, adapter=adapter)
    merged = adapter or "vision-lora"
    plain = Phi4MultimodalForCausalLM.from_pretrained(checkpoint)
    before = {name: weight.clone() for name, weight in plain.state_dict().items()}
    plain.load_adapter(str(checkpoint), adapter_kwargs={"subfolder": merged})  # as transformers documents it
    expected, weights = merged_state_dict(plain), backbone.model.state_dict()
    assert weights.keys() == expected.keys()
    changed = {name for name, weight in weights.items() if not torch.equal(weight, before[name])}
    assert len(changed) == 4 * backbone.model.config.num_hidden_layers and all(".layers." in name for name in changed)
    for name, weight in weights.items():
        torch.testing.assert_close(weight, expected[name], atol=1e-6, rtol=0, msg=name)

    backbone.save(tmp_path)
    for again in (load(tmp_path), load(tmp_path, adapter=merged)):
        assert all(torch.equal(weights[name], weight) for name, weight in again.model.state_dict().items())
    (other,) = set(ADAPTERS) - {merged}
    with pytest.raises(ValueError, match=f"has {merged}, in its weights, expected {other}"):
        load(tmp_path, adapter=other)


def test_in_bfloat16_the_sum_is_rounded_once(checkpoint: Path) -> None:
    base = Phi4MultimodalForCausalLM.from_pretrained(checkpoint, dtype=torch.bfloat16).state_dict()
    factors, name = load_file(checkpoint / "vision-lora" / "adapter_model.safetensors"), "model.layers.0.mlp.down_proj"
    (rank, alpha), weight = ADAPTERS["vision-lora"], base[f"{name}.weight"].float()
    expected = weight + alpha / rank * (factors[f"{name}.lora_B.weight"] @ factors[f"{name}.lora_A.weight"])
    assert torch.equal(load(checkpoint, dtype="bfloat16").model.get_parameter(f"{name}.weight"), expected.bfloat16())


def test_adapters_of_ones_own_name_no_base_that_lacks_the_merged_one(checkpoint: Path, tmp_path: Path) -> None:
    backbone = load(checkpoint, lora=LoRA(rank=2))
    backbone.model.name_or_path = "microsoft/Phi-4-multimodal-instruct"
    assert backbone.save_adapters(tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["base_model_name_or_path"] is None


def _foreign(factors: dict[str, Tensor], settings: dict[str, Any]) -> None:
    factors["base_model.model.model.embed_tokens.lora_A.weight"] = torch.ones(4, 4)


def _incomplete(factors: dict[str, Tensor], settings: dict[str, Any]) -> None:
    del factors["model.layers.1.mlp.down_proj.lora_B.weight"]


def _of_more_layers(factors: dict[str, Tensor], settings: dict[str, Any]) -> None:
    factors |= {name.replace("layers.0", "layers.2"): tensor.clone() for name, tensor in factors.items()}


def _of_other_modules(factors: dict[str, Tensor], settings: dict[str, Any]) -> None:
    for name in [name for name in factors if "qkv_proj" in name]:
        factors[name.replace("qkv_proj", "q_proj")] = factors.pop(name)


def _of_another_width(factors: dict[str, Tensor], settings: dict[str, Any]) -> None:
    factors["model.layers.0.self_attn.o_proj.lora_A.weight"] = torch.ones(4, 32)


def _of_another_rank(factors: dict[str, Tensor], settings: dict[str, Any]) -> None:
    settings["r"] = 8


def _dora(factors: dict[str, Tensor], settings: dict[str, Any]) -> None:
    settings["use_dora"] = True


def _no_lora(factors: dict[str, Tensor], settings: dict[str, Any]) -> None:
    settings["peft_type"] = "LOHA"


def _without_numbers(factors: dict[str, Tensor], settings: dict[str, Any]) -> None:
    settings["lora_alpha"] = None


def _not_finite(factors: dict[str, Tensor], settings: dict[str, Any]) -> None:
    factors["model.layers.1.mlp.down_proj.lora_B.weight"][3, 1] = torch.nan


def _beyond_bounds(factors: dict[str, Tensor], settings: dict[str, Any]) -> None:
    settings["lora_alpha"] = 1e300


def _whole_numbers(factors: dict[str, Tensor], settings: dict[str, Any]) -> None:
    key = "model.layers.1.mlp.down_proj.lora_B.weight"
    factors[key] = factors[key].to(torch.int64)


def _twice(factors: dict[str, Tensor], settings: dict[str, Any]) -> None:
    factors["layers.1.mlp.down_proj.lora_B.weight"] = factors["model.layers.1.mlp.down_proj.lora_B.weight"].clone()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_not_finite, "weights of layers.1.mlp.down_proj are no finite numbers"),
        (_beyond_bounds, r"weights of layers.0.[\w.]+ are no finite numbers"),
        (_whole_numbers, "torch.int64 for layers.1.mlp.down_proj, expected floats"),
        (_twice, r"has [\w.]*layers.1.mlp.down_proj.lora_B.weight and [\w.]+, expected one of them"),
        (_foreign, "has base_model.model.model.embed_tokens.lora_A.weight, expected factors of decoder layers"),
        (_incomplete, r"lacks a factor of layers.1.mlp.down_proj, which other layers have"),
        (_of_more_layers, "it has factors of more than 2 layers"),
        (_of_other_modules, r"layers.0.self_attn.q_proj, which is no linear layer"),
        (_of_another_width, r"has factors of shapes \[\[4, 32\], \[64, 4\]\] for layers.0.self_attn.o_proj, expected"),
        (_of_another_rank, r"expected \[\[8, "),
        (_dora, "has {'use_dora': True}, expected plain LoRA"),
        (_no_lora, "has {'peft_type': 'LOHA', 'bias': 'none'}, expected plain LoRA"),
        (_without_numbers, "has r=4 and lora_alpha=None, expected numbers"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused(
    change: Callable[[dict[str, Tensor], dict[str, Any]], None], message: str, checkpoint: Path, tmp_path: Path
) -> None:
    directory = Path(shutil.copytree(checkpoint, tmp_path / "model"))
    file, settings_file = (directory / "vision-lora" / f"adapter_{n}" for n in ("model.safetensors", "config.json"))
    factors, settings = load_file(file), json.loads(settings_file.read_text())
    change(factors, settings)
    save_file(factors, file, {"format": "pt"})
    settings_file.write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=message):
        load(directory)


def test_factors_may_have_pefts_prefix_and_scale(checkpoint: Path, tmp_path: Path) -> None:
    directory = Path(shutil.copytree(checkpoint, tmp_path / "model"))
    file, settings_file = (directory / "vision-lora" / f"adapter_{n}" for n in ("model.safetensors", "config.json"))
    save_file({f"base_model.model.{n}": tensor for n, tensor in load_file(file).items()}, file, {"format": "pt"})
    settings_file.write_text(json.dumps({**json.loads(settings_file.read_text()), "use_rslora": True}))
    plain = Phi4MultimodalForCausalLM.from_pretrained(directory)
    expected = PeftModel.from_pretrained(plain, directory / "vision-lora").merge_and_unload().state_dict()
    for name, weight in load(directory).model.state_dict().items():
        torch.testing.assert_close(weight, expected[name], atol=1e-6, rtol=0, msg=name)


def test_a_wrong_adapter_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    directory = Path(shutil.copytree(checkpoint, tmp_path / "model"))
    with pytest.raises(ValueError, match="has vision-lora, speech-lora, expected other"):
        load(directory, adapter="other")
    shutil.rmtree(directory / "vision-lora")
    with pytest.raises(ValueError, match="has speech-lora, expected vision-lora"):
        load(directory)
    shutil.rmtree(directory / "speech-lora")
    with pytest.raises(ValueError, match="has none, expected vision-lora"):
        load(directory, adapter="vision-lora")
    base = Phi4MultimodalForCausalLM.from_pretrained(checkpoint).state_dict()
    assert all(torch.equal(base[name], weight) for name, weight in load(directory).model.state_dict().items())


@pytest.mark.parametrize("size", [40, 72])
def test_frames_that_are_no_crops_are_refused(checkpoint: Path, size: int) -> None:
    with pytest.raises(ValueError, match=f"image_size is {size}; .* a multiple of 48"):
        load(checkpoint, image_size=size)


@pytest.mark.parametrize("crops_per_side", [1, 2])
def test_inputs_are_those_of_the_whole_processor(
    checkpoint: Path, clip: Callable[..., Clip], crops_per_side: int
) -> None:
    pytest.importorskip("torchvision", reason="Phi4MultimodalImageProcessor needs torchvision")
    from transformers import Phi4MultimodalImageProcessor, Phi4MultimodalProcessor

    backbone = load(checkpoint)
    vision = backbone.model.config.vision_config
    vision.crop_size, vision.patch_size = 448, 14  # as published: the processor counts tokens of no others
    parts = (Phi4MultimodalImageProcessor(), Phi4MultimodalFeatureExtractor(), backbone.tokenizer)
    item = clip(0, 448 * crops_per_side, instruction="Why?")
    expected = Phi4MultimodalProcessor(*parts)(
        text="<|user|><|image|><|image|><|audio|>Why?<|end|><|assistant|>",
        images=[Image.fromarray(frame.permute(1, 2, 0).numpy()) for frame in item.frames],
        audio=[item.waveform.numpy()],
        return_tensors="pt",
    )
    media = backbone.family.media(ClipInput(item.frames, item.waveform, 1.0))
    assert backbone.token_ids("Why?", media) == expected["input_ids"][0].tolist()
    assert media.arguments.keys() == expected.keys() - {"input_ids", "attention_mask"}
    for name, value in media.arguments.items():
        torch.testing.assert_close(value, expected[name], atol=1e-6, rtol=0, msg=name)
