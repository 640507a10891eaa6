"""Stage 3: group-relative reinforcement learning of the policy (GRPO), with labels only.

`GRPOModule.training_step` is the step. `ExploringPolicyModule` samples completions, the `Rewarder` among the Trainer's
callbacks says what they earn, and this file learns from it. Source: arXiv 2510.23506 and DeepSeekMath (arXiv
2402.03300). Departures from the released code: no dropout while sampling or scoring (decision 24), sampling in the
precision of the step (decision 25), each clip passes the towers once and each prompt the language model once per group
(decision 27), and the reference shares the frozen towers. Every process makes the same number of optimizer steps,
whatever it sampled (decision 20).
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from lightning.pytorch.strategies import DeepSpeedStrategy, ParallelStrategy
from torch import Tensor

from datamodules.batch import ClipBatch
from lightning_modules.backbones.interface import Backbone, Completions, Scores, SharedPrompt
from lightning_modules.exploring_policy import ExploringPolicyModule
from lightning_modules.global_batch import GlobalBatch
from lightning_modules.processes import Tally, most_over_processes, sum_over_processes
from lightning_modules.rl.correction import Correction, check_drift, sampler_weights
from lightning_modules.rl.experience import Experience, PolicyUpdate, Rollout, group_rows
from lightning_modules.rl.losses import Denominator, Importance, grpo_loss
from lightning_modules.rl.rows import spans, take
from lightning_modules.rl.scoring import balance_over_processes
from lightning_modules.rl.statistics import note, policy_statistics
from lightning_modules.sharding import Shards, gathered, shard_mesh
from lightning_modules.step_record import LearnedRollout


class GRPOModule(ExploringPolicyModule):
    """The policy in training, beside the frozen reference policy and the frozen verifier.

    Args:
        backbone: the policy as stage 1 left it; a frozen copy of it becomes the reference.
        taxonomy: the emotion classes of the corpus.
        beta: weight of the KL penalty to the reference; 0 needs no reference.
        epsilon_low: the importance ratio is clipped below at 1 - `epsilon_low`.
        epsilon_high: the importance ratio is clipped above at 1 + `epsilon_high`.
        denominator: "sequence" (GRPO), "token" (DAPO) or "constant" (Dr. GRPO: `max_new_tokens` per completion).
        importance: "token" (GRPO) or "sequence" (GSPO) importance ratio.
        mask_truncated: leave completions that `max_new_tokens` cut short out of the loss.
        num_updates: optimizer steps per rollout.
        completion_batch_size: completions of each prompt per backward pass, None: all. The prompts are run once for
            all parts, so that this saves memory and costs nothing. Without effect under gradient checkpointing.
        gradient_clip_norm: largest norm of the gradient; None: no clipping.
        correction: importance weights of completions that another `sampler` drew: per "token", one per "sequence", or
            "none"; see `rl/correction.py`. The policy's own loop needs none.
        correction_cap: largest importance weight.
        max_sampler_drift: largest difference, in nats, between a token's log-probability by the `sampler` and by the
            policy; the run stops before it learns from more. None bears any.
        exploring: see `ExploringPolicyModule`.

    Raises:
        ValueError: counts below one; see also `ExploringPolicyModule`.
    """

    stage = "grpo"
    published_batch = 16

    def __init__(
        self,
        backbone: Backbone,
        taxonomy: str,
        *,
        beta: float = 0.04,
        epsilon_low: float = 0.2,
        epsilon_high: float = 0.2,
        denominator: Denominator = "sequence",
        importance: Importance = "token",
        mask_truncated: bool = False,
        num_updates: int = 1,
        completion_batch_size: int | None = 4,
        gradient_clip_norm: float | None = 1.0,
        correction: Correction = "token",
        correction_cap: float = 2.0,
        max_sampler_drift: float | None = 1.0,
        **exploring: Any,
    ) -> None:
        super().__init__(backbone, taxonomy, **exploring)
        counts = (num_updates, completion_batch_size)
        if any(count is not None and count < 1 for count in counts):
            raise ValueError(f"Got num_updates, completion_batch_size: {counts}. Expected counts >= 1.")
        self.automatic_optimization = False
        self.beta = beta
        self.loss = partial(
            grpo_loss,
            beta=beta,
            epsilon_low=epsilon_low,
            epsilon_high=epsilon_high,
            denominator=denominator,
            importance=importance,
        )
        self.mask_truncated = mask_truncated
        self.num_updates = num_updates
        self.completion_batch_size = completion_batch_size
        self.gradient_clip_norm = gradient_clip_norm
        self.correction: Correction = "none" if self.sampler is None else correction
        self.correction_cap = correction_cap
        self.max_sampler_drift = None if self.sampler is None else max_sampler_drift
        self.reference_shards: Shards | None = None

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if isinstance(self.trainer.strategy, DeepSpeedStrategy):
            raise ValueError(
                "Stage 3 does not run under DeepSpeed, which exchanges gradients in each backward pass, of which "
                "processes make different numbers. Use configs/trainer/fsdp2.yaml."
            )
        needs_reference = stage == "fit" and (self.beta > 0 or self.rewarder.num_others > 0)
        if needs_reference and self.reference is None:
            # Before a checkpoint is restored: the reference is the policy that the run started from. Where weights are
            # sharded, it is filled from the shards, as whole copies for all processes of a node may not fit into it.
            self.reference = self.backbone.reference(empty=shard_mesh(self.trainer.strategy) is not None)

    def accumulate(self, batch: GlobalBatch) -> None:
        # One batch is one rollout, so that all of a step is sampled by the same policy; its update is cut into passes.
        self.trainer.datamodule.batch_size = batch.share
        if self.micro_batch_size is None:
            self.micro_batch_size = batch.batch_size

    def configure_model(self) -> None:
        policy = set(self.backbone.parameters())
        super().configure_model()
        mesh = shard_mesh(self.trainer.strategy)
        if mesh is not None and self.reference is not None and self.reference_shards is None:
            assert self.shards is not None, "the policy's"
            own = [parameter for parameter in self.reference.parameters() if parameter not in policy]
            self.reference_shards = Shards(self.reference, own, mesh)
            self.shards.copy_to(self.reference_shards)

    def num_optimizer_steps(self) -> float:
        steps = super().num_optimizer_steps() * self.num_updates
        return steps if self.trainer.max_steps == -1 else min(steps, self.trainer.max_steps)

    def training_step(self, batch: ClipBatch, batch_idx: int) -> dict[str, Any] | None:
        """One step: rollout → rewards → advantages → learn.

        Returns:
            The `experience` that was learned from, for callbacks; None where a single process got no clip.
        """
        if not len(batch) and self.trainer.world_size == 1:
            self.count_clips(batch)
            return None
        self.seed_step(batch_idx)
        experience, tally = None, Tally()
        # The reference only where it takes part in the rewards: every process gathers the same.
        with gathered(self.shards, self.reference_shards if self.rewarder.num_others else None):
            behind = self.send_weights()
            if len(batch):
                experience = self.explore(batch, tally)
        # Groups without spread teach nothing: under "keep" they still pull the policy towards the reference.
        learned = experience if experience is None or self.uniform_groups == "keep" else experience.with_spread()
        self._learn(learned, tally)
        # In an epoch's first batch Lightning forgets what was logged before the optimizer's hooks.
        self.count_clips(batch)
        if self.sampler is not None:
            tally.add("train/sampler_behind", float(behind), "most")
        tally.add("train/learning_rate", self.trainer.optimizers[0].param_groups[0]["lr"])
        if experience is not None:
            note(tally, "step", self.meter.summary(), usual="most")
        shown = {"train/kl", "train/completion_tokens", "step/seconds", "step/tokens_per_second"}
        shown |= {f"reward/{name}" for name in self.rewarder.names}
        for name, value in tally.over_processes().items():
            self.log(name, value, prog_bar=name in shown, batch_size=max(len(batch), 1))
        return {"experience": experience}

    def _learn(self, experience: Experience | None, tally: Tally) -> None:
        """All updates of one rollout; notes what to log of them.

        A process that has nothing to learn takes part with a zero gradient: the others may have one to share. Where
        none has, the optimizer's momentum and weight decay still move the weights, as they do in the paper's "keep".
        """
        with self.meter.phase("reference"), gathered(self.reference_shards):
            reference_logprobs = None if experience is None else self._reference_logprobs(experience.rollout)
        first = last = None
        with self.meter.phase("update"):
            if self.normalise == "per_reward":
                experience = balance_over_processes(experience, self.device)
            totals = self._totals(experience)
            for number in range(self.num_updates):
                old_logprobs = None if first is None else first.logprobs
                last = self._update_policy(experience, reference_logprobs, old_logprobs, totals)
                first = last if number == 0 else first
        if experience is not None and first is not None and last is not None and last.sums is not None:
            completions = experience.rollout.completions
            statistics = policy_statistics(completions, first.logprobs, first.entropy)
            # The policy's own loop needs no importance weights: there would be two curves of 1 and 0.
            means = {name: value for name, value in last.means().items() if self.sampler or "sampler" not in name}
            note(tally, "train", means, weight=last.sums.tokens)
            note(tally, "train", statistics, weight=completions.mask.sum())

    def _loss_mask(self, completions: Completions) -> Tensor:
        """Tokens that count in the loss, bool `[B·G, C]`."""
        return completions.mask & completions.finished[:, None] if self.mask_truncated else completions.mask

    def _totals(self, experience: Experience | None) -> dict[str, int]:
        """The loss' denominators, of all processes together: each has its share of one batch (decision 40)."""
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
                mask = self._loss_mask(experience.rollout.completions)
                learned = experience.learned(mask, reference_logprobs, old_logprobs)
                update = self._backward(experience.rollout, learned, totals)
                self.check_gradients()
            if old_logprobs is None and self.max_sampler_drift is not None:
                self._check_drift(experience, update)
            if self.shards is not None:
                self.shards.reduce_gradients()
        self.optimizers().step()
        # Also where a gradient scaler skipped the step: the schedule counts rollouts, the same on every process.
        self.lr_schedulers().step()
        return update

    def _check_drift(self, experience: Experience | None, update: PolicyUpdate | None) -> None:
        """Stop all processes where the sampler of one drew from another policy."""
        own = 0.0
        if experience is not None and update is not None:
            own = float((update.logprobs - experience.rollout.completions.logprobs).abs().amax())
        check_drift(most_over_processes(own, self.device), self.max_sampler_drift, self.trainer.global_step)

    def _backward(self, rollout: Rollout, learned: LearnedRollout, totals: dict[str, int]) -> PolicyUpdate:
        """The gradient of one update, over micro-batches."""
        update = PolicyUpdate.empty(learned.completions, with_entropy=learned.old_logprobs is None)
        self.health.see_batch(rollout.batch, self.trainer.fit_loop.batch_idx, totals, learned)
        size = self.completion_batch_size or self.group_size
        for start, stop in spans(len(rollout.batch), self.micro_batch_size):
            clips, more = rollout.batch.rows(start, stop), stop < len(rollout.batch)
            # Per micro-batch, as each backward pass frees its own graph.
            prompt = self.backbone.encode(clips, rollout.percept.rows(start, stop))
            with self.backbone.score_in_parts(prompt) if size < self.group_size else nullcontext() as shared:
                score = partial(self.backbone.score, prompt) if shared is None else shared.score
                for members in spans(self.group_size, None if shared is None else size):
                    rows = group_rows(range(start, stop), self.group_size, members)
                    loss = self._loss_of(rows, score, learned, update, totals)
                    self.health.see_loss(loss, clips.ids)
                    with self._gradients_stay_here(more or shared is not None):
                        # Strategies take the gradients' mean over the processes, and these are shares of a sum.
                        self.manual_backward(loss * self.trainer.world_size)
                if shared is not None:
                    self._send_on(shared, stay=more)
        return update

    def _loss_of(
        self,
        rows: list[int],
        score: Callable[[Completions, float, bool], Scores],
        learned: LearnedRollout,
        update: PolicyUpdate,
        totals: dict[str, int],
    ) -> Tensor:
        """The share of some completions, by their rows, in the loss of an update, which takes note of them."""
        part = take(learned.completions, rows).trimmed()
        cut = (rows, slice(part.token_ids.shape[1]))
        scores = score(part, self.rollout_sampling.temperature, update.entropy is not None)
        old, mask = None if learned.old_logprobs is None else learned.old_logprobs[cut], learned.loss_mask[cut]
        trained = scores.logprobs if old is None else old
        result = self.loss(
            scores.logprobs,
            old,
            learned.advantages[rows],
            mask,
            reference_logprobs=None if learned.reference_logprobs is None else learned.reference_logprobs[cut],
            constant_tokens=self.rollout_sampling.max_new_tokens,
            sampler_weights=sampler_weights(trained, part.logprobs, mask, self.correction, self.correction_cap),
            sampler_cap=self.correction_cap,
            **totals,
        )
        update.add(cut, scores, result.sums)
        return result.loss

    def _send_on(self, shared: SharedPrompt, stay: bool) -> None:
        """Backward pass of the prompts, after those of all their completions."""
        zero = self.zero_loss()
        with self._gradients_stay_here(stay):
            # What `manual_backward` tells the strategy; the gradients are scaled already.
            self.trainer.strategy.pre_backward(zero)
            shared.backward(zero)

    def _gradients_stay_here(self, stay: bool) -> AbstractContextManager:
        """Let processes exchange gradients once per update: they may have different numbers of micro-batches."""
        strategy = self.trainer.strategy
        return strategy.block_backward_sync() if stay and isinstance(strategy, ParallelStrategy) else nullcontext()
