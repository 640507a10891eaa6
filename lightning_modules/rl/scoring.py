"""From what completions earned to how they compare: rewards → total → advantages."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from lightning_modules.emotion_verifier import SentenceReading
from lightning_modules.metrics.reliance import Reliance
from lightning_modules.processes import sum_over_processes
from lightning_modules.rl.advantages import (
    Normalise,
    balanced,
    decoupled_advantages,
    fill_missing,
    group_advantages,
    has_spread,
    weighted_sum,
)
from lightning_modules.rl.experience import Experience, Rollout
from lightning_modules.rl.rewarder import Rewarded


def scored(
    rollout: Rollout,
    rewarded: Rewarded,
    readings: Sequence[Sequence[SentenceReading]] | None,
    reliances: Sequence[Sequence[Reliance]] | None,
    normalise: Normalise,
    normalise_std: bool,
) -> Experience:
    """A rollout with its rewards, their weighted sum, and how each completion compares with its group.

    Args:
        rollout: the completions.
        rewarded: what they earned.
        readings: see `Experience`, as for `reliances`.
        reliances: what sentences rest on.
        normalise: see `GRPOModule`, as is `normalise_std`.
        normalise_std: divide advantages by the group's standard deviation.
    """
    size, device = rollout.group_size, rollout.completions.logprobs.device
    rewards = {name: fill_missing(values.to(device), size) for name, values in rewarded.values.items()}
    total = weighted_sum(rewards, rewarded.weights)
    if normalise == "sum":
        advantages = group_advantages(total, size, normalise_std)
    else:
        advantages = decoupled_advantages(rewards, rewarded.weights, size)
    return Experience(rollout, rewards, total, advantages, has_spread(advantages, size), readings, reliances)


def balance_over_processes(experience: Experience | None, device: torch.device) -> Experience | None:
    """Advantages of unit spread over the completions of all processes, which all take part; see `balanced`."""
    own = (0.0, 0) if experience is None else (experience.advantages.square().sum(), len(experience.advantages))
    squares, count = sum_over_processes(*own, device=device)
    if experience is None:
        return None
    return replace(experience, advantages=balanced(experience.advantages, squares, count))
