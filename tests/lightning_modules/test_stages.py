"""Stages 1 and 3 through a real Trainer on tiny weights: what moves, what must not, and what bad input does."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lightning import Trainer

from callbacks.prediction_writer import PredictionWriter
from callbacks.rewards import AccuracyReward, ExplanationReward, FormatReward
from callbacks.rewards.base import Reward
from callbacks.rl import RLCallback
from datamodules.batch import Clip, ClipBatch, collate
from datamodules.emotions import MAFW_TAXONOMY
from lightning_modules.backbones.composed import ComposedBackbone
from lightning_modules.backbones.interface import Sampling
from lightning_modules.backbones.token_cross_entropy import token_cross_entropy
from lightning_modules.cold_start import ColdStartModule
from lightning_modules.grpo import GRPOModule
from lightning_modules.metrics.predictions import read_predictions
from lightning_modules.policy import PolicyModule

from .conftest import SHORT, TRAINED, Batches, ConstantReward, LengthReward, moved, snapshot

pytestmark = pytest.mark.e2e

REWARDS: list[type[Reward]] = [FormatReward, AccuracyReward, ExplanationReward]


def part_names(names: set[str]) -> set[str]:
    return {name.split(".")[0] for name in names}


def test_cold_start_learns_the_response_and_trains_only_what_it_says(
    backbone: ComposedBackbone, batches: list[ClipBatch], fit: Callable[..., Trainer]
) -> None:
    module = ColdStartModule(backbone, "dfew", trainable=[*TRAINED, "vision_tower"], learning_rate=3e-3)
    losses: list[float] = []
    before = snapshot(backbone)
    for _ in range(3):
        trainer = fit(module, batches, max_epochs=4)
        losses.append(float(trainer.callback_metrics["train/loss"]))
    assert losses[2] < 0.5 * losses[0]
    assert part_names(moved(backbone, before)) == {*TRAINED, "vision_tower"}


def test_cold_start_loss_is_cross_entropy_on_response_tokens_only(
    backbone: ComposedBackbone, batches: list[ClipBatch]
) -> None:
    prompt, completions = backbone.encode(batches[0]), backbone.completion_ids([r or "" for r in batches[0].responses])
    embeddings = backbone.language_model.get_input_embeddings()(completions.token_ids)
    labels = completions.token_ids.masked_fill(~completions.mask, -100)
    labels = torch.cat([torch.full(prompt.attention_mask.shape, -100), labels], dim=1)
    expected = backbone.language_model(
        inputs_embeds=torch.cat([prompt.embeddings, embeddings], dim=1),
        attention_mask=torch.cat([prompt.attention_mask, completions.mask.long()], dim=1),
        labels=labels,
    ).loss
    loss = -backbone.logprobs(prompt, completions).sum() / completions.mask.sum()
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=0)
    texts = backbone.texts(completions)
    assert texts == batches[0].responses, "the end-of-turn token is learnt, and is no text"


def test_frozen_means_frozen_and_every_trained_part_moves(
    make_grpo: Callable[..., GRPOModule], batches: list[ClipBatch], fit: Callable[..., Trainer]
) -> None:
    module = make_grpo()
    before, verifier = snapshot(module.backbone), snapshot(module.verifier)
    fit(module, batches, RLCallback([*(reward() for reward in REWARDS), LengthReward()]), max_epochs=2)
    assert part_names(moved(module.backbone, before)) == set(TRAINED)
    assert moved(module.verifier, verifier) == set()
    assert moved(module.reference, before) == set(), "the reference is the policy that the run started from"
    assert not any(parameter.requires_grad for parameter in module.reference.parameters())


def test_first_update_has_ratio_one_and_no_kl(
    make_grpo: Callable[..., GRPOModule], batches: list[ClipBatch], fit: Callable[..., Trainer]
) -> None:
    trainer = fit(make_grpo(), batches[:1], RLCallback([LengthReward()]))
    metrics = trainer.callback_metrics
    assert abs(float(metrics["train/ratio"]) - 1) < 1e-6
    assert abs(float(metrics["train/kl"])) < 1e-6
    assert float(metrics["train/sampler_drift"]) < 1e-4


@pytest.mark.parametrize("options", [{"micro_batch_size": 1}, {"micro_batch_size": 2}])
@pytest.mark.parametrize("denominator", ["sequence", "token"])
def test_micro_batches_change_nothing(
    make_grpo: Callable[..., GRPOModule],
    make_clip: Callable[..., Clip],
    fit: Callable[..., Trainer],
    options: dict[str, int],
    denominator: str,
) -> None:
    batch = collate([make_clip(i) for i in range(3)])
    module = make_grpo(denominator=denominator, **options)
    start = snapshot(module.backbone)
    fit(module, [batch], RLCallback([LengthReward()]))
    split = snapshot(module.backbone)
    with torch.no_grad():
        for name, parameter in module.backbone.named_parameters():
            parameter.copy_(start[name])
    module.micro_batch_size = None
    fit(module, [batch], RLCallback([LengthReward()]))
    whole = snapshot(module.backbone)
    step = max((whole[name] - start[name]).abs().max() for name in start)
    # Adam's first step is the sign of the gradient: where that is all but zero, float error may turn it.
    different = sum(int(((whole[n] - split[n]).abs() > 0.01 * step).sum()) for n in start)
    assert step > 0 and different <= 1e-3 * sum(tensor.numel() for tensor in start.values())


def test_towers_run_once_per_clip_and_step(
    make_grpo: Callable[..., GRPOModule],
    batches: list[ClipBatch],
    fit: Callable[..., Trainer],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = make_grpo(num_updates=2, micro_batch_size=1)
    seen: list[int] = []
    forward = module.backbone.vision_tower.forward
    monkeypatch.setattr(
        module.backbone.vision_tower,
        "forward",
        lambda pixel_values: seen.append(len(pixel_values)) or forward(pixel_values=pixel_values),
    )
    fit(module, batches, RLCallback([LengthReward()]))
    assert seen == [2 * 2, 2 * 2], "2 clips of 2 frames per step; never per completion, update or micro-batch"


def test_groups_of_equal_reward_teach_nothing(
    make_grpo: Callable[..., GRPOModule], batches: list[ClipBatch], fit: Callable[..., Trainer]
) -> None:
    module = make_grpo(beta=0.0)
    before = snapshot(module.backbone)
    trainer = fit(module, batches, RLCallback([ConstantReward()]))
    assert float(trainer.callback_metrics["reward/groups_without_spread"]) == 1
    assert moved(module.backbone, before) == set() and module.reference is None


def test_masked_truncated_completions_teach_nothing(
    make_grpo: Callable[..., GRPOModule], batches: list[ClipBatch], fit: Callable[..., Trainer]
) -> None:
    module = make_grpo(beta=0.0, mask_truncated=True, rollout_sampling=Sampling(max_new_tokens=2))
    before = snapshot(module.backbone)
    trainer = fit(module, batches, RLCallback([LengthReward()]))
    assert float(trainer.callback_metrics["train/truncated"]) == 1, "random weights do not end within two tokens"
    assert moved(module.backbone, before) == set()
    module.mask_truncated = False
    fit(module, batches, RLCallback([LengthReward()]))
    assert moved(module.backbone, before) != set()


class SpoiledBackbone(ComposedBackbone):
    """Scores as NaN, as an overflow would."""

    _cross_entropy = staticmethod(lambda *logits_and_ids: token_cross_entropy(*logits_and_ids) * float("nan"))


def test_nan_loss_names_the_clips_and_leaves_the_weights(
    make_grpo: Callable[..., GRPOModule], batches: list[ClipBatch], fit: Callable[..., Trainer]
) -> None:
    module = make_grpo(beta=0.0)
    module.backbone.__class__ = SpoiledBackbone
    before = snapshot(module.backbone)
    with pytest.raises(ValueError, match=r"Loss is nan at step 0, on clips clip0, clip1"):
        fit(module, batches, RLCallback([LengthReward()]))
    assert moved(module.backbone, before) == set()


def test_batches_without_a_decodable_clip_are_skipped_and_counted(
    make_grpo: Callable[..., GRPOModule],
    batches: list[ClipBatch],
    make_clip: Callable[..., Clip],
    fit: Callable[..., Trainer],
) -> None:
    broken = collate([make_clip(0, failure="zero bytes"), make_clip(1, failure="zero bytes")], drop_failures=True)
    trainer = fit(make_grpo(), [broken, batches[0]], RLCallback([LengthReward()]))
    assert trainer.global_step == 1
    assert float(trainer.callback_metrics["train/skipped_clips"]) == 2


def test_clear_errors_of_stage_3(
    make_grpo: Callable[..., GRPOModule],
    batches: list[ClipBatch],
    make_clip: Callable[..., Clip],
    fit: Callable[..., Trainer],
) -> None:
    with pytest.raises(ValueError, match="callbacks.RLCallback"):
        fit(make_grpo(), batches)
    with pytest.raises(ValueError, match="clip0 have no label"):
        fit(make_grpo(), [collate([make_clip(0, target=None)])], RLCallback([LengthReward()]))
    with pytest.raises(ValueError, match=r"set model\.verifier"):
        fit(make_grpo(verifier=None), batches, RLCallback([ExplanationReward()]))
    with pytest.raises(ValueError, match="group_size >= 2"):
        make_grpo(group_size=1)
    with pytest.raises(ValueError, match="different names"):
        RLCallback([FormatReward(), FormatReward()])
    module = make_grpo()
    module.taxonomy = MAFW_TAXONOMY
    with pytest.raises(ValueError, match=r"taxonomy is mafw and the data's is dfew"):
        fit(module, batches, RLCallback([LengthReward()]))


def test_cold_start_needs_responses(
    backbone: ComposedBackbone, make_clip: Callable[..., Clip], fit: Callable[..., Trainer]
) -> None:
    module = ColdStartModule(backbone, "dfew", trainable=TRAINED, learning_rate=1e-3)
    with pytest.raises(ValueError, match="clip0 have no response to learn"):
        fit(module, [collate([make_clip(0, response=None)])])


def test_cold_start_learns_the_sections_that_are_asked_for(
    backbone: ComposedBackbone, make_clip: Callable[..., Clip], fit: Callable[..., Trainer]
) -> None:
    plain = "<think>He shouts.</think>\n<answer>angry</answer>"
    clips = [make_clip(0, response=f"<context>A row.</context>{plain}"), make_clip(1, response=plain)]
    module = ColdStartModule(backbone, "dfew", trainable=TRAINED, learning_rate=1e-3, sections=["context"])
    fit(module, [collate(clips[:1])])
    with pytest.raises(ValueError, match="of clips clip1 are not <context>…</context><think>.*model.sections"):
        fit(module, [collate(clips)])


@pytest.fixture
def checkpoint(
    make_grpo: Callable[..., GRPOModule], batches: list[ClipBatch], fit: Callable[..., Trainer], tmp_path: Path
) -> tuple[GRPOModule, Path]:
    module = make_grpo()
    file = tmp_path / "last.ckpt"
    fit(module, batches, RLCallback([LengthReward()])).save_checkpoint(file)
    return module, file


def test_checkpoints_hold_what_is_trained_and_load_again(
    checkpoint: tuple[GRPOModule, Path],
    make_grpo: Callable[..., GRPOModule],
    batches: list[ClipBatch],
    fit: Callable[..., Trainer],
) -> None:
    module, file = checkpoint
    keys = torch.load(file, weights_only=True)["state_dict"].keys()
    assert {key.split(".")[1] for key in keys} == set(TRAINED) and {key.split(".")[0] for key in keys} == {"backbone"}
    after = snapshot(module.backbone)
    with torch.no_grad():
        for parameter in module.backbone.parameters():
            if parameter.requires_grad:
                parameter.zero_()
    again = make_grpo(learning_rate=0.0)
    again.on_load_checkpoint(loaded := torch.load(file, weights_only=True))
    again.load_state_dict(loaded["state_dict"])
    assert moved(again.backbone, after) == set()
    again.backbone.set_trainable(["vision_tower"])
    with pytest.raises(ValueError, match=r"lacks \d+ trained tensors"):
        again.on_load_checkpoint(torch.load(file, weights_only=True))


def test_evaluation_counts_every_clip(
    backbone: ComposedBackbone, tiny_models: Path, make_clip: Callable[..., Clip], tmp_path: Path
) -> None:
    module = PolicyModule(backbone, "dfew", verifier=str(tiny_models / "verifier"), evaluation=SHORT)
    clips = [make_clip(0), make_clip(1, failure="truncated", has_audio=False)]
    clips.append(make_clip(2, has_audio=False, waveform=torch.zeros(0)))
    clips += [make_clip(number, has_video=False, frames=torch.zeros_like(clips[0].frames)) for number in (3, 4)]
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, default_root_dir=tmp_path)
    with pytest.warns(UserWarning, match="without a clip"):
        trainer.test(module, datamodule=Batches([collate(clips)]), verbose=False)
    trainer.test(module, datamodule=Batches([collate(clips)]), verbose=False)  # a second run starts from zero
    report = module.metrics_report()
    assert report["num_samples"] == 5, "a clip that cannot be decoded counts, as a wrong answer"
    assert report["unknown_answers"] == 5 and report["war"] == 0
    assert report["clips_without_audio"] == 1 and report["undecodable_clips"] == 1
    assert report["clips_without_video"] == 2
    assert report["judge"].startswith("verifier")


def test_several_samples_of_each_clip(
    backbone: ComposedBackbone, tiny_models: Path, make_clip: Callable[..., Clip], tmp_path: Path
) -> None:
    sampling = Sampling(max_new_tokens=4, temperature=1.0)
    module = PolicyModule(
        backbone, "dfew", verifier=str(tiny_models / "verifier"), evaluation=sampling, samples_per_clip=3
    )
    batch = collate([make_clip(0), make_clip(1, failure="truncated"), make_clip(2)])
    options = {"logger": False, "enable_progress_bar": False, "default_root_dir": tmp_path}
    trainer = Trainer(accelerator="cpu", callbacks=[PredictionWriter()], **options)
    trainer.test(module, datamodule=Batches([batch, collate([make_clip(3)])]), verbose=False)
    files = [read_predictions(tmp_path / f"predictions{suffix}.jsonl") for suffix in ("", "_2", "_3")]
    completions = [[own.completion for own in file.predictions] for file in files]
    assert len({tuple(own) for own in completions}) == 3 and all(own[1] == "" for own in completions)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["samples"]["per_clip"] == 3 and metrics["samples"]["pass_at"].keys() == {"war", "fcr"}
    trainer.predict(module, Batches([batch]).test_dataloader(), return_predictions=False)
    assert len(read_predictions(tmp_path / "predictions_3.jsonl").predictions) == 3
    with pytest.raises(ValueError, match="above 0 for several: greedy decoding writes the same each time"):
        PolicyModule(backbone, "dfew", evaluation=Sampling(temperature=0), samples_per_clip=2)


def test_sampling_and_scoring_run_without_dropout(
    make_grpo: Callable[..., GRPOModule], batches: list[ClipBatch], fit: Callable[..., Trainer]
) -> None:
    module = make_grpo()
    module.backbone.language_model.config.attention_dropout = 0.9
    for layer in module.backbone.language_model.model.layers:
        layer.self_attn.attention_dropout = 0.9
    trainer = fit(module, batches[:1], RLCallback([LengthReward()]))
    assert abs(float(trainer.callback_metrics["train/kl"])) < 1e-6
    assert float(trainer.callback_metrics["train/sampler_drift"]) < 1e-4
