"""Backbones without weights: of the same sizes and prompts as those with weights; sizes of published models."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from datamodules.batch import Clip, collate
from lightning_modules.backbones import loading
from lightning_modules.backbones.composed import ComposedBackbone
from lightning_modules.backbones.decoder_backbone import DecoderBackbone
from lightning_modules.backbones.hf.backbone import HFBackbone
from lightning_modules.backbones.humanomni.backbone import HumanOmniBackbone
from lightning_modules.backbones.humanomni.projector import AllInOneProjector
from tests.lightning_modules.backbones.conftest import CASES, TEXT
from tests.tiny_checkpoints import WRITERS, write_tiny_checkpoint
from tools.estimate.geometries import write_settings
from tools.estimate.shapes import DecoderShape
from tools.estimate.skeleton import build_backbone, count_verifier, media_of, saved_bytes, without_weights

pytestmark = pytest.mark.numerics

GOLDEN = Path(__file__).parents[2] / "golden"
HUMANOMNI = GOLDEN / "humanomni_small"


def numbers(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}


def settings(backbone: type, **options: Any) -> dict[str, Any]:
    return {"class_path": f"{backbone.__module__}.{backbone.__qualname__}", "init_args": options}


def check(skeleton: DecoderBackbone, real: DecoderBackbone, path: str | None, clip: Clip) -> None:
    assert {parameter.device.type for parameter in skeleton.parameters()} == {"meta"}
    assert numbers(skeleton) == numbers(real)
    assert list(skeleton.parts) == list(real.parts)
    with torch.no_grad():
        positions = real.encode(collate([clip])).embeddings.shape[1]
    seconds = len(clip.waveform) / 16_000
    assert media_of(skeleton, path, seconds).prompt_positions == positions


def test_composed(backbone: ComposedBackbone, tiny_models: Path, make_clip: Callable[..., Clip]) -> None:
    paths = {name: str(tiny_models / name) for name in ("vision", "audio", "language_model")}
    given = settings(ComposedBackbone, **paths, num_frames=2, video_grid=2, audio_pool=10)
    check(build_backbone(given), backbone, None, make_clip(0))


def test_humanomni_without_weights_on_disk(tmp_path: Path, make_clip: Callable[..., Clip]) -> None:
    directory = tmp_path / "model"
    shutil.copytree(HUMANOMNI, directory, ignore=shutil.ignore_patterns("*.safetensors"))
    skeleton = build_backbone(
        settings(HumanOmniBackbone, path=str(directory), bert=str(directory / "towers" / "bert-tiny"))
    )
    real = HumanOmniBackbone(str(HUMANOMNI), bert=str(HUMANOMNI / "towers" / "bert-tiny"))
    size = (real.num_frames, 3, real.image_size, real.image_size)
    check(skeleton, real, str(directory), make_clip(0, frames=torch.zeros(size, dtype=torch.uint8)))


@pytest.mark.parametrize("model_type", sorted(set(WRITERS) & set(CASES)))
@pytest.mark.filterwarnings("ignore:.*cannot hear")
def test_models_of_transformers(model_type: str, tmp_path: Path, make_clip: Callable[..., Clip]) -> None:
    write_tiny_checkpoint(model_type, tmp_path, [TEXT] * 20)
    case = CASES[model_type]
    options = {"path": str(tmp_path), "num_frames": case.num_frames, "image_size": case.image_size}
    real = HFBackbone(**options)
    for file in tmp_path.glob("*.safetensors"):
        file.unlink()
    size = (case.num_frames, 3, case.image_size, case.image_size)
    clip = make_clip(0, frames=torch.zeros(size, dtype=torch.uint8), duration_seconds=0.5)
    skeleton = build_backbone(settings(HFBackbone, **options))
    check(skeleton, real, str(tmp_path), clip)
    config = skeleton.decoder.config
    if model_type in NOT_ESTIMATED:
        with pytest.raises(ValueError, match=NOT_ESTIMATED[model_type]):
            DecoderShape.of(config)
        return
    queries = [m.in_features for name, m in skeleton.decoder.body.named_modules() if name.endswith("o_proj")]
    shape = DecoderShape.of(config)
    assert shape.layers == len(queries) and shape.layers * shape.queries == sum(queries)


NOT_ESTIMATED = {"qwen3_omni_moe": "mixture of experts", "qwen3_5": "layers with a recurrent state"}


def test_everything_is_as_before_afterwards() -> None:
    before = (loading.find, loading.count_weights, nn.Linear(1, 1).weight.device)
    with without_weights():
        assert loading.find is not before[0] and nn.Linear(1, 1).weight.device.type == "meta"
    assert (loading.find, loading.count_weights, nn.Linear(1, 1).weight.device) == before


@pytest.mark.parametrize(
    ("geometry", "with_towers", "without_towers", "positions"),
    # GiB in bfloat16 as published, where the towers have a head each, which is not loaded: 0.02 GiB.
    [("0.5b", 2.56, 1.20, 892), ("7b", 17.85, 15.86, 2_068)],
)
def test_sizes_of_humanomni(
    geometry: str, with_towers: float, without_towers: float, positions: int, tmp_path: Path
) -> None:
    options = write_settings(geometry, tmp_path)
    backbone = build_backbone(settings(HumanOmniBackbone, **options, dtype="bfloat16"))
    counts = {name: sum(p.nbytes for p in part.parameters()) / 2**30 for name, part in backbone.parts.items()}
    assert sum(counts.values()) == pytest.approx(with_towers, abs=0.04)
    towers = counts["vision_tower"] + counts["audio_tower"]
    assert sum(counts.values()) - towers == pytest.approx(without_towers, abs=0.005)
    text = media_of(backbone, str(tmp_path), 10).prompt_positions - positions
    assert 50 < text < 150, "about 100 tokens of template and question"


@dataclass(frozen=True)
class Omni:
    """Sizes of a Qwen2.5-Omni thinker's language model, by its published configuration."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int
    vocabulary: int


@pytest.mark.parametrize(
    ("sizes", "billions"),
    [
        (Omni(2_048, 36, 16, 2, 11_008, 151_936), 3.397),
        (Omni(3_584, 28, 28, 4, 18_944, 152_064), 7.616),
    ],
)
def test_thinkers_of_qwen_omni_from_config_alone(sizes: Omni, billions: float, tmp_path: Path) -> None:
    write_tiny_checkpoint("qwen2_5_omni", tmp_path, [TEXT] * 20)
    (tmp_path / "model.safetensors").unlink()
    file = tmp_path / "config.json"
    config = json.loads(file.read_text())
    thinker = config["thinker_config"]
    thinker["text_config"] |= {
        "hidden_size": sizes.hidden,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "num_key_value_heads": sizes.kv_heads,
        "intermediate_size": sizes.intermediate,
        "vocab_size": sizes.vocabulary,
        "layer_types": ["full_attention"] * sizes.layers,
        "head_dim": 128,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
    }
    thinker["vision_config"]["out_hidden_size"] = thinker["audio_config"]["output_dim"] = sizes.hidden
    file.write_text(json.dumps(config))
    backbone = build_backbone(settings(HFBackbone, path=str(tmp_path), num_frames=2, image_size=32, dtype="bfloat16"))
    count = sum(parameter.numel() for parameter in backbone.parts["language_model"].parameters())
    assert count / 1e9 == pytest.approx(billions, abs=0.001)
    shape = DecoderShape.of(backbone.decoder.config)
    # Beside the matrices: embeddings as large as the head, two norms per layer and one behind, biases of q, k and v.
    vectors = sizes.layers * (2 * shape.hidden + shape.queries + 2 * shape.keys) + shape.hidden
    assert count == shape.matrices + 2 * shape.head + vectors


def test_saved_bytes_are_those_of_a_real_device() -> None:
    def kept(device: str) -> int:
        with torch.device(device):
            projector = AllInOneProjector("all_in_one_small", 32, 48)
            features = torch.zeros(1, 2, 16, 32)
            return saved_bytes(lambda: projector(features), projector)

    # A kernel chosen by the number of threads may keep a few statistics more or fewer.
    assert kept("meta") == pytest.approx(kept("cpu"), rel=1e-3) and kept("cpu") > 0


def test_saved_bytes_by_hand() -> None:
    layer = nn.Linear(3, 5, bias=False)
    rows = torch.ones(2, 3)
    # The input of the layer, and the output that exp saves; the weight is a parameter.
    assert saved_bytes(lambda: layer(rows).exp(), layer) == 4 * (2 * 3 + 2 * 5)
    assert saved_bytes(lambda: (layer(rows), layer(rows)), layer) == 4 * 2 * 3, "the same input counts once"


def test_verifiers_are_counted_by_their_settings(tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    real = AutoModelForSequenceClassification.from_pretrained(GOLDEN / "tiny_verifier")
    shutil.copy(GOLDEN / "tiny_verifier" / "config.json", tmp_path)
    assert count_verifier(str(tmp_path)) == sum(parameter.numel() for parameter in real.parameters())
    assert count_verifier(None) / 1e6 == pytest.approx(124.67, abs=0.01)
    with pytest.raises(ValueError, match=r"model\.verifier: the configuration of .*nowhere cannot be read"):
        count_verifier(str(tmp_path / "nowhere"))
