"""Completions that another engine sampled: importance weights that keep the policy gradient what it is.

An inference server computes in another precision, by other kernels, and its weights may be some steps old: it samples
from a policy μ beside the π that is trained. Each token's policy term is then weighted by min(π/μ, c): truncated
importance sampling (Ionides 2008; for reinforcement learning of language models Yao et al. 2025, "Your efficient RL
framework secretly brings you off-policy RL training"). The KL penalty, which is no expectation over μ's mistakes of the
policy term, is not weighted.

Shape legend: N completions of up to C tokens.
"""

from typing import Literal

import torch
from torch import Tensor

Correction = Literal["none", "token", "sequence"]
"""A weight per token, or one for all tokens of a completion."""


def sampler_weights(
    logprobs: Tensor, sampled_logprobs: Tensor, mask: Tensor, level: Correction, cap: float
) -> Tensor | None:
    """min(exp(logp − logp_sampled), c) of each token, without gradient; None for level "none".

    Args:
        logprobs: under the policy before its first update, `[N, C]`.
        sampled_logprobs: as the sampler reported them, `[N, C]`.
        mask: bool `[N, C]`, True = the token counts.
        level: "token"; or "sequence", the product over a completion's tokens.
        cap: c, at least 1.

    Returns:
        float32 `[N, C]`, 1 where masked out.

    Raises:
        ValueError: a cap below 1.
    """
    if cap < 1:
        raise ValueError(f"The cap of importance weights is {cap}. Expected 1 or more; 2 is usual.")
    if level == "none":
        return None
    log_ratio = (logprobs.detach().float() - sampled_logprobs.float()).masked_fill(~mask, 0.0)
    if level == "sequence":
        log_ratio = log_ratio.sum(dim=1, keepdim=True).expand_as(log_ratio)
    # Before exp, which would overflow for what is cut anyway.
    weights = log_ratio.clamp(max=torch.tensor(cap).log().item()).exp()
    return weights.masked_fill(~mask, 1.0)


class SamplerDriftError(RuntimeError):
    """The sampler's policy is not the one that is trained."""


def check_drift(drift: float, limit: float | None, step: int) -> None:
    """Refuse to learn from completions of another policy.

    Args:
        drift: largest difference of a token's log-probability, in nats, over all processes.
        limit: largest that is borne; None bears any.
        step: of the run, for the message.

    Raises:
        SamplerDriftError: the drift is larger, or not a number.
    """
    if limit is not None and not drift <= limit:
        raise SamplerDriftError(
            f"At step {step} the sampler's log-probabilities differ from the policy's by up to {drift:.3g} nats; "
            f"model.max_sampler_drift allows {limit:g}. Nothing was learned from them. The sampler has other weights "
            "than the policy: they did not arrive, or only in part (a head that is tied to the embeddings is easily "
            "left behind), or it serves another model; or it computes in a coarser precision."
        )
