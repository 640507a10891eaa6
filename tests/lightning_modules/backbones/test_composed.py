"""What the composed backbone does beside the contract (test_contract.py): its parts, its settings, its errors."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import WhisperConfig, WhisperForConditionalGeneration

from datamodules.batch import ClipBatch
from datamodules.media_settings import MelSettings
from datamodules.mel import log_mel
from lightning_modules.backbones.adapters import LoRA
from lightning_modules.backbones.composed import ComposedBackbone, _pool
from lightning_modules.backbones.interface import Sampling

pytestmark = pytest.mark.numerics

TRAINED = ["vision_projector", "audio_projector", "language_model"]


def test_every_parameter_of_a_trained_part_gets_a_gradient(backbone: ComposedBackbone, batch: ClipBatch) -> None:
    backbone.set_trainable(list(backbone.parts))
    completions = backbone.completion_ids([response or "" for response in batch.responses])
    backbone.logprobs(backbone.encode(batch), completions).sum().backward()
    assert [name for name, p in backbone.named_parameters() if p.requires_grad and p.grad is None] == []


def test_frozen_towers_stay_out_of_the_graph(backbone: ComposedBackbone, batch: ClipBatch) -> None:
    backbone.set_trainable(TRAINED)
    percept = backbone.perceive(batch)
    assert not percept.video.requires_grad and not percept.audio.requires_grad
    assert percept.video.shape[:2] == (3, 2 * 2 * 2) and percept.audio.shape[:2] == (3, 5)


def test_a_whisper_with_its_decoder_saves_its_encoder(tiny_models: Path, tmp_path: Path) -> None:
    whisper, saved = tmp_path / "whisper", tmp_path / "saved"
    config = WhisperConfig.from_pretrained(tiny_models / "audio", decoder_layers=1, decoder_attention_heads=2)
    WhisperForConditionalGeneration(config).save_pretrained(whisper)
    shutil.copy(tiny_models / "audio" / "preprocessor_config.json", whisper)
    parts = {name: str(tiny_models / name) for name in ("vision", "language_model")}
    published = ComposedBackbone(**parts, audio=str(whisper), num_frames=2, video_grid=2)
    published.save(saved)
    assert set(load_file(saved / "audio" / "model.safetensors")) == set(published.audio_tower.state_dict())
    again = ComposedBackbone(str(saved)).audio_tower
    for (name, weight), other in zip(published.audio_tower.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(weight, other), name


def test_greedy_decoding_is_deterministic_and_stops_at_either_stop_token(
    backbone: ComposedBackbone, batch: ClipBatch
) -> None:
    prompt = backbone.encode(batch)
    first = backbone.generate(prompt, 1, Sampling(max_new_tokens=8, temperature=0))
    again = backbone.generate(prompt, 1, Sampling(max_new_tokens=8, temperature=0))
    assert torch.equal(first.token_ids, again.token_ids)
    assert backbone.stop_token_ids == sorted(backbone.tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_end|>"]))
    # A bias on the last layer is not at hand with tied weights: make every embedding of the stop token win instead.
    with torch.no_grad():
        hidden = backbone.language_model.get_input_embeddings().weight
        hidden[backbone.tokenizer.pad_token_id] = 50 * hidden[int(first.token_ids[0, 0])]
    stopped = backbone.generate(backbone.encode(batch), 1, Sampling(max_new_tokens=8, temperature=0))
    assert stopped.finished[0] and stopped.lengths[0] <= first.lengths[0]
    assert int(stopped.token_ids[0, stopped.lengths[0] - 1]) == backbone.tokenizer.pad_token_id


def test_a_turn_ends_where_the_published_model_says(tiny_models: Path, tmp_path: Path) -> None:
    """Gemma 3's tokenizer ends sequences by `<eos>`, and the model its turns by `<end_of_turn>`."""
    model = shutil.copytree(tiny_models / "language_model", tmp_path / "language_model")
    settings = json.loads((model / "generation_config.json").read_text())
    parts = {"vision": str(tiny_models / "vision"), "audio": str(tiny_models / "audio"), "language_model": str(model)}
    for ends in ([2, 17], 17):
        (model / "generation_config.json").write_text(json.dumps({**settings, "eos_token_id": ends}))
        backbone = ComposedBackbone(**parts)
        assert backbone.stop_token_ids == [0, 2, 17]
    backbone.save(tmp_path / "saved")
    assert ComposedBackbone(str(tmp_path / "saved")).stop_token_ids == [0, 2, 17]


def test_a_tokenizer_without_padding_pads_with_its_end(tiny_models: Path, tmp_path: Path, batch: ClipBatch) -> None:
    """As Llama 3's."""
    model = shutil.copytree(tiny_models / "language_model", tmp_path / "language_model")
    settings = json.loads((model / "tokenizer_config.json").read_text())
    del settings["pad_token"]
    (model / "tokenizer_config.json").write_text(json.dumps(settings))
    parts = {"vision": str(tiny_models / "vision"), "audio": str(tiny_models / "audio"), "language_model": str(model)}
    backbone = ComposedBackbone(**parts, num_frames=2, video_grid=2, audio_pool=10)
    completions = backbone.completion_ids(["<think>He smiles.</think>", "Yes."])
    assert backbone.texts(completions) == ["<think>He smiles.</think>", "Yes."]
    assert completions.mask[1].sum() < completions.mask.shape[1]
    sampled = backbone.generate(backbone.encode(batch), 1, Sampling(max_new_tokens=3))
    assert sampled.logprobs.isfinite().all()


def test_projectors_beside_adapters_are_trained_in_float32(tiny_models: Path, tmp_path: Path, batch: ClipBatch) -> None:
    parts = {name: str(tiny_models / name) for name in ("vision", "audio", "language_model")}
    backbone = ComposedBackbone(
        **parts, num_frames=2, video_grid=2, audio_pool=10, dtype="bfloat16", lora=LoRA(rank=4, alpha=8)
    )
    backbone.set_trainable(TRAINED)
    trained = [parameter for parameter in backbone.parameters() if parameter.requires_grad]
    assert {parameter.dtype for parameter in trained} == {torch.float32}
    assert backbone.language_model.dtype == backbone.vision_tower.dtype == torch.bfloat16
    completions = backbone.completion_ids([response or "" for response in batch.responses])
    backbone.logprobs(backbone.encode(batch), completions).sum().backward()
    assert all(p.grad is not None for part in TRAINED[:2] for p in backbone.parts[part].parameters())
    backbone.save(tmp_path)
    again = ComposedBackbone(str(tmp_path), dtype="bfloat16")
    assert {parameter.dtype for parameter in again.parameters()} == {torch.bfloat16}


def test_sampling_filters(backbone: ComposedBackbone, batch: ClipBatch) -> None:
    prompt = backbone.encode(batch)
    greedy = backbone.generate(prompt, 2, Sampling(max_new_tokens=6, temperature=0)).token_ids
    for narrow in (Sampling(6, top_k=1), Sampling(6, top_p=1e-6)):
        assert torch.equal(backbone.generate(prompt, 2, narrow).token_ids, greedy)
    torch.manual_seed(0)
    assert not torch.equal(backbone.generate(prompt, 2, Sampling(6)).token_ids, greedy)


def test_clear_errors(backbone: ComposedBackbone, batch: ClipBatch, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no part named 'head'.*vision_tower"):
        backbone.set_trainable(["head"])
    batch.frames = batch.frames[:, :, :, :16, :16]
    with pytest.raises(ValueError, match="data.media.image_size=32"):
        backbone.perceive(batch)
    with pytest.raises(ValueError, match="either `path`"):
        ComposedBackbone(vision="somewhere")
    with pytest.raises(ValueError, match="no ComposedBackbone directory"):
        ComposedBackbone(str(tmp_path))
    with pytest.raises(ValueError, match="Invalid sampling settings"):
        Sampling(temperature=-1)


def test_saved_settings_are_plain_json(backbone: ComposedBackbone, tmp_path: Path) -> None:
    backbone.save(tmp_path)
    settings = json.loads((tmp_path / "backbone.json").read_text())
    assert settings == {"num_frames": 2, "video_grid": 2, "audio_pool": 10}


def test_mel_features_of_the_loader_replace_those_of_the_backbone(backbone: ComposedBackbone, batch: ClipBatch) -> None:
    own = backbone.perceive(batch).audio
    extractor = backbone.feature_extractor
    settings = MelSettings(extractor.feature_size, extractor.chunk_length)
    rows = zip(batch.waveform, batch.waveform_lengths.tolist(), strict=True)
    batch.mel = torch.stack([log_mel(row[:length], settings) for row, length in rows])
    torch.testing.assert_close(backbone.perceive(batch).audio, own, atol=0, rtol=0)
    batch.mel = batch.mel.flip(0)
    assert not torch.equal(backbone.perceive(batch).audio, own)


def test_mel_features_of_another_shape_are_refused(backbone: ComposedBackbone, batch: ClipBatch) -> None:
    batch.mel = torch.zeros(3, 8, 100)
    bins, seconds = backbone.feature_extractor.feature_size, backbone.feature_extractor.chunk_length
    with pytest.raises(ValueError, match=f"mel.num_bins={bins} and data.media.mel.seconds={seconds}"):
        backbone.perceive(batch)


@pytest.mark.parametrize("grid", [2, 3, 4, 6])
def test_patches_are_pooled_by_the_cells_of_a_grid(grid: int) -> None:
    patches = torch.randn(2, 6, 6, 5, generator=torch.Generator().manual_seed(0), requires_grad=True)
    pooled = _pool(patches, grid)
    expected = torch.nn.functional.adaptive_avg_pool2d(patches.permute(0, 3, 1, 2), grid).permute(0, 2, 3, 1)
    torch.testing.assert_close(pooled, expected)
    # What adaptive pooling has no deterministic gradient for on CUDA; where cells overlap nothing else is there.
    assert ("AdaptiveAvgPool2D" in pooled.grad_fn.next_functions[0][0].name()) == (grid == 4)
