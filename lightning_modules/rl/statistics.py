"""What TensorBoard shows of completions and of the policy that scores them."""

from collections.abc import Mapping

from torch import Tensor

from lightning_modules.backbones.interface import Completions
from lightning_modules.processes import How, Tally
from lightning_modules.rl.experience import Experience

_JOINED: dict[str, How] = {
    "loss": "sum",  # each process' share, whose denominators are those of all
    "policy_loss": "sum",
    "completion_tokens_min": "least",
    "completion_tokens_max": "most",
    "sampler_drift": "most",
    "tokens_per_second": "sum",
}
"""How the values of several processes make one, where that is not as usual."""


def note(
    tally: Tally, prefix: str, values: Mapping[str, Tensor | float], weight: Tensor | float = 1.0, usual: How = "mean"
) -> None:
    """Note values as `prefix/name`; those of several processes are joined as is usual, or as their name says."""
    for name, value in values.items():
        tally.add(f"{prefix}/{name}", value, _JOINED.get(name, usual), weight)


def reward_statistics(experience: Experience, group_size: int) -> dict[str, Tensor]:
    """Mean of each reward and of their sum, the sum's spread within groups, and the share of groups without any."""
    return {
        **{name: rewards.mean() for name, rewards in experience.rewards.items()},
        "total": experience.total.mean(),
        "std_within_group": experience.total.view(-1, group_size).std(dim=1).mean(),
        "groups_without_spread": (~experience.spread).float().mean(),
    }


def completion_statistics(completions: Completions) -> dict[str, Tensor]:
    """Mean, least and largest number of tokens, and the share that `max_new_tokens` cut short."""
    lengths = completions.lengths.float()
    return {
        "completion_tokens": lengths.mean(),
        "completion_tokens_min": lengths.amin(),
        "completion_tokens_max": lengths.amax(),
        "truncated": (~completions.finished).float().mean(),
    }


def policy_statistics(completions: Completions, logprobs: Tensor, entropy: Tensor | None) -> dict[str, Tensor]:
    """How far scoring is from what sampling reported, and how undecided the policy is.

    Args:
        completions: N completions of up to C tokens, with the log-probabilities that sampling reported.
        logprobs: the same as the policy computes them before it is updated, `[N, C]`, 0 where masked out.
        entropy: entropies in nats, `[N, C]`, 0 where masked out; None leaves it out.

    Returns:
        `sampler_drift` and `sampler_drift_mean`, the largest and the mean difference in log-probability, and `entropy`;
        means over all tokens.
    """
    tokens = completions.mask.sum().clamp(min=1)
    drift = (logprobs - completions.logprobs).abs()
    values = {"sampler_drift": drift.amax(), "sampler_drift_mean": drift.sum() / tokens}
    return values if entropy is None else {**values, "entropy": entropy.sum() / tokens}
