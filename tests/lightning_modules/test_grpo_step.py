"""One step of stage 3 through a real Trainer: bulk rollouts, anatomy, uniform groups, clipping, processes."""

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from lightning import Callback, Trainer
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor

from callbacks.rewards import ExplanationReward, FormatReward, OverlongPenalty
from callbacks.rewards.base import Reward, RewardInput
from callbacks.rl import RLCallback
from datamodules.batch import Clip, ClipBatch, collate
from lightning_modules.backbones.composed import ComposedBackbone
from lightning_modules.backbones.interface import Completions, Prompt, Sampling
from lightning_modules.backbones.percept import Percept
from lightning_modules.grpo import GRPOModule

from .conftest import ConstantReward, LengthReward, moved, snapshot

pytestmark = pytest.mark.e2e

Make = Callable[..., GRPOModule]
Fit = Callable[..., Trainer]


class SomeUniformReward(Reward):
    """All completions of the clips with a given target score the same, those of other clips differ.

    Args:
        target: that target.
        calls: how often that holds.
    """

    name = "some_uniform"

    def __init__(self, target: str, calls: int = 1_000) -> None:
        super().__init__()
        self.target, self.calls = target, calls

    def __call__(self, given) -> Tensor:
        self.calls -= 1
        values = [
            0.0 if target == self.target and self.calls >= 0 else float(i) for i, target in enumerate(given.targets)
        ]
        return torch.tensor(values)


@pytest.fixture
def sampled(monkeypatch: pytest.MonkeyPatch) -> Callable[[GRPOModule], list[Completions]]:
    """What a module's backbone will have sampled, one entry per call."""

    def record(module: GRPOModule) -> list[Completions]:
        kept: list[Completions] = []
        generate = module.backbone.generate

        def recording(*arguments, **options) -> Completions:
            kept.append(generate(*arguments, **options))
            return kept[-1]

        monkeypatch.setattr(module.backbone, "generate", recording)
        return kept

    return record


def restore(module: GRPOModule, weights: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for name, parameter in module.backbone.named_parameters():
            parameter.copy_(weights[name])


def values(trainer: Trainer, prefix: str) -> dict[str, float]:
    return {n.removeprefix(prefix): float(v) for n, v in trainer.callback_metrics.items() if n.startswith(prefix)}


def test_prompts_are_sampled_in_pieces_of_any_size(
    make_grpo: Make, make_clip: Callable[..., Clip], fit: Fit, sampled: Callable[[GRPOModule], list[Completions]]
) -> None:
    batch = collate([make_clip(i, instruction="Why? " * (i + 1)) for i in range(3)])
    module = make_grpo(rollout_sampling=Sampling(max_new_tokens=8, temperature=0), micro_batch_size=1)
    pieces, start = sampled(module), snapshot(module.backbone)
    fit(module, [batch], RLCallback([LengthReward()]))
    whole = module.experience.rollout.completions
    restore(module, start)
    module.rollout_batch_size = 2
    fit(module, [batch], RLCallback([LengthReward()]))
    assert [len(piece) for piece in pieces] == [3 * 3, 2 * 3, 1 * 3]
    joined = module.experience.rollout.completions
    assert torch.equal(joined.token_ids, whole.token_ids) and torch.equal(joined.mask, whole.mask)
    torch.testing.assert_close(joined.logprobs, whole.logprobs, atol=1e-5, rtol=0)


def test_a_step_says_where_its_time_went_and_what_was_sampled(
    make_grpo: Make, batches: list[ClipBatch], fit: Fit
) -> None:
    module = make_grpo(num_updates=2, micro_batch_size=1)
    start = snapshot(module.backbone)
    trainer = fit(module, batches[:1], RLCallback([LengthReward()]))
    step, train = values(trainer, "step/"), values(trainer, "train/")
    phases = [step[f"{phase}_seconds"] for phase in ("encode", "sample", "score", "reference", "update")]
    assert all(seconds > 0 for seconds in phases) and sum(phases) <= step["seconds"]
    completions = module.experience.rollout.completions
    tokens = int(completions.lengths.sum())
    assert step["tokens_per_second"] == pytest.approx(tokens / step["sample_seconds"], rel=1e-4)
    assert 0.1 < step["peak_memory_gib"] < 64
    assert train["completion_tokens"] == pytest.approx(tokens / len(completions))
    assert train["completion_tokens_min"] <= train["completion_tokens"] <= train["completion_tokens_max"] <= 8
    assert 0 <= train["sampler_drift_mean"] <= train["sampler_drift"] < 1e-4
    restore(module, start)
    rollout = module.experience.rollout
    scores = module.backbone.score(
        module.backbone.encode(rollout.batch, rollout.percept), completions, with_entropy=True
    )
    assert train["entropy"] == pytest.approx(float(scores.entropy.sum()) / tokens, abs=1e-4), "of the sampling policy"
    assert {"loss", "policy_loss", "kl", "ratio", "clip_fraction", "truncated", "gradient_norm"} <= train.keys()
    shown = {"kl", "completion_tokens", "reward/length", "step/seconds", "step/tokens_per_second"}
    assert {name.removeprefix("train/") for name in trainer.progress_bar_metrics} == shown


def test_old_logprobs_are_those_of_the_policy_before_the_first_update(
    make_grpo: Make, batches: list[ClipBatch], fit: Fit
) -> None:
    module = make_grpo(num_updates=3, micro_batch_size=1)
    seen: list[tuple[Tensor, Tensor | None]] = []
    loss = module.loss
    module.loss = lambda new, old, *rest, **options: (
        seen.append((new.detach(), old)) or loss(new, old, *rest, **options)
    )
    trainer = fit(module, batches[:1], RLCallback([LengthReward()]))
    assert len(seen) == 3 * 2 and trainer.global_step == 3
    before, later = seen[:2], seen[2:]
    assert all(old is None for _, old in before), "the first update is at ratio 1"
    for i, (new, old) in enumerate(later):
        torch.testing.assert_close(old, before[i % 2][0], atol=0, rtol=0)
        assert (new - old).abs().max() > 1e-4, "the policy has moved"
    assert abs(values(trainer, "train/")["ratio"] - 1) > 1e-4


def test_skipped_groups_leave_the_loss_and_cost_nothing(
    make_grpo: Make, batches: list[ClipBatch], fit: Fit, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch, module = batches[0], make_grpo(uniform_groups="skip", beta=0.5, denominator="token")
    start, encoded = snapshot(module.backbone), []
    encode = ComposedBackbone.encode

    def recording(backbone: ComposedBackbone, clips: ClipBatch, percept: Percept | None = None) -> Prompt:
        if backbone is module.backbone:
            encoded.append(list(clips.ids))
        return encode(backbone, clips, percept)

    monkeypatch.setattr(ComposedBackbone, "encode", recording)
    trainer = fit(module, [batch], RLCallback([SomeUniformReward("anger")]))
    metrics = trainer.callback_metrics
    assert encoded == [["clip0", "clip1"], ["clip1"]], "sampling, then the update"
    assert float(metrics["reward/groups_without_spread"]) == 0.5 and float(metrics["reward/groups_skipped"]) == 1
    assert len(module.experience.total) == 6, "what is shown is the whole rollout"
    without, completions = snapshot(module.backbone), module.experience.rollout.completions
    restore(module, start)
    module.uniform_groups, module.reference = "keep", None
    monkeypatch.setattr(module.backbone, "generate", lambda *_: completions.rows(3, 6))
    alone = fit(module, [batch.rows(1, 2)], RLCallback([SomeUniformReward("anger")])).callback_metrics
    assert float(alone["train/loss"]) == pytest.approx(float(metrics["train/loss"]), abs=1e-6)
    assert float(alone["train/gradient_norm"]) == pytest.approx(float(metrics["train/gradient_norm"]), rel=1e-4)
    step = max((without[name] - start[name]).abs().max() for name in start)
    now = snapshot(module.backbone)
    different = sum(int(((now[name] - without[name]).abs() > 0.01 * step).sum()) for name in start)
    assert step > 0 and different <= 1e-3 * sum(tensor.numel() for tensor in start.values())


def test_a_step_without_any_spread_steps_on_a_zero_gradient(
    make_grpo: Make, batches: list[ClipBatch], fit: Fit
) -> None:
    module = make_grpo(uniform_groups="skip", num_updates=2, schedule="linear")
    before = snapshot(module.backbone)
    trainer = fit(module, batches, RLCallback([ConstantReward()]))
    metrics = trainer.callback_metrics
    assert moved(module.backbone, before) == set()
    assert trainer.global_step == 4 and float(metrics["train/learning_rate"]) == 0, "the schedule runs to its end"
    assert float(metrics["train/gradient_norm"]) == 0 and "train/kl" not in metrics
    assert float(metrics["reward/groups_skipped"]) == 2
    fit(module, batches[:1], RLCallback([LengthReward()]))
    assert module._gradients_are_checked, "by the first update that has a gradient"


def test_groups_without_spread_are_sampled_again(
    make_grpo: Make, batches: list[ClipBatch], fit: Fit, sampled: Callable[[GRPOModule], list[Completions]]
) -> None:
    module = make_grpo(uniform_groups="resample", max_resamples=3)
    drawn = sampled(module)
    trainer = fit(module, batches[:1], RLCallback([SomeUniformReward("anger", calls=2)]))
    metrics = trainer.callback_metrics
    assert [len(completions) for completions in drawn] == [6, 3, 3], "only the prompt concerned, until it has spread"
    assert float(metrics["reward/groups_without_spread"]) == 0.5, "of what was sampled first"
    assert float(metrics["reward/some_uniform"]) == pytest.approx((3 + 4 + 5) / 6)
    assert float(metrics["reward/groups_resampled"]) == 2 and float(metrics["reward/groups_skipped"]) == 0
    rollout = module.experience.rollout
    width = drawn[2].token_ids.shape[1]
    assert torch.equal(rollout.completions.token_ids[:3, :width], drawn[2].token_ids)
    texts = module.backbone.texts(rollout.completions)
    assert [response.completion for response in rollout.responses] == texts
    tokens = sum(int(completions.lengths.sum()) for completions in drawn)
    step = values(trainer, "step/")
    assert step["tokens_per_second"] == pytest.approx(tokens / step["sample_seconds"], rel=1e-4)


def test_sampling_again_is_bounded(
    make_grpo: Make, batches: list[ClipBatch], fit: Fit, sampled: Callable[[GRPOModule], list[Completions]]
) -> None:
    module = make_grpo(uniform_groups="resample", max_resamples=2)
    drawn, before = sampled(module), snapshot(module.backbone)
    metrics = fit(module, batches[:1], RLCallback([ConstantReward()])).callback_metrics
    assert [len(completions) for completions in drawn] == [6, 6, 6]
    assert float(metrics["reward/groups_resampled"]) == 4 and float(metrics["reward/groups_skipped"]) == 2
    assert moved(module.backbone, before) == set()


def test_overlong_completions_are_punished(make_grpo: Make, batches: list[ClipBatch], fit: Fit) -> None:
    module = make_grpo()
    callback = RLCallback([LengthReward(), OverlongPenalty(8, weight=0.5)])
    metrics = fit(module, batches[:1], callback).callback_metrics
    experience = module.experience
    penalty = -experience.rollout.completions.lengths / 8
    torch.testing.assert_close(experience.rewards["overlong"], penalty)
    torch.testing.assert_close(experience.total, experience.rewards["length"] + 0.5 * penalty)
    assert float(metrics["reward/overlong"]) == pytest.approx(float(penalty.mean()))
    with pytest.raises(ValueError, match=r"9 tokens does not fit completions of at most 8"):
        fit(make_grpo(), batches[:1], RLCallback([LengthReward(), OverlongPenalty(9)]))


class AbsentReward(Reward):
    """Has nothing to say of the first completion of each three."""

    name = "absent"
    may_abstain = True

    def __call__(self, given) -> Tensor:
        return torch.tensor([float("nan") if i % 3 == 0 else float(i % 3) for i in range(len(given))])


def test_a_reward_that_is_missing_is_counted_and_counts_for_nothing(
    make_grpo: Make, batches: list[ClipBatch], fit: Fit
) -> None:
    module = make_grpo()
    metrics = fit(module, batches[:1], RLCallback([AbsentReward()])).callback_metrics
    assert metrics["reward/absent_missing"] == 2
    advantages = module.experience.advantages.view(2, 3)
    assert advantages[:, 0].tolist() == [0, 0] and (advantages[:, 2] > 0).all()


def test_rewards_see_the_clips_and_the_step(make_grpo: Make, batches: list[ClipBatch], fit: Fit) -> None:
    seen: list[RewardInput] = []

    class Watching(LengthReward):
        def __call__(self, given: RewardInput) -> Tensor:
            seen.append(given)
            return super().__call__(given)

    fit(make_grpo(num_updates=2), batches[:2], RLCallback([Watching()]))
    given, batch = seen[1], batches[1]
    assert [own.step for own in seen] == [0, 1], "rollouts, not optimizer steps"
    for found, own in ((given.ids, batch.ids), (given.media, batch.media), (given.prompts, batch.instructions)):
        assert list(found) == [value for value in own for _ in range(3)]
    assert given.corpora == [name for name in batch.datasets for _ in range(3)]
    assert given.logprobs.shape == given.mask.shape == given.token_ids.shape and len(given.logprobs) == 6


def test_settings_of_a_step_are_checked(make_grpo: Make) -> None:
    with pytest.raises(ValueError, match="counts >= 1"):
        make_grpo(rollout_batch_size=0)
    with pytest.raises(ValueError, match="Expected keep, skip, resample"):
        make_grpo(uniform_groups="drop")
    with pytest.raises(ValueError, match="Expected sum, per_reward"):
        make_grpo(normalise="group")


def test_all_sentences_of_a_step_are_read_in_one_pass(
    make_grpo: Make, batches: list[ClipBatch], fit: Fit, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = make_grpo()
    texts = [f"<think>He frowns. He shouts {n % 3} times.</think><answer>angry</answer>" for n in range(6)]
    monkeypatch.setattr(module.backbone, "texts", lambda completions: texts)
    shapes: list[tuple[int, int]] = []
    forward = module.verifier.model.forward
    monkeypatch.setattr(
        module.verifier.model, "forward", lambda **i: shapes.append(tuple(i["input_ids"].shape)) or forward(**i)
    )
    fit(module, batches[:1], RLCallback([ExplanationReward(), LengthReward()]))
    assert [rows for rows, _ in shapes] == [4], "12 sentences, 4 of them different"


def test_sampling_runs_in_the_precision_of_the_step(
    make_grpo: Make, make_clip: Callable[..., Clip], fit: Fit, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = collate([make_clip(i, mel=torch.randn(40, 100)) for i in range(2)])
    module, seen = make_grpo(beta=0.0), []

    def watched(method: Callable) -> Callable:
        return lambda *arguments: seen.append(torch.is_autocast_enabled("cpu")) or method(*arguments)

    for name in ("perceive", "generate", "score"):
        monkeypatch.setattr(module.backbone, name, watched(getattr(module.backbone, name)))
    fit(module, [batch], RLCallback([LengthReward()]), precision="bf16-mixed")
    assert seen == [True] * 3


@pytest.mark.parametrize("clip", [1e-3, None])
def test_gradients_are_clipped_after_they_are_unscaled(
    make_grpo: Make, batches: list[ClipBatch], fit: Fit, clip: float | None
) -> None:
    class Norms(Callback):
        """Norms of the gradient before the step, which the optimizer keeps."""

        after: list[float]

        def on_train_batch_end(self, trainer, pl_module, *_) -> None:
            grads = [p.grad for p in pl_module.backbone.parameters() if p.grad is not None]
            self.after = [float(torch.nn.utils.get_total_norm(grads))]

    module, norms = make_grpo(gradient_clip_norm=clip), Norms()
    start, results = snapshot(module.backbone), []
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    for options in ({}, {"plugins": MixedPrecision("16-mixed", "cpu", scaler)}):
        restore(module, start)
        trainer = fit(module, batches[:1], RLCallback([LengthReward()]), norms, **options)
        results.append((values(trainer, "train/")["gradient_norm"], norms.after[0]))
        assert trainer.optimizers[0].defaults["fused"] is not bool(options), "a fused step unscales by itself"
    (full, full_after), (half, half_after) = results
    assert half == pytest.approx(full, rel=0.1), "of the gradient as it is, not as it was scaled"
    if clip is None:
        assert full_after == pytest.approx(full, rel=1e-4) and half_after == pytest.approx(half, rel=1e-3)
    else:
        assert full > clip and full_after == pytest.approx(clip, rel=1e-2)
        assert half_after == pytest.approx(clip, rel=1e-2)


def test_a_step_that_the_scaler_skips_stops_nothing(make_grpo: Make, batches: list[ClipBatch], fit: Fit) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**120, backoff_factor=2.0**-110)
    module = make_grpo(schedule="linear")
    rates: list[float] = []
    weights = [snapshot(module.backbone)]

    class Watch(Callback):
        """Notes what is left after each step."""

        def on_train_batch_end(self, trainer, pl_module, *_) -> None:
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])
            weights.append(snapshot(pl_module.backbone))

    plugin = MixedPrecision("16-mixed", "cpu", scaler)
    fit(module, batches, RLCallback([LengthReward()]), Watch(), plugins=plugin)
    assert scaler.get_scale() == 2.0**10 and rates == pytest.approx([0.5e-3, 0])
    unmoved = [all(torch.equal(a[name], b[name]) for name in a) for a, b in pairwise(weights)]
    assert unmoved == [True, False]


def test_a_second_update_sees_the_weights_of_the_first_under_autocast(
    make_grpo: Callable[..., GRPOModule], fit: Callable[..., Trainer], batches: list[ClipBatch]
) -> None:
    module, scored = make_grpo(num_updates=2, beta=0.0, learning_rate=1e-2), []
    score = module.backbone.score

    def recorded(*arguments):
        scores = score(*arguments)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
            scored.append((scores.logprobs.detach(), score(*arguments).logprobs))
        return scores

    module.backbone.score = recorded
    fit(module, batches[:1], RLCallback([LengthReward()]), precision="bf16-mixed")
    for trained_on, fresh in scored:
        torch.testing.assert_close(trained_on, fresh, atol=1e-6, rtol=0)
    assert len(scored) == 2 and (scored[1][1] - scored[0][1]).abs().amax() > 0.1, "the first update moved the weights"


@pytest.mark.parametrize("strict", [True, False])
def test_a_step_with_sections_rewards_the_format_that_has_them(
    make_grpo: Make, make_clip: Callable[..., Clip], fit: Fit, strict: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = make_grpo(sections=["context", "audio"], strict=strict)
    rest = "<think>He shouts.</think>\n<answer>angry</answer>"
    context, audio = "<context>A row.</context>", "<audio>A loud voice.</audio>"
    texts = [context + audio + rest, context + rest, audio + context + rest]
    texts += [context + context + audio + rest, rest, context + audio + rest]
    monkeypatch.setattr(module.backbone, "texts", lambda completions: texts)
    batch = collate([make_clip(0), make_clip(1)])
    callback = RLCallback([FormatReward(), ExplanationReward(sections=["audio"])])
    before = snapshot(module.backbone)
    fit(module, [batch], callback)
    assert module.experience.rewards["format"].tolist() == [1, 0, 0, 0, 0, 1]
    first = module.experience.rollout.responses[0]
    assert first.sections == {"context": "A row.", "audio": "A loud voice."} and first.sentences == ("He shouts.",)
    assert moved(module.backbone, before)
    with pytest.raises(ValueError, match=r"reads visual, and model.sections is \['context', 'audio'\]"):
        fit(module, [batch], RLCallback([ExplanationReward(sections=["visual"])]))


@pytest.mark.parametrize("sections", [["context", "context"], ["think"], ["a b"], ["</x>"], [""]])
def test_sections_are_different_names_of_tags(make_grpo: Make, sections: list[str]) -> None:
    with pytest.raises(ValueError, match="Expected different names of tags"):
        make_grpo(sections=sections)
