"""What stage 3 passes from the rollout to the update.

Shape legend: B prompts (one per clip), G completions per prompt, C completion tokens; row `b·G + g` is completion g of
prompt b.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

import torch
from torch import Tensor

from datamodules.batch import ClipBatch
from datamodules.rationale import Response
from lightning_modules.backbones.interface import Completions, Scores
from lightning_modules.backbones.percept import Percept
from lightning_modules.emotion_verifier import SentenceReading
from lightning_modules.metrics.reliance import Reliance
from lightning_modules.rl.losses import LossSums
from lightning_modules.rl.rows import join, take
from lightning_modules.step_record import LearnedRollout

UniformGroups = Literal["keep", "skip", "resample"]
"""What becomes of groups whose rewards are all equal; see `GRPOModule`."""

T = TypeVar("T")


@dataclass
class Rollout:
    """G sampled completions per clip.

    Args:
        batch: the clips, B of them.
        percept: tower outputs of the clips, computed once and shared by sampling, reference and policy.
        completions: token ids, masks and log-probabilities, B·G rows.
        responses: the completions, read.
        targets: canonical emotion of each completion's clip, B·G.
        others: percepts of other clips in each one's place, where rewards ask what sentences rest on.
    """

    batch: ClipBatch
    percept: Percept
    completions: Completions
    responses: list[Response]
    targets: list[str]
    others: Sequence[Percept] = ()

    @property
    def group_size(self) -> int:
        """G."""
        return len(self.completions) // len(self.batch)

    def take(self, prompts: Sequence[int]) -> "Rollout":
        """The given clips and their completions."""
        rows = group_rows(prompts, self.group_size)
        return Rollout(
            self.batch.take(prompts),
            take(self.percept, prompts),
            take(self.completions, rows),
            [self.responses[row] for row in rows],
            [self.targets[row] for row in rows],
            [take(other, prompts) for other in self.others],
        )


@dataclass
class Experience:
    """A scored rollout.

    Args:
        rollout: the completions.
        rewards: reward name → what it gave before weighting, float32 `[B·G]`.
        total: weighted sum of the rewards, float32 `[B·G]`.
        advantages: group-relative advantages, float32 `[B·G]`.
        spread: whether the rewards of a prompt's completions differ, bool `[B]`.
        readings: the verifier's reading of each completion's sentences, or None where no reward asked for it.
        reliances: what each completion's sentences rest on, or None where no reward asked for it.
    """

    rollout: Rollout
    rewards: dict[str, Tensor]
    total: Tensor
    advantages: Tensor
    spread: Tensor
    readings: Sequence[Sequence[SentenceReading]] | None
    reliances: Sequence[Sequence[Reliance]] | None = None

    @property
    def uniform_prompts(self) -> list[int]:
        """Prompts whose completions all scored the same."""
        return (~self.spread).nonzero()[:, 0].tolist()

    def with_spread(self) -> "Experience | None":
        """The groups that teach something: this object where all do, None where none does."""
        prompts = self.spread.nonzero()[:, 0].tolist()
        if len(prompts) == len(self.spread):
            return self
        if not prompts:
            return None
        rows = group_rows(prompts, self.rollout.group_size)
        return Experience(
            self.rollout.take(prompts),
            {name: values[rows] for name, values in self.rewards.items()},
            self.total[rows],
            self.advantages[rows],
            self.spread[prompts],
            None if self.readings is None else [self.readings[row] for row in rows],
            None if self.reliances is None else [self.reliances[row] for row in rows],
        )

    def learned(
        self, loss_mask: Tensor, reference_logprobs: Tensor | None, old_logprobs: Tensor | None
    ) -> LearnedRollout:
        """What an update learns from; arguments as in `LearnedRollout`."""
        completions = self.rollout.completions
        scores = (self.advantages, self.rewards, self.total)
        return LearnedRollout(completions, loss_mask, *scores, reference_logprobs, old_logprobs)

    def put(self, prompts: Sequence[int], other: "Experience", pad_token_id: int) -> "Experience":
        """This experience with the groups of some prompts replaced.

        Args:
            prompts: the prompts, in the order in which `other` has them.
            other: as many groups of the same clips and rewards.
            pad_token_id: stands in the padding where widths differ.
        """
        order = list(range(len(self.spread)))
        for i, prompt in enumerate(prompts):
            order[prompt] = len(self.spread) + i
        rows = group_rows(order, self.rollout.group_size)

        def merged(own: Sequence[T], others: Sequence[T]) -> list[T]:
            both = [*own, *others]
            return [both[row] for row in rows]

        new = other.rollout
        completions = take(join([self.rollout.completions, new.completions], pad_token_id), rows)
        rollout = replace(
            self.rollout, completions=completions, responses=merged(self.rollout.responses, new.responses)
        )
        return Experience(
            rollout,
            {name: torch.cat([values, other.rewards[name]])[rows] for name, values in self.rewards.items()},
            torch.cat([self.total, other.total])[rows],
            torch.cat([self.advantages, other.advantages])[rows],
            torch.cat([self.spread, other.spread])[order],
            None if self.readings is None or other.readings is None else merged(self.readings, other.readings),
            None if self.reliances is None or other.reliances is None else merged(self.reliances, other.reliances),
        )


def experience_of(outputs: object) -> Experience | None:
    """What a step learned from, of the outputs of `GRPOModule.training_step`; None where there is nothing."""
    return outputs.get("experience") if isinstance(outputs, dict) else None


@dataclass
class PolicyUpdate:
    """What one optimizer step saw, of the weights before it; filled in by micro-batches.

    Args:
        logprobs: log-probabilities of the completions, float32 `[B·G, C]`, 0 where masked out.
        entropy: entropies of the policy at each token, `[B·G, C]`, or None where they are not asked for.
        sums: of the loss, over the micro-batches so far; None before the first.
    """

    logprobs: Tensor
    entropy: Tensor | None
    sums: LossSums | None = None

    @classmethod
    def empty(cls, completions: Completions, with_entropy: bool) -> "PolicyUpdate":
        """Before the first micro-batch."""
        zeros = torch.zeros_like(completions.logprobs)
        return cls(zeros, zeros.clone() if with_entropy else None)

    def add(self, cut: tuple[list[int], slice], scores: Scores, sums: LossSums) -> None:
        """Take a micro-batch in; `cut` says which rows and columns it holds."""
        self.logprobs[cut] = scores.logprobs.detach()
        if self.entropy is not None and scores.entropy is not None:
            self.entropy[cut] = scores.entropy
        self.sums = sums if self.sums is None else self.sums + sums

    def means(self) -> dict[str, Tensor]:
        """What to log of the loss, see `LossSums.means`; nothing before the first micro-batch."""
        return {} if self.sums is None else self.sums.means()


def group_rows(prompts: Sequence[int], group_size: int, members: tuple[int, int] | None = None) -> list[int]:
    """Rows of the completions of some prompts: of all, or of members `start` to `stop` of each group."""
    return [prompt * group_size + g for prompt in prompts for g in range(*(members or (0, group_size)))]
