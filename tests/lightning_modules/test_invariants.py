"""What makes stage 3 fast must not change what it computes (decision 27).

The same seeds through {prompt repeated per completion, prompt shared by its group} × {micro-batches of one prompt, the
whole batch} × {gradient checkpointing off, on}, one update per rollout, give one trajectory over several optimizer
steps; and it is the paper's loss, worked out token by token. The rollouts of the first variant are replayed in the
others: sampling is the same up to float error only, and a draw that falls on the other side would compare other work.
"""

import math
import statistics
from collections.abc import Callable
from itertools import product
from pathlib import Path

import pytest
import torch
from lightning import Callback, Trainer
from torch import Tensor
from transformers.modeling_layers import GradientCheckpointingLayer

from callbacks.rl import RLCallback
from datamodules.batch import Clip, ClipBatch, collate
from lightning_modules.backbones.composed import ComposedBackbone
from lightning_modules.backbones.interface import Completions, Prompt, Sampling, Scores
from lightning_modules.grpo import GRPOModule
from lightning_modules.rl.experience import Experience, Rollout

from .conftest import TRAINED, LengthReward

pytestmark = pytest.mark.numerics

GROUP_SIZE = 4
NAMES = ("loss", "policy_loss", "kl", "entropy", "sampler_drift_mean", "gradient_norm")
TOLERANCE = 5e-5
"""Absolute, of each of these numbers in each step: the KL reaches more than 1,000 times as much."""


class NaiveBackbone(ComposedBackbone):
    """Scores prompt + completion row by row in one pass, nothing shared."""

    def score(
        self, prompt: Prompt, completions: Completions, temperature: float = 1.0, with_entropy: bool = False
    ) -> Scores:
        group_size, width = len(completions) // len(prompt), completions.token_ids.shape[1]
        repeated = [t.repeat_interleave(group_size, 0) for t in (prompt.embeddings, prompt.attention_mask)]
        embeddings = self.language_model.get_input_embeddings()(completions.token_ids)
        layers = [m for m in self.language_model.modules() if isinstance(m, GradientCheckpointingLayer)]
        for layer in layers:
            layer.training = torch.is_grad_enabled()  # a layer recomputes in training only, where that is switched on
        logits = self.language_model(
            inputs_embeds=torch.cat([repeated[0], embeddings], dim=1),
            attention_mask=torch.cat([repeated[1], completions.mask.long()], dim=1),
            use_cache=False,
        ).logits[:, -width - 1 : -1]
        for layer in layers:
            layer.training = False
        log_p = (logits / temperature).log_softmax(-1)
        logprobs = log_p.gather(-1, completions.token_ids[..., None])[..., 0]
        entropy = -(log_p.exp() * log_p).sum(-1).detach()
        masked = ~completions.mask
        return Scores(logprobs.masked_fill(masked, 0.0), entropy.masked_fill(masked, 0.0) if with_entropy else None)


class Trajectory(Callback):
    """The logged numbers of each step."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer: Trainer, *_) -> None:
        self.steps.append({name: float(trainer.callback_metrics[f"train/{name}"]) for name in NAMES})


class PaperLoss(RLCallback):
    """The loss of each step before it is taken, from the paper's equation, completion by completion."""

    def setup(self, trainer: Trainer, pl_module: GRPOModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        self.module = pl_module
        self.losses: list[float] = []

        score = pl_module.score

        def seen(rollout: Rollout) -> Experience:
            self.see(rollout)
            return score(rollout)

        pl_module.score = seen  # type: ignore[method-assign]

    def see(self, rollout: Rollout) -> None:
        module, batch = self.module, rollout.batch
        rewards = [float(len(text) % 7) for text in module.backbone.texts(rollout.completions)]
        losses = []
        for i, reward in enumerate(rewards):
            clip = i // GROUP_SIZE
            group = rewards[clip * GROUP_SIZE : (clip + 1) * GROUP_SIZE]
            advantage = (reward - statistics.mean(group)) / (statistics.stdev(group) + 1e-4)
            policy, reference = (
                token_logprobs(model, batch.rows(clip, clip + 1), rollout.completions.rows(i, i + 1))
                for model in (module.backbone, module.reference)
            )
            k3 = [math.exp(r - p) - (r - p) - 1 for p, r in zip(policy, reference, strict=True)]
            losses.append(statistics.mean(-1.0 * advantage + 0.04 * k for k in k3))  # ρ = 1, β = 0.04
        self.losses.append(statistics.mean(losses))


@torch.no_grad()
def token_logprobs(model: ComposedBackbone, clip: ClipBatch, completion: Completions) -> list[float]:
    """Of one completion of one clip, without padding."""
    prompt, ids = model.encode(clip), completion.token_ids[0, : int(completion.lengths)]
    embeddings = torch.cat([prompt.embeddings, model.language_model.get_input_embeddings()(ids)[None]], dim=1)
    log_p = model.language_model(inputs_embeds=embeddings).logits[0, -len(ids) - 1 : -1].log_softmax(-1)
    return log_p.gather(1, ids[:, None])[:, 0].tolist()


def ragged(completions: Completions) -> Completions:
    """Cut to different lengths: random weights all but never end a completion."""
    lengths = completions.token_ids.shape[1] - torch.arange(len(completions)) % 5
    mask = completions.mask & (torch.arange(completions.token_ids.shape[1]) < lengths[:, None])
    return Completions(completions.token_ids, mask, completions.logprobs.masked_fill(~mask, 0.0), completions.finished)


@pytest.fixture
def make_backbone(tiny_models: Path) -> Callable[..., ComposedBackbone]:
    def make(naive: bool, gradient_checkpointing: bool) -> ComposedBackbone:
        torch.manual_seed(0)  # of the projectors
        return (NaiveBackbone if naive else ComposedBackbone)(
            **{part: str(tiny_models / part) for part in ("vision", "audio", "language_model")},
            num_frames=2,
            video_grid=2,
            audio_pool=10,
            gradient_checkpointing=gradient_checkpointing,
        )

    return make


def test_one_trajectory_whatever_is_shared_split_or_recomputed(
    make_backbone: Callable[..., ComposedBackbone],
    make_clip: Callable[..., Clip],
    fit: Callable[..., Trainer],
) -> None:
    batches = [collate([make_clip(2 * i), make_clip(2 * i + 1, instruction="Why? " * i)]) for i in range(4)]
    rollouts: list[Completions] = []

    def run(
        naive: bool,
        micro_batch_size: int | None,
        gradient_checkpointing: bool,
        rewards: RLCallback | None = None,
        completion_batch_size: int | None = None,
    ) -> Tensor:
        backbone, trajectory = make_backbone(naive, gradient_checkpointing), Trajectory()
        if rollouts:
            recorded = iter(rollouts)
            backbone.generate = lambda *_: next(recorded)
        else:
            generate = backbone.generate
            backbone.generate = lambda *a: rollouts.append(ragged(generate(*a))) or rollouts[-1]
        module = GRPOModule(
            backbone,
            "dfew",
            trainable=TRAINED,
            rollout_sampling=Sampling(max_new_tokens=12),
            learning_rate=2e-3,
            micro_batch_size=micro_batch_size,
            completion_batch_size=completion_batch_size,
        )
        fit(module, batches, rewards or RLCallback([LengthReward()]), trajectory)
        return torch.tensor([list(step.values()) for step in trajectory.steps])

    paper = PaperLoss([LengthReward()])
    first = run(False, None, False, paper)
    assert first.shape == (4, len(NAMES)) and len(rollouts) == 4
    torch.testing.assert_close(first[:, 0], torch.tensor(paper.losses), atol=TOLERANCE, rtol=0)
    kl, norms = first[:, NAMES.index("kl")], first[:, NAMES.index("gradient_norm")]
    assert kl[0] < 1e-6 and kl.amax() > 1_000 * TOLERANCE and norms.amin() > 1_000 * TOLERANCE, (
        "there is something to see"
    )
    for variant in list(product((False, True), (None, 1), (False, True)))[1:]:
        torch.testing.assert_close(run(*variant), first, atol=TOLERANCE, rtol=0, msg=lambda m, v=variant: f"{v}: {m}")
    for micro_batch_size, completion_batch_size in ((None, 1), (1, 3)):
        in_parts = run(False, micro_batch_size, False, completion_batch_size=completion_batch_size)
        torch.testing.assert_close(in_parts, first, atol=TOLERANCE, rtol=0)
