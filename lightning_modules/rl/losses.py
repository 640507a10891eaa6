"""The GRPO loss and its relatives: one function, the variants are its parameters.

    loss = mean_i [ Σ_t mask_it · (−min(ρ_it A_i, clip(ρ_it, 1−ε_low, 1+ε_high) A_i) + β k3_it) / Σ_t mask_it ]

    ρ_it = exp(logp_it − logp_old_it),    k3_it = exp(logp_ref_it − logp_it) − (logp_ref_it − logp_it) − 1

| method | source | parameters |
|---|---|---|
| GRPO (the ERV paper, arXiv 2510.23506) | arXiv 2402.03300 | the defaults |
| DAPO | arXiv 2503.14476 | `denominator="token"`, `epsilon_high=0.28`, `beta=0` |
| Dr. GRPO | arXiv 2503.20783 | `denominator="constant"`, `constant_tokens=max_new_tokens`, `beta=0` |
| GSPO | arXiv 2507.18071 | `importance="sequence"`, `epsilon_low=3e-4`, `epsilon_high=4e-4`, `beta=0` |

Completions of another sampler have their policy term weighted token by token (`correction.py`); the KL term is not.

Every token has a weight that depends only on its row and on the totals of the whole batch. So the losses of
micro-batches sum, in value and in gradient, to the loss of the whole batch, once each call is given those totals.

Shape legend: N completions (B·G, or the rows of a micro-batch), C completion tokens.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Denominator = Literal["sequence", "token", "constant"]
Importance = Literal["token", "sequence"]


@dataclass(frozen=True)
class LossSums:
    """Detached sums for logging; add those of the micro-batches, then ask for `means()`.

    Args:
        loss: the loss that is minimised, with its own denominator.
        policy_loss: the clipped policy term's share of it.
        kl: Σ k3 over the tokens; 0 without reference log-probabilities.
        ratio: Σ ρ over the tokens.
        clipped: number of tokens whose policy gradient the clip removed.
        tokens: number of unmasked tokens.
        sampler_weight: Σ of the sampler's importance weights over the tokens; as many as tokens without them.
        truncated: number of tokens whose importance weight the cap cut.
    """

    loss: Tensor
    policy_loss: Tensor
    kl: Tensor
    ratio: Tensor
    clipped: Tensor
    tokens: Tensor
    sampler_weight: Tensor
    truncated: Tensor

    def __add__(self, other: "LossSums") -> "LossSums":
        return LossSums(
            self.loss + other.loss,
            self.policy_loss + other.policy_loss,
            self.kl + other.kl,
            self.ratio + other.ratio,
            self.clipped + other.clipped,
            self.tokens + other.tokens,
            self.sampler_weight + other.sampler_weight,
            self.truncated + other.truncated,
        )

    def means(self) -> dict[str, Tensor]:
        """The two losses, and means over all tokens (0 when all are masked): `kl`, `ratio`, `clip_fraction` and, of the
        sampler's importance weights, `sampler_weight` and `sampler_truncated`.
        """
        tokens = self.tokens.clamp(min=1)
        return {
            "loss": self.loss,
            "policy_loss": self.policy_loss,
            "kl": self.kl / tokens,
            "ratio": self.ratio / tokens,
            "clip_fraction": self.clipped / tokens,
            "sampler_weight": self.sampler_weight / tokens,
            "sampler_truncated": self.truncated / tokens,
        }


@dataclass(frozen=True)
class GRPOLoss:
    """What `grpo_loss` returns: `loss`, a float32 scalar with its graph, and detached `sums` for logging."""

    loss: Tensor
    sums: LossSums


def grpo_loss(
    logprobs: Tensor,
    old_logprobs: Tensor | None,
    advantages: Tensor,
    mask: Tensor,
    *,
    reference_logprobs: Tensor | None = None,
    beta: float = 0.04,
    epsilon_low: float = 0.2,
    epsilon_high: float = 0.2,
    denominator: Denominator = "sequence",
    constant_tokens: int | None = None,
    importance: Importance = "token",
    num_completions_total: int | None = None,
    num_tokens_total: int | None = None,
    sampler_weights: Tensor | None = None,
    sampler_cap: float = 2.0,
) -> GRPOLoss:
    """Clipped policy loss with a KL penalty to the reference policy; formula and variants at the top of this file.

    Args:
        logprobs: log-probabilities under the policy being trained, `[N, C]`; carries the gradient.
        old_logprobs: the same under the policy that sampled, `[N, C]`; None: the policy itself, so that ρ = 1 in value.
        advantages: `[N]`.
        mask: bool `[N, C]`, True = the token counts. A row without a True adds 0 but still counts as a completion.
        reference_logprobs: the same under the frozen reference, `[N, C]`; needed unless `beta` is 0.
        beta: weight of the KL penalty, >= 0.
        epsilon_low: ρ is clipped below at 1 − `epsilon_low`.
        epsilon_high: ρ is clipped above at 1 + `epsilon_high`.
        denominator: "sequence": mean over completions of the mean over their tokens; "token": mean over all tokens of
            the batch; "constant": sum over `num_completions_total · constant_tokens`.
        constant_tokens: tokens per completion that the "constant" denominator assumes, e.g. `max_new_tokens`.
        importance: "token": one ρ per token; "sequence": ρ_i = exp(mean_t(logp − logp_old)) for all tokens of a row.
        num_completions_total: completions of the whole batch when this call holds a micro-batch; None: N.
        num_tokens_total: unmasked tokens of the whole batch, for "token"; None: those of `mask`.
        sampler_weights: of `correction.sampler_weights`, `[N, C]`; None: all 1.
        sampler_cap: their cap, to count those that it cut.

    Raises:
        ValueError: shapes that do not fit, a mask that is not bool, or a parameter missing or out of range.
    """
    _check(logprobs, old_logprobs, advantages, mask, reference_logprobs)
    if beta < 0 or (beta > 0 and reference_logprobs is None):
        raise ValueError(f"beta is {beta}: expected 0, or more with `reference_logprobs` given.")
    if epsilon_low < 0 or epsilon_high < 0:
        raise ValueError(f"epsilon_low is {epsilon_low} and epsilon_high {epsilon_high}: expected both >= 0.")
    weights = _token_weights(mask, denominator, constant_tokens, num_completions_total, num_tokens_total)
    logprobs = logprobs.float()
    old = logprobs.detach() if old_logprobs is None else old_logprobs
    ratio = _ratio(logprobs, old, mask, importance)
    gain = advantages.detach().float()[:, None]
    clipped_ratio = ratio.clamp(1 - epsilon_low, 1 + epsilon_high)
    # min() is pessimistic: clipping may take a gain away, never a penalty.
    corrected = weights if sampler_weights is None else weights * sampler_weights
    policy_loss = -(corrected * torch.minimum(ratio * gain, clipped_ratio * gain)).sum()
    if reference_logprobs is None:
        kl = torch.zeros_like(logprobs)
    else:
        kl = k3(logprobs, reference_logprobs, mask)
    loss = policy_loss + beta * (weights * kl).sum() if beta else policy_loss
    with torch.no_grad():
        sums = LossSums(
            loss=loss.detach(),
            policy_loss=policy_loss.detach(),
            kl=kl.sum(),
            ratio=(ratio * mask).sum(),
            clipped=((clipped_ratio * gain < ratio * gain) & mask).sum(),
            tokens=mask.sum(),
            sampler_weight=mask.sum() if sampler_weights is None else (sampler_weights * mask).sum(),
            truncated=_truncated(sampler_weights, sampler_cap, mask),
        )
    return GRPOLoss(loss, sums)


def _truncated(sampler_weights: Tensor | None, cap: float, mask: Tensor) -> Tensor:
    if sampler_weights is None:
        return torch.zeros_like(mask.sum())
    # Rounded down by exp(log c), a weight at the cap may be just below it.
    return ((sampler_weights > cap * (1 - 1e-6)) & mask).sum()


def k3(logprobs: Tensor, reference_logprobs: Tensor, mask: Tensor) -> Tensor:
    """Schulman's k3 estimate of KL(policy ‖ reference) per token, float32 `[N, C]`, >= 0, and 0 where masked out."""
    log_ratio = _masked_difference(reference_logprobs.detach(), logprobs, mask)
    # expm1 keeps the digits of the small differences that a penalised policy has.
    return torch.expm1(log_ratio) - log_ratio


def _ratio(logprobs: Tensor, old_logprobs: Tensor, mask: Tensor, importance: Importance) -> Tensor:
    """ρ, float32 `[N, C]`, or `[N, 1]` broadcast to `[N, C]` when it is one per sequence; 1 where nothing counts."""
    log_ratio = _masked_difference(logprobs, old_logprobs.detach(), mask)
    if importance == "token":
        return log_ratio.exp()
    if importance == "sequence":
        return (log_ratio.sum(dim=1, keepdim=True) / _lengths(mask)).exp().expand_as(log_ratio)
    raise ValueError(f"Unknown importance {importance!r}. Expected 'token' or 'sequence'.")


def _masked_difference(a: Tensor, b: Tensor, mask: Tensor) -> Tensor:
    """a − b in float32, 0 where masked out: padding must not overflow in exp, as inf · 0 is NaN."""
    return (a.float() - b.float()).masked_fill(~mask, 0.0)


def _lengths(mask: Tensor) -> Tensor:
    """Tokens per row `[N, 1]`, at least 1: a row without tokens has a zero numerator, never 0 / 0."""
    return mask.sum(dim=1, keepdim=True).clamp(min=1)


def _token_weights(
    mask: Tensor,
    denominator: Denominator,
    constant_tokens: int | None,
    num_completions_total: int | None,
    num_tokens_total: int | None,
) -> Tensor:
    """Weight of each token in the loss, float32 `[N, C]`, 0 where masked out."""
    completions = max(mask.shape[0] if num_completions_total is None else num_completions_total, 1)
    if denominator == "sequence":
        return mask.float() / (_lengths(mask) * completions)
    if denominator == "token":
        tokens = mask.sum() if num_tokens_total is None else torch.tensor(num_tokens_total, device=mask.device)
        return mask.float() / tokens.clamp(min=1)
    if denominator == "constant":
        if constant_tokens is None or constant_tokens < 1:
            raise ValueError(
                f"denominator='constant' needs constant_tokens >= 1, got {constant_tokens}. Use max_new_tokens."
            )
        return mask.float() / (completions * constant_tokens)
    raise ValueError(f"Unknown denominator {denominator!r}. Expected 'sequence', 'token' or 'constant'.")


def _check(
    logprobs: Tensor, old_logprobs: Tensor | None, advantages: Tensor, mask: Tensor, reference_logprobs: Tensor | None
) -> None:
    if logprobs.ndim != 2:
        raise ValueError(f"logprobs has shape {tuple(logprobs.shape)}, expected [completions, tokens].")
    for name, tensor in (("old_logprobs", old_logprobs), ("mask", mask), ("reference_logprobs", reference_logprobs)):
        if tensor is not None and tensor.shape != logprobs.shape:
            raise ValueError(
                f"{name} has shape {tuple(tensor.shape)}, expected that of logprobs, {tuple(logprobs.shape)}."
            )
    if advantages.shape != logprobs.shape[:1]:
        raise ValueError(
            f"advantages has shape {tuple(advantages.shape)}, expected one per completion, ({logprobs.shape[0]},)."
        )
    if mask.dtype != torch.bool:
        raise ValueError(f"mask has dtype {mask.dtype}, expected torch.bool (True = the token counts).")
