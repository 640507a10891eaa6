"""What completions earn: `GRPOModule` asks, one of the Trainer's callbacks answers.

Shape legend: N completions of up to C tokens.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from lightning import Trainer
from torch import Tensor

from datamodules.emotions import Taxonomy
from datamodules.rationale import Response
from lightning_modules.emotion_verifier import EmotionVerifier, SentenceReading
from lightning_modules.metrics.reliance import Reliance
from lightning_modules.rl.experience import Rollout

if TYPE_CHECKING:
    from lightning_modules.exploring_policy import ExploringPolicyModule


@dataclass(frozen=True)
class RewardInput:
    """What rewards may look at: an entry or a row per completion, N of them. What nothing asked for is empty or None.

    Args:
        responses: the completions, read.
        targets: canonical emotion of each completion's clip.
        readings: what the verifier read in each completion's sentences; None where no reward needs a verifier.
        verifier: the verifier itself, for what else there is to read.
        taxonomy: the classes that targets and answers come from.
        strict: whether the completions were read strictly; see `GRPOModule`.
        ids: of the clips.
        corpora: names of the corpora that they come from.
        media: paths of their files.
        prompts: the texts that the policy was asked with.
        step: rollouts before this one, in this run.
        token_ids: int64 `[N, C]`.
        mask: which tokens are part of the completions, bool `[N, C]`.
        logprobs: as sampling reported them, float32 `[N, C]`, 0 where masked out.
        max_new_tokens: longest completion that the rollout allows.
        reliances: what the reference finds that each completion's sentences rest on; None where no reward asks for it.
    """

    responses: Sequence[Response]
    targets: Sequence[str]
    readings: Sequence[Sequence[SentenceReading]] | None = None
    verifier: EmotionVerifier | None = None
    taxonomy: Taxonomy | None = None
    strict: bool = True
    ids: Sequence[str] = ()
    corpora: Sequence[str] = ()
    media: Sequence[str] = ()
    prompts: Sequence[str] = ()
    step: int = 0
    token_ids: Tensor = field(default_factory=lambda: torch.empty(0, 0, dtype=torch.long))
    mask: Tensor = field(default_factory=lambda: torch.empty(0, 0, dtype=torch.bool))
    logprobs: Tensor = field(default_factory=lambda: torch.empty(0, 0))
    max_new_tokens: int = 0
    reliances: Sequence[Sequence[Reliance]] | None = None

    def __len__(self) -> int:
        return len(self.responses)


def reward_input(
    module: "ExploringPolicyModule",
    rollout: Rollout,
    readings: Sequence[Sequence[SentenceReading]] | None,
    reliances: Sequence[Sequence[Reliance]] | None,
) -> RewardInput:
    """What rewards may look at of a rollout, row `b·G + g` for completion g of clip b."""

    def each(values: Sequence[str]) -> list[str]:
        return [value for value in values for _ in range(rollout.group_size)]

    batch, completions = rollout.batch, rollout.completions
    return RewardInput(
        rollout.responses,
        rollout.targets,
        readings,
        module.verifier,
        module.taxonomy,
        module.strict,
        each(batch.ids),
        each(batch.datasets),
        each(batch.media),
        each(batch.questions),
        module.trainer.global_step // module.num_updates,
        completions.token_ids,
        completions.mask,
        completions.logprobs,
        module.rollout_sampling.max_new_tokens,
        reliances,
    )


@dataclass(frozen=True)
class Rewarded:
    """What completions earned.

    Args:
        values: reward name → what it gave before weighting, float32 `[N]`; NaN where it had nothing to say.
        weights: reward name → its factor in this step.
    """

    values: dict[str, Tensor]
    weights: dict[str, float]


class Rewarder(ABC):
    """Rewards the completions of a rollout."""

    @staticmethod
    def of(trainer: Trainer) -> "Rewarder":
        """The one among a Trainer's callbacks.

        Raises:
            ValueError: there is none.
        """
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, Rewarder):
                return callback
        raise ValueError(
            "Nothing says what completions earn: GRPO needs callbacks.RLCallback among trainer.callbacks, as in "
            "configs/stage/grpo.yaml."
        )

    @property
    @abstractmethod
    def names(self) -> list[str]:
        """Names of the rewards."""

    @property
    @abstractmethod
    def needs_verifier(self) -> bool:
        """Whether `reward` needs the verifier's readings."""

    @property
    @abstractmethod
    def num_others(self) -> int:
        """Other clips that each clip's sentences are held against, for `reward` to see what they rest on; 0: none."""

    @abstractmethod
    def reward(self, given: RewardInput) -> Rewarded:
        """What each completion earns, on the CPU or any device."""
