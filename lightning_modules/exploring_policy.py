"""What a policy tries in a step of stage 3, and what it earns: rollouts, rewards, advantages.

`explore` is this half of a step; `GRPOModule` learns from what it returns.
"""

from dataclasses import replace
from typing import Any, get_args

import torch

from datamodules.batch import ClipBatch
from datamodules.rationale import Response
from lightning_modules.backbones.interface import Backbone, Completions, Sampling
from lightning_modules.backbones.percept import Percept
from lightning_modules.metrics.reliance import Reliance
from lightning_modules.processes import Tally
from lightning_modules.reliance import other_clips, sentence_reliance
from lightning_modules.rl.advantages import Normalise
from lightning_modules.rl.experience import Experience, Rollout, UniformGroups
from lightning_modules.rl.rewarder import Rewarder, reward_input
from lightning_modules.rl.rows import join, spans
from lightning_modules.rl.scoring import scored
from lightning_modules.rl.statistics import completion_statistics, note, reward_statistics
from lightning_modules.rl.timing import StepMeter
from lightning_modules.trainable_policy import TrainablePolicyModule


class ExploringPolicyModule(TrainablePolicyModule):
    """A policy that samples groups of completions and has them rewarded.

    Args:
        backbone: the policy.
        taxonomy: the emotion classes of the corpus.
        rollout_sampling: how completions are drawn in training.
        group_size: completions per prompt, G.
        strict: read rollouts strictly: a completion that repeats a tag, or has text outside them, earns nothing. The
            published reading takes the first of each tag. Evaluation always uses that one.
        normalise: what is compared within a group: the "sum" of the rewards, or "per_reward" each of them, brought to
            unit spread before they are added (GDPO, arXiv 2601.05242).
        normalise_std: divide advantages by the group's standard deviation, under "sum".
        uniform_groups: what becomes of prompts whose completions all scored the same. "keep" (the paper's): their
            advantages are 0, the KL penalty still acts. "skip": left out of the loss, its denominators and the update's
            computation; where no group is left, the optimizer steps on a zero gradient. "resample" (DAPO's dynamic
            sampling, arXiv 2503.14476, bounded): sampled again, then skipped. The last two compute different amounts
            on different processes, which strategies that shard parameters (FSDP, DeepSpeed stage 3) do not bear.
        max_resamples: how often a group is sampled again at most, with `uniform_groups="resample"`.
        rollout_batch_size: prompts that are sampled at once; None: the whole batch. Changes memory and speed.
        micro_batch_size: prompts per pass of the reference and per backward pass; None: the whole batch, or with
            `global_batch` the data's `batch_size`. Changes memory, not the result.
        training: see `TrainablePolicyModule`.

    Raises:
        ValueError: a group of fewer than two completions, counts below one or an unknown value; see also
            `TrainablePolicyModule`.
    """

    num_updates: int = 1
    """Optimizer steps per rollout."""

    def __init__(
        self,
        backbone: Backbone,
        taxonomy: str,
        *,
        rollout_sampling: Sampling = Sampling(),  # noqa: B008 - frozen
        group_size: int = 4,
        strict: bool = True,
        normalise: Normalise = "sum",
        normalise_std: bool = True,
        uniform_groups: UniformGroups = "keep",
        max_resamples: int = 3,
        rollout_batch_size: int | None = None,
        micro_batch_size: int | None = None,
        **training: Any,
    ) -> None:
        super().__init__(backbone, taxonomy, **training)
        counts = (max_resamples, rollout_batch_size, micro_batch_size)
        if group_size < 2 or any(count is not None and count < 1 for count in counts):
            raise ValueError(
                f"Got group_size={group_size}, and max_resamples, rollout_batch_size, micro_batch_size: {counts}. "
                "Expected group_size >= 2 (advantages compare completions of one prompt) and counts >= 1."
            )
        for name, value, kind in (
            ("uniform_groups", uniform_groups, UniformGroups),
            ("normalise", normalise, Normalise),
        ):
            if value not in get_args(kind):
                raise ValueError(f"{name} is {value!r}. Expected {', '.join(get_args(kind))}.")
        self.rollout_sampling = rollout_sampling
        self.group_size = group_size
        self.batch_unit = f"prompts × {group_size} completions"
        self.strict = strict
        self.normalise: Normalise = normalise
        self.normalise_std = normalise_std
        self.uniform_groups: UniformGroups = uniform_groups
        self.max_resamples = max_resamples
        self.rollout_batch_size = rollout_batch_size
        self.micro_batch_size = micro_batch_size
        # The policy as it was before the run, frozen; `GRPOModule` makes it.
        self.reference: Backbone | None = None
        self.meter = StepMeter()

    @property
    def rewarder(self) -> Rewarder:
        """Who says what completions earn."""
        return Rewarder.of(self.trainer)

    def explore(self, batch: ClipBatch, tally: Tally) -> Experience:
        """Rollout, rewards and advantages of a batch; notes what to log of them."""
        first = self.score(self.rollout(batch))
        experience, num_resampled = first, 0
        if self.uniform_groups == "resample":
            experience, num_resampled = self._resample(first)
        # The curves show what each clip gave at first (decision 21).
        note(tally, "reward", reward_statistics(first, self.group_size), weight=len(batch))
        if self.uniform_groups != "keep":
            tally.add("reward/groups_resampled", float(num_resampled), "sum")
            tally.add("reward/groups_skipped", float(len(experience.uniform_prompts)), "sum")
        completions = experience.rollout.completions
        note(tally, "train", completion_statistics(completions), weight=len(completions))
        return experience

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
        num_others = self.rewarder.num_others
        # A clip whose fellows could not be decoded has none to be held against, which ends no run.
        is_left_alone = len(batch) == 1 and batch.skipped
        others = other_clips(percept, num_others) if num_others and not is_left_alone else []
        return Rollout(batch, percept, *self._sample(batch, percept), targets, others)

    def _sample(self, batch: ClipBatch, percept: Percept) -> tuple[Completions, list[Response]]:
        parts = []
        for start, stop in spans(len(batch), self.rollout_batch_size):
            with self.meter.phase("encode"):
                prompt = self.backbone.encode(batch.rows(start, stop), percept.rows(start, stop))
            with self.meter.phase("sample"):
                parts.append(self.generate(prompt, self.group_size, self.rollout_sampling))
        completions = join(parts, self.backbone.tokenizer.pad_token_id)
        self.meter.add_tokens(int(completions.lengths.sum()))
        return completions, self.read(self.backbone.texts(completions), self.strict)

    @torch.no_grad()
    def score(self, rollout: Rollout) -> Experience:
        """The rewards of a rollout, and how each completion compares with its group."""
        with self.meter.phase("score"):
            readings = self.read_sentences(rollout.responses) if self.rewarder.needs_verifier else None
            reliances = self._reliances(rollout) if self.rewarder.num_others else None
            rewarded = self.rewarder.reward(reward_input(self, rollout, readings, reliances))
            return scored(rollout, rewarded, readings, reliances, self.normalise, self.normalise_std)

    def _reliances(self, rollout: Rollout) -> list[list[Reliance]]:
        """What sentences rest on, by the reference: training cannot teach it what a reward likes (decision 49)."""
        assert self.reference is not None, "made in setup"
        sentences = [response.sentences for response in rollout.responses]
        if not rollout.others:
            return [[Reliance()] * len(own) for own in sentences]
        return sentence_reliance(
            self.reference, rollout.batch, rollout.percept, rollout.others, sentences, size=self.micro_batch_size
        )

    @torch.no_grad()
    def _resample(self, experience: Experience) -> tuple[Experience, int]:
        """Sample groups without spread again, and again; returns how many groups were sampled in all."""
        count = 0
        for _ in range(self.max_resamples):
            prompts = experience.uniform_prompts
            if not prompts:
                break
            part = experience.rollout.take(prompts)
            completions, responses = self._sample(part.batch, part.percept)  # the towers do not run again
            again = self.score(replace(part, completions=completions, responses=responses))
            experience = experience.put(prompts, again, self.backbone.tokenizer.pad_token_id)
            count += len(prompts)
        return experience, count
