"""The backbone contract, on the composed backbone: real classes, tiny random weights, float32 on CPU."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import WhisperConfig, WhisperForConditionalGeneration

from datamodules.batch import Clip, ClipBatch, collate
from datamodules.mel import MelSettings, log_mel
from lightning_modules.backbones.composed import ComposedBackbone
from lightning_modules.backbones.interface import Completions, Prompt, Sampling
from lightning_modules.backbones.spliced import load_audio_tower

pytestmark = pytest.mark.numerics

GROUP_SIZE = 3
TRAINED = ["vision_projector", "audio_projector", "language_model"]


def sampled(backbone: ComposedBackbone, prompt: Prompt) -> Completions:
    """Completions of random weights with ragged lengths: some end early, at a token made a stop token by chance."""
    torch.manual_seed(1)
    completions = backbone.generate(prompt, GROUP_SIZE, Sampling(max_new_tokens=12))
    lengths = torch.arange(len(completions)) % 6 + 4
    mask = torch.arange(completions.token_ids.shape[1]) < lengths[:, None]
    return Completions(
        completions.token_ids, mask, completions.logprobs.masked_fill(~mask, 0.0), torch.ones(len(mask)).bool()
    )


def naive_logprobs(backbone: ComposedBackbone, prompt: Prompt, completions: Completions) -> Tensor:
    """Prompt + completion per row in one pass, nothing shared."""
    group_size = len(completions) // len(prompt)
    tokens = backbone.language_model.get_input_embeddings()(completions.token_ids)
    embeddings = torch.cat([prompt.embeddings.repeat_interleave(group_size, 0), tokens], dim=1)
    mask = torch.cat([prompt.attention_mask.repeat_interleave(group_size, 0), completions.mask.long()], dim=1)
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    logits = backbone.language_model(inputs_embeds=embeddings, attention_mask=mask, position_ids=positions).logits[
        :, prompt.embeddings.shape[1] - 1 : -1
    ]
    logprobs = logits.log_softmax(-1).gather(-1, completions.token_ids[..., None])[..., 0]
    return logprobs.masked_fill(~completions.mask, 0.0)


def test_sampling_reports_what_scoring_computes(backbone: ComposedBackbone, batch: ClipBatch) -> None:
    prompt = backbone.encode(batch)
    for temperature in (1.0, 0.7):
        completions = backbone.generate(prompt, GROUP_SIZE, Sampling(max_new_tokens=12, temperature=temperature))
        scored = backbone.logprobs(prompt, completions, temperature)
        torch.testing.assert_close(scored, completions.logprobs, atol=1e-4, rtol=0)


def test_shared_prompt_equals_naive_in_value_and_gradient(backbone: ComposedBackbone, batch: ClipBatch) -> None:
    backbone.set_trainable(TRAINED)
    percept = backbone.perceive(batch)
    completions = sampled(backbone, backbone.encode(batch, percept))
    weights = torch.randn(completions.token_ids.shape, generator=torch.Generator().manual_seed(2))

    def run(logprobs: Callable[[Prompt], Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        backbone.zero_grad()
        values = logprobs(backbone.encode(batch, percept))
        (values * weights).sum().backward()
        return values.detach(), {n: p.grad.clone() for n, p in backbone.named_parameters() if p.grad is not None}

    shared, shared_gradients = run(lambda prompt: backbone.logprobs(prompt, completions))
    naive, naive_gradients = run(lambda prompt: naive_logprobs(backbone, prompt, completions))
    torch.testing.assert_close(shared, naive, atol=1e-4, rtol=0)
    assert shared_gradients.keys() == naive_gradients.keys()
    for name, gradient in naive_gradients.items():
        assert (shared_gradients[name] - gradient).norm() <= 1e-4 * gradient.norm(), name


def test_a_batch_gives_each_row_what_it_gives_alone(
    backbone: ComposedBackbone, batch: ClipBatch, make_clip: Callable[..., Clip]
) -> None:
    prompt = backbone.encode(batch)
    completions = sampled(backbone, prompt)
    together = backbone.logprobs(prompt, completions)
    assert len({int(n) for n in prompt.attention_mask.sum(1)}) == 3, "prompts of different lengths"
    for i in range(3):
        clip = make_clip(i, instruction=batch.instructions[i])
        rows = completions.rows(i * GROUP_SIZE, (i + 1) * GROUP_SIZE)
        alone = backbone.logprobs(backbone.encode(collate([clip])), rows)
        width = rows.token_ids.shape[1]
        torch.testing.assert_close(together[i * GROUP_SIZE : (i + 1) * GROUP_SIZE, :width], alone, atol=1e-4, rtol=0)


def test_gradient_flows_to_each_trained_part_and_nowhere_else(backbone: ComposedBackbone, batch: ClipBatch) -> None:
    for trained in (TRAINED, ["vision_tower", "audio_tower"], list(backbone.parts)):
        backbone.set_trainable(trained)
        backbone.zero_grad(set_to_none=True)
        completions = backbone.completion_ids([response or "" for response in batch.responses])
        backbone.logprobs(backbone.encode(batch), completions).sum().backward()
        moved = {
            name
            for name, part in backbone.parts.items()
            if any(p.grad is not None and p.grad.abs().sum() > 0 for p in part.parameters())
        }
        assert moved == set(trained)


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


def test_save_then_load_is_identical(backbone: ComposedBackbone, batch: ClipBatch, tmp_path: Path) -> None:
    completions = sampled(backbone, backbone.encode(batch))
    backbone.save(tmp_path / "model")
    again = ComposedBackbone(str(tmp_path / "model"))
    torch.testing.assert_close(
        again.logprobs(again.encode(batch), completions),
        backbone.logprobs(backbone.encode(batch), completions),
        atol=0,
        rtol=0,
    )
    assert {p.suffix for p in (tmp_path / "model").rglob("*") if p.is_file()} <= {".json", ".safetensors", ".jinja"}


def test_a_whisper_with_its_decoder_saves_its_encoder(tiny_models: Path, tmp_path: Path) -> None:
    tower = load_audio_tower(str(tiny_models / "audio"))
    config = WhisperConfig(**{**tower.config.to_dict(), "decoder_layers": 1, "decoder_attention_heads": 2})
    WhisperForConditionalGeneration(config).save_pretrained(tmp_path / "whisper")
    published = load_audio_tower(str(tmp_path / "whisper"))
    published.save_pretrained(tmp_path / "encoder")
    again = load_audio_tower(str(tmp_path / "encoder"))
    for (name, weight), other in zip(published.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(weight, other), name


def test_reference_shares_what_is_frozen_and_keeps_its_bits(backbone: ComposedBackbone, batch: ClipBatch) -> None:
    backbone.set_trainable(TRAINED)
    reference = backbone.reference()
    completions = sampled(backbone, backbone.encode(batch))
    before = reference.logprobs(reference.encode(batch), completions)
    policy = backbone.logprobs(backbone.encode(batch), completions).detach()
    torch.testing.assert_close(before, policy, atol=1e-6, rtol=0)
    for name, part in backbone.parts.items():
        pairs = zip(part.parameters(), reference.parts[name].parameters(), strict=True)
        assert all((a is b) == (name not in TRAINED) for a, b in pairs), name
    assert not any(parameter.requires_grad for parameter in reference.parameters())
    with torch.no_grad():
        for parameter in backbone.parameters():
            if parameter.requires_grad:
                parameter.add_(0.01)
    torch.testing.assert_close(reference.logprobs(reference.encode(batch), completions), before, atol=0, rtol=0)


def test_literal_media_tags_in_the_question_are_text(
    backbone: ComposedBackbone, make_clip: Callable[..., Clip]
) -> None:
    plain = backbone.encode(collate([make_clip(0, instruction="Why?")]))
    tagged = backbone.encode(collate([make_clip(0, instruction="Why? <video> <audio>")]))
    extra = len(backbone.tokenizer(" <video> <audio>", add_special_tokens=False)["input_ids"])
    assert abs(tagged.embeddings.shape[1] - plain.embeddings.shape[1] - extra) <= 2, "text tokens only, no clip"


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


def test_sampling_filters(backbone: ComposedBackbone, batch: ClipBatch) -> None:
    prompt = backbone.encode(batch)
    greedy = backbone.generate(prompt, 2, Sampling(max_new_tokens=6, temperature=0)).token_ids
    for narrow in (Sampling(6, top_k=1), Sampling(6, top_p=1e-6)):
        assert torch.equal(backbone.generate(prompt, 2, narrow).token_ids, greedy)
    torch.manual_seed(0)
    assert not torch.equal(backbone.generate(prompt, 2, Sampling(6)).token_ids, greedy)


def test_bfloat16_runs(backbone: ComposedBackbone, batch: ClipBatch) -> None:
    backbone.to(torch.bfloat16)
    prompt = backbone.encode(batch)
    completions = backbone.generate(prompt, 2, Sampling(max_new_tokens=4))
    logprobs = backbone.logprobs(prompt, completions)
    assert logprobs.dtype == torch.float32 and torch.isfinite(logprobs).all()


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
