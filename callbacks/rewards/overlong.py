"""Overlong penalty: long completions are punished softly (DAPO, arXiv 2503.14476, soft overlong punishment)."""

from torch import Tensor

from callbacks.rewards.base import Reward, RewardInput, Weight
from lightning_modules.grpo import GRPOModule


class OverlongPenalty(Reward):
    """0 up to `max_new_tokens - buffer_tokens` tokens, then falling linearly to -1 at `max_new_tokens`.

    Args:
        buffer_tokens: length of the fall.
        weight: see `Reward`.
    """

    name = "overlong"

    def __init__(self, buffer_tokens: int, weight: Weight = 1.0) -> None:
        super().__init__(weight)
        self.buffer_tokens = buffer_tokens

    def check(self, module: GRPOModule) -> None:
        max_new_tokens = module.rollout_sampling.max_new_tokens
        if not 1 <= self.buffer_tokens <= max_new_tokens:
            raise ValueError(
                f"An overlong buffer of {self.buffer_tokens} tokens does not fit completions of at most "
                f"{max_new_tokens}. Expected 1 to {max_new_tokens} (max_new_tokens of the rollouts' sampling)."
            )

    def __call__(self, given: RewardInput) -> Tensor:
        lengths = given.mask.sum(dim=1)
        return ((given.max_new_tokens - self.buffer_tokens - lengths) / self.buffer_tokens).clamp(-1.0, 0.0)
