"""Importance weights of another engine's samples: by hand, and what they do to the gradient's expectation."""

import pytest
import torch

from lightning_modules.rl.correction import SamplerDriftError, check_drift, sampler_weights
from lightning_modules.rl.losses import grpo_loss

pytestmark = pytest.mark.numerics


def test_weights_by_hand() -> None:
    logprobs = torch.tensor([[0.5, 0.25, 0.9]]).log()
    sampled = torch.tensor([[0.4, 0.5, 0.1]]).log()
    mask = torch.tensor([[True, True, False]])
    token = sampler_weights(logprobs, sampled, mask, "token", cap=2.0)
    torch.testing.assert_close(token, torch.tensor([[1.25, 0.5, 1.0]]))
    sequence = sampler_weights(logprobs, sampled, mask, "sequence", cap=2.0)
    torch.testing.assert_close(sequence, torch.tensor([[0.625, 0.625, 1.0]]))
    capped = sampler_weights(logprobs, sampled, ~mask, "token", cap=2.0)
    torch.testing.assert_close(capped, torch.tensor([[1.0, 1.0, 2.0]]))  # 9, cut
    assert sampler_weights(logprobs, sampled, mask, "none", cap=2.0) is None
    huge = sampler_weights(torch.zeros(1, 1), torch.full((1, 1), -1e4), torch.ones(1, 1, dtype=torch.bool), "token", 2)
    assert huge.tolist() == [[2.0]]
    with pytest.raises(ValueError, match="Expected 1 or more"):
        sampler_weights(logprobs, sampled, mask, "token", cap=0.5)


def gradient(logits: torch.Tensor, server: torch.Tensor, gains: torch.Tensor, correct: bool) -> torch.Tensor:
    """The loss' gradient in expectation over a server's draws of one token: every token, as often as it draws it."""
    logits = logits.clone().requires_grad_()
    mask = torch.ones(1, 1, dtype=torch.bool)
    total = torch.zeros(())
    for token, probability in enumerate(server.softmax(dim=0)):
        logprobs = logits.log_softmax(dim=0)[token].view(1, 1)
        sampled = server.log_softmax(dim=0)[token].view(1, 1)
        weights = sampler_weights(logprobs, sampled, mask, "token", cap=100.0) if correct else None
        options = {"reference_logprobs": None, "beta": 0.0, "sampler_weights": weights}
        total = total + probability * grpo_loss(logprobs, None, gains[token].view(1), mask, **options).loss
    return torch.autograd.grad(total, logits)[0]


def test_a_perturbed_servers_draws_have_the_policys_gradient_in_expectation() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, gains = (torch.randn(6, generator=generator, dtype=torch.float64).float() for _ in range(2))
    server = logits + 0.5 * torch.randn(6, generator=generator)
    true = gradient(logits, logits, gains, correct=False)
    torch.testing.assert_close(gradient(logits, server, gains, correct=True), true, rtol=0, atol=1e-6)
    assert (gradient(logits, server, gains, correct=False) - true).abs().max() > 0.02, "without weights it is another"


def test_the_kl_term_is_not_weighted_and_what_the_cap_cut_is_counted() -> None:
    logprobs = torch.tensor([[-1.0, -2.0]], requires_grad=True)
    reference, mask = torch.tensor([[-1.5, -1.0]]), torch.ones(1, 2, dtype=torch.bool)
    given = {"reference_logprobs": reference, "beta": 0.5}
    weights = torch.tensor([[0.5, 2.0]])
    alone = grpo_loss(logprobs, None, torch.zeros(1), mask, **given).loss
    weighted = grpo_loss(logprobs, None, torch.zeros(1), mask, **given, sampler_weights=weights)
    torch.testing.assert_close(weighted.loss, alone)
    means = weighted.sums.means()
    assert (float(means["sampler_weight"]), float(means["sampler_truncated"])) == (1.25, 0.5)


def test_the_guard() -> None:
    check_drift(0.4, 0.5, 3)
    check_drift(9.0, None, 3)
    for drift in (0.6, float("nan")):
        with pytest.raises(SamplerDriftError, match=r"At step 3 .*allows 0\.5\. Nothing was learned"):
            check_drift(drift, 0.5, 3)
