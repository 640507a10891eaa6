"""The RL callback: which rewards a run has, and what they make of the completions that `GRPOModule` asks about."""

from collections.abc import Sequence

from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from callbacks.rewards.base import Reward, sum_rewards
from lightning_modules.emotion_verifier import SentenceReading
from lightning_modules.grpo import GRPOModule
from lightning_modules.rl.experience import Rollout
from lightning_modules.rl.rewarder import Rewarder

OVERLONG = "overlong"
"""Name of the penalty among the rewards."""


class RLCallback(Callback, Rewarder):
    """The rewards of a batch's completions, and their weighted sum, from which the step takes its advantages.

    Args:
        rewards: the rewards to add, each times its weight. Format + accuracy is R1-Omni's reward; with the explanation
            reward it is the ERV paper's.
        overlong_buffer_tokens: punish long completions, as a reward named `overlong` (DAPO, arXiv 2503.14476): 0 up to
            this many tokens before `max_new_tokens`, then falling linearly to -1 there. None: no punishment.
        overlong_weight: factor of that penalty in the sum of the rewards.

    Raises:
        ValueError: no rewards, or two of one name.
    """

    def __init__(
        self, rewards: list[Reward], overlong_buffer_tokens: int | None = None, overlong_weight: float = 1.0
    ) -> None:
        self.rewards = rewards
        self.overlong_buffer_tokens = overlong_buffer_tokens
        self.overlong_weight = overlong_weight
        if not rewards or len(set(self.names)) < len(self.names):
            raise ValueError(f"RLCallback needs rewards of different names, got {self.names}.")

    @property
    def names(self) -> list[str]:
        return [reward.name for reward in self.rewards] + ([] if self.overlong_buffer_tokens is None else [OVERLONG])

    @property
    def needs_verifier(self) -> bool:
        return any(reward.needs_verifier for reward in self.rewards)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if not isinstance(pl_module, GRPOModule):
            raise ValueError(f"RLCallback works with GRPOModule, got {type(pl_module).__name__}.")
        if self.needs_verifier and pl_module.verifier is None:
            raise ValueError("The explanation reward needs a verifier: set model.verifier to a directory or hub id.")
        if self.overlong_buffer_tokens is not None:
            check_buffer(pl_module.rollout_sampling.max_new_tokens, self.overlong_buffer_tokens)

    def reward(
        self, rollout: Rollout, readings: Sequence[Sequence[SentenceReading]] | None, max_new_tokens: int
    ) -> tuple[dict[str, Tensor], Tensor]:
        device = rollout.completions.logprobs.device
        rewards = {
            reward.name: reward(rollout.responses, rollout.targets, readings).to(device) for reward in self.rewards
        }
        total = sum_rewards(self.rewards, rewards)
        if self.overlong_buffer_tokens is not None:
            lengths = rollout.completions.lengths
            rewards[OVERLONG] = overlong_penalty(lengths, max_new_tokens, self.overlong_buffer_tokens)
            total = total + self.overlong_weight * rewards[OVERLONG]
        return rewards, total


def check_buffer(max_new_tokens: int, buffer_tokens: int) -> None:
    """Refuse a buffer that does not fit into a completion.

    Raises:
        ValueError: fewer than one token, or more than `max_new_tokens`.
    """
    if not 1 <= buffer_tokens <= max_new_tokens:
        raise ValueError(
            f"An overlong buffer of {buffer_tokens} tokens does not fit completions of at most {max_new_tokens}. "
            f"Expected 1 to {max_new_tokens} (max_new_tokens of the rollouts' sampling)."
        )


def overlong_penalty(lengths: Tensor, max_new_tokens: int, buffer_tokens: int) -> Tensor:
    """0 up to `max_new_tokens - buffer_tokens` tokens, then falling linearly to -1 at `max_new_tokens`.

    Args:
        lengths: tokens per completion, the end-of-sequence token included, int64 `[N]`.
        max_new_tokens: longest completion that is sampled.
        buffer_tokens: length of the fall.

    Returns:
        float32 `[N]`, in [-1, 0].

    Raises:
        ValueError: see `check_buffer`.
    """
    check_buffer(max_new_tokens, buffer_tokens)
    return ((max_new_tokens - buffer_tokens - lengths) / buffer_tokens).clamp(-1.0, 0.0)
