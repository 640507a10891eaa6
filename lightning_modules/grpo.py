"""Stage 3: group-relative reinforcement learning of the policy (GRPO), with labels only.

The step runs as: an RL callback asks for `rollout`, scores it and leaves an `Experience`; `training_step` turns it into
updates. Source: arXiv 2510.23506 and DeepSeekMath (arXiv 2402.03300). Departures from the released code: no dropout
while sampling or scoring, each clip passes the towers once and each prompt the language model once per group, and the
reference shares the frozen towers. Every process makes the same number of optimizer steps, whatever it sampled: none
waits for another in vain.
"""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Literal, get_args

import torch
from lightning.pytorch.strategies import ParallelStrategy
from torch import Tensor
from torch.optim import Optimizer

from datamodules.batch import ClipBatch
from lightning_modules.backbones.feature_cache import FeatureCache
from lightning_modules.backbones.interface import Backbone, Completions, Percept, Sampling
from lightning_modules.metrics.judges import Judge
from lightning_modules.policy import EVALUATION_SAMPLING, TrainablePolicyModule
from lightning_modules.rationale import Response
from lightning_modules.rl.experience import Experience, PolicyUpdate, Rollout, UniformGroups, group_rows
from lightning_modules.rl.losses import Denominator, Importance, grpo_loss
from lightning_modules.rl.rows import join, spans, take
from lightning_modules.rl.statistics import completion_statistics, policy_statistics
from lightning_modules.rl.timing import StepMeter


class GRPOModule(TrainablePolicyModule):
    """The policy in training, beside the frozen reference policy and the frozen verifier.

    Args:
        backbone: the policy as stage 1 left it; a frozen copy of it becomes the reference.
        taxonomy: the emotion classes of the corpus.
        trainable: names of the backbone's parts to train, towers excluded, as they run without gradient here. By
            default those of the backbone's recipe for `grpo`.
        verifier: Hugging Face directory or hub id of the Emotional Rationale Verifier.
        judge: names one emotion per rationale in validation and test. The default, the verifier that gives the reward,
            measures what training optimises: use another one for claims.
        evaluation: how completions are drawn in validation and test.
        rollout_sampling: how completions are drawn in training.
        group_size: completions per prompt, G.
        beta: weight of the KL penalty to the reference; 0 needs no reference.
        epsilon_low: the importance ratio is clipped below at 1 - `epsilon_low`.
        epsilon_high: the importance ratio is clipped above at 1 + `epsilon_high`.
        denominator: "sequence" (GRPO), "token" (DAPO) or "constant" (Dr. GRPO: `max_new_tokens` per completion).
        importance: "token" (GRPO) or "sequence" (GSPO) importance ratio.
        normalise_std: divide advantages by the group's standard deviation.
        mask_truncated: leave completions that `max_new_tokens` cut short out of the loss.
        uniform_groups: what becomes of prompts whose completions all scored the same. "keep" (the paper's): their
            advantages are 0, the KL penalty still acts. "skip": left out of the loss, its denominators and the update's
            computation; where no group is left, the optimizer steps on a zero gradient. "resample" (DAPO's dynamic
            sampling, arXiv 2503.14476, bounded): sampled again, then skipped. The last two compute different amounts
            on different processes, which strategies that shard parameters (FSDP, DeepSpeed stage 3) do not bear.
        max_resamples: how often a group is sampled again at most, with `uniform_groups="resample"`.
        rollout_batch_size: prompts that are sampled at once; None: the whole batch. Changes memory and speed.
        num_updates: optimizer steps per rollout.
        micro_batch_size: prompts per pass of the reference and per backward pass; None: the whole batch. Changes
            memory, not the result.
        completion_batch_size: completions of each prompt per backward pass, None: all. The prompts are run once for
            all parts, so that this saves memory and costs nothing. Without effect under gradient checkpointing.
        gradient_clip_norm: largest norm of the gradient; None: no clipping.
        learning_rate: peak learning rate; by default that of the backbone's recipe for `grpo`.
        weight_decay: AdamW's decoupled weight decay.
        warmup_ratio: share of the steps with rising learning rate.
        schedule: what follows the warm-up.
        feature_cache: keeps what the towers return of each clip on disk.

    Raises:
        ValueError: a group of fewer than two completions, counts below one or an unknown value; see also
            `TrainablePolicyModule`.
    """

    stage = "grpo"

    def __init__(
        self,
        backbone: Backbone,
        taxonomy: Literal["mafw", "dfew"],
        trainable: list[str] | None = None,
        verifier: str | None = None,
        judge: Judge | None = None,
        evaluation: Sampling = EVALUATION_SAMPLING,
        rollout_sampling: Sampling = Sampling(),  # noqa: B008 - frozen
        group_size: int = 4,
        beta: float = 0.04,
        epsilon_low: float = 0.2,
        epsilon_high: float = 0.2,
        denominator: Denominator = "sequence",
        importance: Importance = "token",
        normalise_std: bool = True,
        mask_truncated: bool = False,
        uniform_groups: UniformGroups = "keep",
        max_resamples: int = 3,
        rollout_batch_size: int | None = None,
        num_updates: int = 1,
        micro_batch_size: int | None = None,
        completion_batch_size: int | None = None,
        gradient_clip_norm: float | None = 1.0,
        learning_rate: float | None = None,
        weight_decay: float = 0.0,
        warmup_ratio: float = 0.0,
        schedule: Literal["constant", "linear", "cosine"] = "linear",
        feature_cache: FeatureCache | None = None,
    ) -> None:
        super().__init__(
            backbone,
            taxonomy,
            trainable,
            verifier,
            judge,
            evaluation,
            learning_rate,
            weight_decay,
            warmup_ratio,
            schedule,
            feature_cache,
        )
        counts = (num_updates, max_resamples, rollout_batch_size, micro_batch_size, completion_batch_size)
        if group_size < 2 or any(count is not None and count < 1 for count in counts):
            raise ValueError(
                f"Got group_size={group_size}, and num_updates, max_resamples, rollout_batch_size, "
                f"micro_batch_size, completion_batch_size: {counts}. Expected group_size >= 2 (advantages compare "
                "completions of one prompt) and counts >= 1."
            )
        if uniform_groups not in get_args(UniformGroups):
            raise ValueError(f"uniform_groups is {uniform_groups!r}. Expected {', '.join(get_args(UniformGroups))}.")
        self.automatic_optimization = False
        self.rollout_sampling = rollout_sampling
        self.group_size = group_size
        self.beta = beta
        self.loss = partial(
            grpo_loss,
            beta=beta,
            epsilon_low=epsilon_low,
            epsilon_high=epsilon_high,
            denominator=denominator,
            importance=importance,
        )
        self.normalise_std = normalise_std
        self.mask_truncated = mask_truncated
        self.uniform_groups: UniformGroups = uniform_groups
        self.max_resamples = max_resamples
        self.rollout_batch_size = rollout_batch_size
        self.num_updates = num_updates
        self.micro_batch_size = micro_batch_size
        self.completion_batch_size = completion_batch_size
        self.gradient_clip_norm = gradient_clip_norm
        self.reference: Backbone | None = None
        self.experience: Experience | None = None
        self.meter = StepMeter()

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage == "fit" and self.beta > 0 and self.reference is None:
            # Before a checkpoint is restored: the reference is the policy that the run started from.
            self.reference = self.backbone.reference()

    def num_optimizer_steps(self) -> int:
        return super().num_optimizer_steps() * self.num_updates

    @torch.no_grad()
    def rollout(self, batch: ClipBatch) -> Rollout:
        """Sample G completions per clip; the towers run here, once per clip, for the whole step.

        Raises:
            ValueError: a clip without a target emotion.
        """
        unlabelled = [i for i, target in zip(batch.ids, batch.targets, strict=True) if target is None]
        if unlabelled:
            raise ValueError(f"Clips {', '.join(unlabelled)} have no label to reward. GRPO needs a labelled corpus.")
        self.meter.start(self.device)
        with self.meter.phase("encode"):
            percept = self.perceive(batch)
        targets = [target for target in batch.targets if target is not None for _ in range(self.group_size)]
        return Rollout(batch, percept, *self._sample(batch, percept), targets)

    @torch.no_grad()
    def resample(self, rollout: Rollout, prompts: Sequence[int]) -> Rollout:
        """Sample again for some prompts of a rollout; the towers do not run again."""
        part = rollout.take(prompts)
        completions, responses = self._sample(part.batch, part.percept)
        return replace(part, completions=completions, responses=responses)

    def _sample(self, batch: ClipBatch, percept: Percept) -> tuple[Completions, list[Response]]:
        parts = []
        for start, stop in spans(len(batch), self.rollout_batch_size):
            with self.meter.phase("encode"):
                prompt = self.backbone.encode(batch.rows(start, stop), percept.rows(start, stop))
            with self.meter.phase("sample"):
                parts.append(self.backbone.generate(prompt, self.group_size, self.rollout_sampling))
        completions = join(parts, self.backbone.tokenizer.pad_token_id)
        self.meter.add_tokens(int(completions.lengths.sum()))
        return completions, self.read(self.backbone.texts(completions))

    def training_step(self, batch: ClipBatch, batch_idx: int) -> None:
        self.count_clips(batch)
        if not len(batch):
            if self.trainer.world_size > 1:
                self._learn_nothing()
            return
        if self.experience is None:
            raise ValueError(
                "No experience to learn from: GRPO needs callbacks.RLCallback among trainer.callbacks, which samples "
                "and scores completions before each step."
            )
        experience = self.experience if self.uniform_groups == "keep" else self.experience.with_spread()
        values = completion_statistics(self.experience.rollout.completions)
        values |= self._learn(experience) if experience is not None else self._learn_nothing()
        values["learning_rate"] = self.trainer.optimizers[0].param_groups[0]["lr"]
        for name, value in values.items():
            self.log(f"train/{name}", value, prog_bar=name in ("kl", "completion_tokens"), batch_size=len(batch))
        for name, value in self.meter.summary().items():
            self.log(f"step/{name}", value, prog_bar=name in ("seconds", "tokens_per_second"), batch_size=len(batch))

    def _learn(self, experience: Experience) -> dict[str, Tensor]:
        """All updates of one rollout; returns what to log of them."""
        with self.meter.phase("reference"):
            reference_logprobs = self._reference_logprobs(experience.rollout)
        with self.meter.phase("update"):
            first = last = self._update_policy(experience, reference_logprobs, None)
            for _ in range(1, self.num_updates):
                last = self._update_policy(experience, reference_logprobs, first.logprobs)
        statistics = policy_statistics(experience.rollout.completions, first.logprobs, first.entropy)
        return {**last.means(), **statistics}

    def _learn_nothing(self) -> dict[str, Tensor]:
        """The same number of optimizer steps as `_learn`, with a zero gradient: other processes may have one to share.

        The optimizer's momentum and weight decay still move the weights, as they do in the paper's "keep".
        """
        with self.meter.phase("update"):
            for _ in range(self.num_updates):
                self.optimizers().zero_grad()
                self.manual_backward(self._zero())
                self._step()
        return {}

    def _zero(self) -> Tensor:
        """Sums over nothing: the gradient is zero, and every trained parameter takes part in the backward pass."""
        return torch.stack([p.flatten()[:0].sum() for p in self.backbone.parameters() if p.requires_grad]).sum()

    @torch.no_grad()
    def _reference_logprobs(self, rollout: Rollout) -> Tensor | None:
        if self.reference is None:
            return None
        completions = rollout.completions
        logprobs = torch.zeros_like(completions.logprobs)
        for start, stop in spans(len(rollout.batch), self.micro_batch_size):
            rows = slice(start * self.group_size, stop * self.group_size)
            part = completions.rows(rows.start, rows.stop)
            prompt = self.reference.encode(rollout.batch.rows(start, stop), rollout.percept.rows(start, stop))
            scored = self.reference.logprobs(prompt, part, self.rollout_sampling.temperature)
            logprobs[rows, : scored.shape[1]] = scored
        return logprobs

    def _update_policy(
        self, experience: Experience, reference_logprobs: Tensor | None, old_logprobs: Tensor | None
    ) -> PolicyUpdate:
        """One optimizer step over micro-batches; without `old_logprobs`, the first of this rollout."""
        rollout, completions = experience.rollout, experience.rollout.completions
        mask = completions.mask & completions.finished[:, None] if self.mask_truncated else completions.mask
        update = PolicyUpdate.empty(completions, with_entropy=old_logprobs is None)
        self.optimizers().zero_grad()
        for start, stop in spans(len(rollout.batch), self.micro_batch_size):
            # The prompts are built per micro-batch, as each backward pass frees its own graph.
            clips, more = rollout.batch.rows(start, stop), stop < len(rollout.batch)
            prompt = self.backbone.encode(clips, rollout.percept.rows(start, stop))
            in_parts = nullcontext() if self.completion_batch_size is None else self.backbone.score_in_parts(prompt)
            with in_parts as shared:
                score = partial(self.backbone.score, prompt) if shared is None else shared.score
                for members in spans(self.group_size, None if shared is None else self.completion_batch_size):
                    rows = group_rows(range(start, stop), self.group_size, members)
                    part = take(completions, rows).trimmed()
                    cut = (rows, slice(part.token_ids.shape[1]))
                    scores = score(part, self.rollout_sampling.temperature, update.entropy is not None)
                    result = self.loss(
                        scores.logprobs,
                        None if old_logprobs is None else old_logprobs[cut],
                        experience.advantages[rows],
                        mask[cut],
                        reference_logprobs=None if reference_logprobs is None else reference_logprobs[cut],
                        constant_tokens=self.rollout_sampling.max_new_tokens,
                        num_completions_total=len(completions),
                        num_tokens_total=int(mask.sum()),
                    )
                    self.check_finite(result.loss.detach(), clips)
                    with self._gradients_stay_here(more or shared is not None):
                        self.manual_backward(result.loss)
                    update.add(cut, scores, result.sums)
                if shared is not None:
                    zero = self._zero()
                    with self._gradients_stay_here(more):
                        # What `manual_backward` tells the strategy; the gradients are scaled already.
                        self.trainer.strategy.pre_backward(zero)
                        shared.backward(zero)
        self.check_gradients()
        self._step()
        return update

    def _gradients_stay_here(self, stay: bool) -> AbstractContextManager:
        """Let processes exchange gradients once per update: they may have different numbers of micro-batches."""
        strategy = self.trainer.strategy
        return strategy.block_backward_sync() if stay and isinstance(strategy, ParallelStrategy) else nullcontext()

    def _step(self) -> None:
        self.optimizers().step()
        # Also where a gradient scaler skipped the step: the schedule counts rollouts, the same on every process.
        self.lr_schedulers().step()

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Clip the gradient. Precision plugins call this after they have unscaled it."""
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        largest = math.inf if self.gradient_clip_norm is None else self.gradient_clip_norm
        self.log("train/gradient_norm", torch.nn.utils.clip_grad_norm_(parameters, largest), batch_size=1)
