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
from lightning.pytorch.strategies import DeepSpeedStrategy, ParallelStrategy
from torch import Tensor
from torch.optim import Optimizer

from datamodules.batch import ClipBatch
from datamodules.rationale import Response
from lightning_modules.backbones.feature_cache import FeatureCache
from lightning_modules.backbones.interface import Backbone, Completions, Percept, Prompt, Sampling
from lightning_modules.health import OnNonFinite
from lightning_modules.judges import Judge
from lightning_modules.policy import EVALUATION_SAMPLING
from lightning_modules.processes import Tally, sum_over_processes
from lightning_modules.rl.experience import Experience, PolicyUpdate, Rollout, UniformGroups, group_rows
from lightning_modules.rl.losses import Denominator, Importance, grpo_loss
from lightning_modules.rl.rows import spans, take
from lightning_modules.rl.sampling import remember_prompts, sample_groups
from lightning_modules.rl.statistics import completion_statistics, note, policy_statistics
from lightning_modules.rl.timing import StepMeter
from lightning_modules.sharding import Shards, gathered, whole
from lightning_modules.trainable_policy import TrainablePolicyModule


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
            memory, not the result. Where sampling and update both take the whole batch, the first update goes on from
            the prompts that sampling ran, whose graph stands until then.
        completion_batch_size: completions of each prompt per backward pass, None: all. The prompts are run once for
            all parts, so that this saves memory and costs nothing. Without effect under gradient checkpointing.
        gradient_clip_norm: largest norm of the gradient; None: no clipping.
        learning_rate: peak learning rate; by default that of the backbone's recipe for `grpo`.
        weight_decay: AdamW's decoupled weight decay.
        warmup_ratio: share of the steps with rising learning rate.
        schedule: what follows the warm-up.
        feature_cache: keeps what the towers return of each clip on disk.
        on_non_finite: what becomes of a step whose loss or gradient is not finite: the run stops, or skips the step. It
            is saved for `python main.py replay` in either case.
        max_non_finite: how many such steps of the whole run may be skipped; one more stops it.
        use_liger_kernel: compute log-probabilities with Liger's fused cross-entropy, on a GPU; needs the extra `liger`.

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
        completion_batch_size: int | None = 4,
        gradient_clip_norm: float | None = 1.0,
        learning_rate: float | None = None,
        weight_decay: float = 0.0,
        warmup_ratio: float = 0.0,
        schedule: Literal["constant", "linear", "cosine"] = "linear",
        feature_cache: FeatureCache | None = None,
        on_non_finite: OnNonFinite = "stop",
        max_non_finite: int = 10,
        use_liger_kernel: bool = False,
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
            on_non_finite,
            max_non_finite,
            use_liger_kernel,
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
        self.reference_shards: Shards | None = None
        self.experience: Experience | None = None
        self.meter = StepMeter()
        self._prompts_can_stay = False

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if isinstance(self.trainer.strategy, DeepSpeedStrategy):
            raise ValueError(
                "Stage 3 does not run under DeepSpeed, which exchanges gradients in each backward pass, of which "
                "processes make different numbers. Use configs/trainer/fsdp2.yaml."
            )
        if stage == "fit" and self.beta > 0 and self.reference is None:
            # Before a checkpoint is restored: the reference is the policy that the run started from.
            self.reference = self.backbone.reference()

    def configure_model(self) -> None:
        super().configure_model()
        if self.device_mesh is not None and self.reference is not None and self.reference_shards is None:
            shared = set(self.backbone.parameters())
            own = [parameter for parameter in self.reference.parameters() if parameter not in shared]
            self.reference_shards = Shards(self.reference, own, self.device_mesh["data_parallel"])

    def on_train_start(self) -> None:
        # DDP writes buffers anew before each step, and shards are given back after sampling.
        broadcasts = getattr(self.trainer.strategy.model, "broadcast_buffers", False)
        self._prompts_can_stay = not broadcasts and self.shards is None and self.uniform_groups == "keep"

    def num_optimizer_steps(self) -> float:
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
        prompt, sizes = None, (self.rollout_batch_size, self.micro_batch_size)
        # In several batches, the graph of all prompts would take more memory than an update does anyway.
        if self._prompts_can_stay and all(len(spans(len(batch), size)) == 1 for size in sizes):
            prompt = remember_prompts(self.backbone, batch, percept, self.meter)
        return Rollout(batch, percept, *self._sample(batch, percept, prompt), targets, prompt)

    @torch.no_grad()
    def resample(self, rollout: Rollout, prompts: Sequence[int]) -> Rollout:
        """Sample again for some prompts of a rollout; the towers do not run again."""
        part = rollout.take(prompts)
        completions, responses = self._sample(part.batch, part.percept)
        return replace(part, completions=completions, responses=responses)

    def _sample(
        self, batch: ClipBatch, percept: Percept, remembered: Prompt | None = None
    ) -> tuple[Completions, list[Response]]:
        settings = (self.group_size, self.rollout_sampling, self.rollout_batch_size)
        completions = sample_groups(self.backbone, batch, percept, remembered, *settings, self.meter)
        return completions, self.read(self.backbone.texts(completions))

    def training_step(self, batch: ClipBatch, batch_idx: int) -> None:
        if not len(batch) and self.trainer.world_size == 1:
            self.count_clips(batch)
            return
        if len(batch) and self.experience is None:
            raise ValueError(
                "No experience to learn from: GRPO needs callbacks.RLCallback among trainer.callbacks, which samples "
                "and scores completions before each step."
            )
        tally, experience = Tally(), self.experience
        if experience is not None:
            completions = experience.rollout.completions
            note(tally, "train", completion_statistics(completions), weight=len(completions))
            experience = experience if self.uniform_groups == "keep" else experience.with_spread()
        self._learn(experience, tally)
        # In an epoch's first batch Lightning forgets what was logged before the optimizer's hooks.
        self.count_clips(batch)
        tally.add("train/learning_rate", self.trainer.optimizers[0].param_groups[0]["lr"])
        if self.experience is not None:
            note(tally, "step", self.meter.summary(), usual="most")
        shown = ("train/kl", "train/completion_tokens", "step/seconds", "step/tokens_per_second")
        for name, value in tally.over_processes().items():
            self.log(name, value, prog_bar=name in shown, batch_size=max(len(batch), 1))

    def _learn(self, experience: Experience | None, tally: Tally) -> None:
        """All updates of one rollout; notes what to log of them.

        A process that has nothing to learn takes part with a zero gradient: the others may have one to share. Where
        none has, the optimizer's momentum and weight decay still move the weights, as they do in the paper's "keep".
        """
        with self.meter.phase("reference"), gathered(self.reference_shards):
            reference_logprobs = None if experience is None else self._reference_logprobs(experience.rollout)
        with self.meter.phase("update"):
            totals = self._totals(experience)
            first = last = self._update_policy(experience, reference_logprobs, None, totals)
            for _ in range(1, self.num_updates):
                old_logprobs = None if first is None else first.logprobs
                last = self._update_policy(experience, reference_logprobs, old_logprobs, totals)
        if experience is not None and first is not None and last is not None and last.sums is not None:
            completions = experience.rollout.completions
            statistics = policy_statistics(completions, first.logprobs, first.entropy)
            note(tally, "train", last.means(), weight=last.sums.tokens)
            note(tally, "train", statistics, weight=completions.mask.sum())

    def _loss_mask(self, completions: Completions) -> Tensor:
        """Tokens that count in the loss, bool `[B·G, C]`."""
        return completions.mask & completions.finished[:, None] if self.mask_truncated else completions.mask

    def _totals(self, experience: Experience | None) -> dict[str, int]:
        """The loss' denominators, of all processes together: each has its share of one batch."""
        own = (0, 0)
        if experience is not None:
            completions = experience.rollout.completions
            own = (len(completions), int(self._loss_mask(completions).sum()))
        completions, tokens = sum_over_processes(*own, device=self.device)
        return {"num_completions_total": int(completions), "num_tokens_total": int(tokens)}

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
        self,
        experience: Experience | None,
        reference_logprobs: Tensor | None,
        old_logprobs: Tensor | None,
        totals: dict[str, int],
    ) -> PolicyUpdate | None:
        """One optimizer step of all processes; without `old_logprobs`, the first of this rollout."""
        update = None
        self.optimizers().zero_grad()
        with gathered(self.shards):
            if experience is None:
                self.manual_backward(self.zero_loss())
            else:
                update = self._backward(experience, reference_logprobs, old_logprobs, totals)
                self.check_gradients()
            if self.shards is not None:
                self.shards.reduce_gradients()
        self._step()
        return update

    def _backward(
        self,
        experience: Experience,
        reference_logprobs: Tensor | None,
        old_logprobs: Tensor | None,
        totals: dict[str, int],
    ) -> PolicyUpdate:
        """The gradient of one update, over micro-batches."""
        rollout, completions = experience.rollout, experience.rollout.completions
        mask = self._loss_mask(completions)
        update = PolicyUpdate.empty(completions, with_entropy=old_logprobs is None)
        learned = experience.learned(mask, reference_logprobs, old_logprobs)
        self.health.see_batch(rollout.batch, self.trainer.fit_loop.batch_idx, totals, learned)
        for start, stop in spans(len(rollout.batch), self.micro_batch_size):
            clips, more = rollout.batch.rows(start, stop), stop < len(rollout.batch)
            prompt, rollout.prompt = rollout.prompt, None
            if prompt is None:
                # Per micro-batch, as each backward pass frees its own graph.
                prompt = self.backbone.encode(clips, rollout.percept.rows(start, stop))
            part_size = self.completion_batch_size or self.group_size
            is_cut = prompt.memory is not None or part_size < self.group_size
            with self.backbone.score_in_parts(prompt) if is_cut else nullcontext() as shared:
                score = partial(self.backbone.score, prompt) if shared is None else shared.score
                for members in spans(self.group_size, None if shared is None else part_size):
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
                        **totals,
                    )
                    self.health.see_loss(result.loss, clips.ids)
                    with self._gradients_stay_here(more or shared is not None):
                        # Strategies take the gradients' mean over the processes, and these are shares of a sum.
                        self.manual_backward(result.loss * self.trainer.world_size)
                    update.add(cut, scores, result.sums)
                if shared is not None:
                    zero = self.zero_loss()
                    with self._gradients_stay_here(more):
                        # What `manual_backward` tells the strategy; the gradients are scaled already.
                        self.trainer.strategy.pre_backward(zero)
                        shared.backward(zero)
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
        norm = whole(torch.nn.utils.clip_grad_norm_(parameters, largest))
        self.log("train/gradient_norm", norm, batch_size=1)
        self.check_finite(optimizer, norm)
