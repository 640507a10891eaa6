"""Stage 3: group-relative reinforcement learning of the policy (GRPO), with labels only.

The step runs as: an RL callback asks for `rollout`, scores it and leaves an `Experience`; `training_step` turns it into
updates. Source: arXiv 2510.23506 and DeepSeekMath (arXiv 2402.03300). Departures from the released code: no dropout
while sampling or scoring, each clip passes the towers once and each prompt the language model once per group, and the
reference shares the frozen towers.
"""

from typing import Literal

import torch
from torch import Tensor

from datamodules.batch import ClipBatch
from lightning_modules.backbones.interface import Backbone, Completions, Sampling
from lightning_modules.metrics.judges import Judge
from lightning_modules.policy import EVALUATION_SAMPLING, TrainablePolicyModule
from lightning_modules.rl.experience import Experience, Rollout
from lightning_modules.rl.losses import Denominator, Importance, LossSums, grpo_loss


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
        num_updates: optimizer steps per rollout.
        micro_batch_size: prompts per backward pass; None: the whole batch. Changes memory, not the result.
        gradient_clip_norm: largest norm of the gradient; None: no clipping.
        learning_rate: peak learning rate; by default that of the backbone's recipe for `grpo`.
        weight_decay: AdamW's decoupled weight decay.
        warmup_ratio: share of the steps with rising learning rate.
        schedule: what follows the warm-up.

    Raises:
        ValueError: a group of fewer than two completions, or counts below one; see also `TrainablePolicyModule`.
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
        num_updates: int = 1,
        micro_batch_size: int | None = None,
        gradient_clip_norm: float | None = 1.0,
        learning_rate: float | None = None,
        weight_decay: float = 0.0,
        warmup_ratio: float = 0.0,
        schedule: Literal["constant", "linear", "cosine"] = "linear",
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
        )
        if group_size < 2 or num_updates < 1 or (micro_batch_size is not None and micro_batch_size < 1):
            raise ValueError(
                f"Got group_size={group_size}, num_updates={num_updates}, micro_batch_size={micro_batch_size}. "
                "Expected group_size >= 2 (advantages compare completions of one prompt) and counts >= 1."
            )
        self.automatic_optimization = False
        self.rollout_sampling = rollout_sampling
        self.group_size = group_size
        self.beta = beta
        self.epsilon_low = epsilon_low
        self.epsilon_high = epsilon_high
        self.denominator: Denominator = denominator
        self.importance: Importance = importance
        self.normalise_std = normalise_std
        self.mask_truncated = mask_truncated
        self.num_updates = num_updates
        self.micro_batch_size = micro_batch_size
        self.gradient_clip_norm = gradient_clip_norm
        self.reference: Backbone | None = None
        self.experience: Experience | None = None

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
        percept = self.backbone.perceive(batch)
        prompt = self.backbone.encode(batch, percept)
        completions = self.backbone.generate(prompt, self.group_size, self.rollout_sampling)
        responses = self.read(self.backbone.texts(completions))
        targets = [target for target in batch.targets if target is not None for _ in range(self.group_size)]
        return Rollout(batch, percept, completions, responses, targets)

    def training_step(self, batch: ClipBatch, batch_idx: int) -> None:
        self.count_clips(batch)
        if not len(batch):
            return
        if self.experience is None:
            raise ValueError(
                "No experience to learn from: GRPO needs callbacks.RLCallback among trainer.callbacks, which samples "
                "and scores completions before each step."
            )
        experience = self.experience
        completions = experience.rollout.completions
        reference_logprobs = self._reference_logprobs(experience.rollout)
        old_logprobs: Tensor | None = None
        for _ in range(self.num_updates):
            sums, logprobs = self._update_policy(experience, reference_logprobs, old_logprobs)
            if old_logprobs is None:
                old_logprobs = logprobs
                drift = (logprobs - completions.logprobs).abs().amax()
        for name, value in sums.means().items():
            self.log(f"train/{name}", value, prog_bar=name == "kl", batch_size=len(batch))
        self.log("train/sampler_drift", drift, batch_size=len(batch))
        self.log("train/completion_tokens", self.completion_length(completions), prog_bar=True, batch_size=len(batch))
        self.log("train/truncated", (~completions.finished).float().mean(), batch_size=len(batch))
        self.log("train/learning_rate", self.trainer.optimizers[0].param_groups[0]["lr"])

    @torch.no_grad()
    def _reference_logprobs(self, rollout: Rollout) -> Tensor | None:
        if self.reference is None:
            return None
        prompt = self.reference.encode(rollout.batch, rollout.percept)
        return self.reference.logprobs(prompt, rollout.completions, self.rollout_sampling.temperature)

    def _update_policy(
        self, experience: Experience, reference_logprobs: Tensor | None, old_logprobs: Tensor | None
    ) -> tuple[LossSums, Tensor]:
        """One optimizer step over micro-batches; returns loss sums and the policy's log-probabilities `[B·G, C]`."""
        optimizer = self.optimizers()
        rollout, completions = experience.rollout, experience.rollout.completions
        mask = completions.mask & completions.finished[:, None] if self.mask_truncated else completions.mask
        num_prompts, size = len(rollout.batch), self.micro_batch_size or len(rollout.batch)
        all_logprobs = torch.zeros_like(completions.logprobs)
        total: LossSums | None = None
        optimizer.zero_grad()
        for start in range(0, num_prompts, size):
            stop = min(start + size, num_prompts)
            rows = slice(start * self.group_size, stop * self.group_size)
            part: Completions = completions.rows(rows.start, rows.stop)
            width = part.token_ids.shape[1]
            # The prompts are built per micro-batch, as each backward pass frees its own graph.
            prompt = self.backbone.encode(rollout.batch.rows(start, stop), rollout.percept.rows(start, stop))
            logprobs = self.backbone.logprobs(prompt, part, self.rollout_sampling.temperature)
            result = grpo_loss(
                logprobs,
                None if old_logprobs is None else old_logprobs[rows, :width],
                experience.advantages[rows],
                mask[rows, :width],
                reference_logprobs=None if reference_logprobs is None else reference_logprobs[rows, :width],
                beta=self.beta,
                epsilon_low=self.epsilon_low,
                epsilon_high=self.epsilon_high,
                denominator=self.denominator,
                constant_tokens=self.rollout_sampling.max_new_tokens,
                importance=self.importance,
                num_completions_total=len(completions),
                num_tokens_total=int(mask.sum()),
            )
            self.check_finite(result.loss.detach(), rollout.batch)
            self.manual_backward(result.loss)
            all_logprobs[rows, :width] = logprobs.detach()
            total = result.sums if total is None else total + result.sums
        assert total is not None, "a batch has at least one prompt"
        if self.gradient_clip_norm is not None:
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            norm = torch.nn.utils.clip_grad_norm_(parameters, self.gradient_clip_norm)
            self.log("train/gradient_norm", norm, batch_size=len(rollout.batch))
        self.check_gradients()
        optimizer.step()
        self.lr_schedulers().step()
        return total, all_logprobs
