"""Group-relative advantages: how much better a completion scored than its siblings of the same prompt.

Source: DeepSeekMath (arXiv 2402.03300, section 4.1), with the unbiased standard deviation and the `eps` of the ERV
paper's setting (arXiv 2510.23506); `normalise_std=False` is Dr. GRPO (arXiv 2503.20783).

Shape legend: B prompts, G completions per prompt; row `b·G + g` is completion g of prompt b.
"""

import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

Normalise = Literal["sum", "per_reward"]
"""What is brought to unit spread in a group: the sum of the rewards, or each reward before they are added."""


def fill_missing(values: Tensor, group_size: int) -> Tensor:
    """A reward with nothing missing: NaN becomes the mean of the group's other completions, 0 where there is none.

    So a completion without this reward is neither better nor worse by it (decision 47).

    Args:
        values: what a reward gave, `[B·G]`.
        group_size: G.
    """
    groups = values.view(-1, group_size)
    missing = groups.isnan()
    means = groups.nanmean(dim=1, keepdim=True)
    # The mean of equal floats can differ from them in the last bit: that would be a spread where there is none.
    least = groups.masked_fill(missing, math.inf).amin(dim=1, keepdim=True)
    most = groups.masked_fill(missing, -math.inf).amax(dim=1, keepdim=True)
    means = torch.minimum(torch.maximum(means, least), most).nan_to_num(0.0)
    return torch.where(missing, means, groups).view(values.shape)


def weighted_sum(rewards: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """Sum of the rewards, each times its weight, float32 `[N]`; both by the rewards' names, at least one."""
    return torch.stack([weights[name] * values for name, values in rewards.items()]).sum(dim=0)


def decoupled_advantages(
    rewards: Mapping[str, Tensor], weights: Mapping[str, float], group_size: int, eps: float = 1e-4
) -> Tensor:
    """Group-relative advantages of each reward alone, added by weight (GDPO, arXiv 2601.05242).

    Two rewards that are added first can cancel: a completion that is right and incoherent then equals one that is wrong
    and coherent. Here each reward keeps its say, whatever its spread. `balanced` gives the sum unit spread again.

    Args:
        rewards: reward name → `[B·G]`.
        weights: reward name → factor.
        group_size: G, completions per prompt, at least 2.
        eps: see `group_advantages`.

    Returns:
        float32 `[B·G]`.
    """
    apart = {name: group_advantages(values, group_size, eps=eps) for name, values in rewards.items()}
    return weighted_sum(apart, weights)


def balanced(advantages: Tensor, sum_of_squares: float, count: float, eps: float = 1e-4) -> Tensor:
    """Advantages over the standard deviation of all of the batch, so that their scale is not that of the weights.

    Args:
        advantages: of `decoupled_advantages`, whose mean is 0 in each group and hence in the batch.
        sum_of_squares: of all the batch's, on whichever processes.
        count: how many these are.
        eps: see `group_advantages`.
    """
    return advantages / (math.sqrt(sum_of_squares / max(count - 1, 1)) + eps)


def group_advantages(rewards: Tensor, group_size: int, normalise_std: bool = True, eps: float = 1e-4) -> Tensor:
    """`A_i = (R_i - mean) / (std + eps)`, mean and unbiased standard deviation taken over each prompt's completions.

    Args:
        rewards: summed reward of each completion, `[B·G]` or `[B, G]`.
        group_size: G, completions per prompt, at least 2.
        normalise_std: divide by `std + eps`; False leaves `R_i - mean`.
        eps: keeps a group of nearly equal rewards from exploding; in units of reward.

    Returns:
        float32 advantages in the shape of `rewards`, exactly 0 in a group whose rewards are all equal (decision 19).

    Raises:
        ValueError: `group_size` below 2, a shape that is not whole groups, or a reward that is NaN or infinite.
    """
    groups = _grouped(rewards, group_size)
    advantages = groups - groups.mean(dim=1, keepdim=True)
    if normalise_std:
        advantages = advantages / (groups.std(dim=1, keepdim=True) + eps)
    # The mean of G equal floats can differ from them in the last bit, which `eps` would magnify 10,000 times.
    advantages = advantages.masked_fill(~_spread(groups)[:, None], 0.0)
    return advantages.view(rewards.shape)


def has_spread(rewards: Tensor, group_size: int) -> Tensor:
    """Groups that teach something: bool `[B]`, False where all rewards of a prompt are equal.

    Args and Raises as in `group_advantages`.
    """
    return _spread(_grouped(rewards, group_size))


def _spread(groups: Tensor) -> Tensor:
    return groups.amax(dim=1) > groups.amin(dim=1)


def _grouped(rewards: Tensor, group_size: int) -> Tensor:
    """Rewards as float32 `[B, G]`, checked."""
    if group_size < 2:
        raise ValueError(
            f"A group of {group_size} completion(s) has no spread to compare within. Sample at least 2 completions per "
            "prompt."
        )
    flat = rewards.ndim == 1 and rewards.numel() % group_size == 0
    paired = rewards.ndim == 2 and rewards.shape[1] == group_size
    if not (flat or paired) or rewards.numel() == 0:
        raise ValueError(
            f"Rewards of shape {tuple(rewards.shape)} are not whole groups of {group_size}. Expected [B·{group_size}] "
            f"or [B, {group_size}] with B >= 1, the completions of a prompt side by side."
        )
    groups = rewards.float().reshape(-1, group_size)
    if not torch.isfinite(groups).all():
        row = int((~torch.isfinite(groups)).flatten().nonzero()[0])
        raise ValueError(
            f"Reward of completion {row} is {groups.flatten()[row].item()}. Every reward must be finite: check the "
            "reward functions."
        )
    return groups
