"""The GRPO loss, its KL penalty and its variants against numbers worked out by hand.

The example: two completions of 3 and 1 tokens with advantages 1 and −2.

    ρ            = 1.5, 1, 0.5 | 0.5          ε = 0.2: ρ clipped to [0.8, 1.2]
    row 0 (A=1)  : min(1.5, 1.2) = 1.2; min(1, 1) = 1; min(0.5, 0.8) = 0.5      → −1.2, −1, −0.5   Σ = −2.7
    row 1 (A=−2) : min(0.5·−2, 0.8·−2) = min(−1, −1.6) = −1.6                   → +1.6             Σ =  1.6
    ref / policy = 2, 1/2, 1 | 4
    k3 = r − ln r − 1 : 2 − 0.6931472 − 1 = 0.3068528; 0.5 + 0.6931472 − 1 = 0.1931472; 0   Σ = 0.5
                        4 − 1.3862944 − 1 = 1.6137056                                       Σ = 1.6137056
"""

import math

import pytest
import torch
from torch import Tensor

from lightning_modules.rl.losses import GRPOLoss, grpo_loss, k3

pytestmark = pytest.mark.unit

BETA = 0.1
PAD = 1e4
"""Stands in the padding: any use of it overflows exp and shows as inf or NaN."""

MASK = torch.tensor([[True, True, True], [True, False, False]])
ADVANTAGES = torch.tensor([1.0, -2.0])
OLD = torch.tensor([[-1.0, -2.0, -3.0], [-0.5, -PAD, -PAD]])


def _policy(ratios: tuple[tuple[float, ...], ...] = ((1.5, 1.0, 0.5), (0.5, 1.0, 1.0))) -> Tensor:
    """Log-probabilities whose ratio to `OLD` is given, as a leaf; the padding disagrees with `OLD` by 2·PAD."""
    return torch.where(MASK, OLD + torch.tensor(ratios).log(), PAD).requires_grad_()


def _reference(logprobs: Tensor) -> Tensor:
    return logprobs.detach() + torch.tensor([[2.0, 0.5, 1.0], [4.0, 1.0, 1.0]]).log()


def _example(**parameters) -> tuple[GRPOLoss, Tensor]:
    logprobs = _policy()
    result = grpo_loss(logprobs, OLD, ADVANTAGES, MASK, reference_logprobs=_reference(logprobs), **parameters)
    result.loss.backward()
    return result, logprobs.grad


@pytest.mark.parametrize(
    ("denominator", "policy_loss", "loss"),
    [
        # Row means −0.9 and 1.6; of k3 0.1666667 and 1.6137056. 0.35 + 0.1 · 0.8901861.
        ("sequence", 0.35, 0.43901861),
        # (−2.7 + 1.6) / 4; k3 2.1137056 / 4 = 0.5284264. −0.275 + 0.1 · 0.5284264.
        ("token", -0.275, -0.22215736),
        # (−2.7 + 1.6) / (2 · 4); k3 2.1137056 / 8 = 0.2642132. −0.1375 + 0.1 · 0.2642132.
        ("constant", -0.1375, -0.11107868),
    ],
)
def test_loss_of_each_denominator(denominator, policy_loss, loss):
    result, _ = _example(beta=BETA, denominator=denominator, constant_tokens=4)
    assert result.sums.policy_loss.item() == pytest.approx(policy_loss, abs=1e-6)
    assert result.loss.item() == pytest.approx(loss, abs=1e-6)


@pytest.mark.parametrize(
    ("denominator", "weights"),
    [
        ("sequence", [[1 / 6, 1 / 6, 1 / 6], [1 / 2, 0, 0]]),
        ("token", [[1 / 4, 1 / 4, 1 / 4], [1 / 4, 0, 0]]),
        ("constant", [[1 / 8, 1 / 8, 1 / 8], [1 / 8, 0, 0]]),
    ],
)
def test_gradient_of_each_denominator(denominator, weights):
    _, gradient = _example(beta=BETA, denominator=denominator, constant_tokens=4)
    # d(−ρA) = −ρA where the clip is not active, else 0: 0, −1, −0.5 | 0.
    # d k3 = 1 − ref/policy: −1, 0.5, 0 | −3.
    per_token = torch.tensor([[0 - 0.1, -1 + 0.05, -0.5], [0 - 0.3, 0, 0]])
    torch.testing.assert_close(gradient, per_token * torch.tensor(weights), rtol=0, atol=1e-6)


def test_logged_sums():
    result, _ = _example(beta=BETA)
    means = result.sums.means()
    # Clipped: the first token of each row, 2 of 4. ρ: (1.5 + 1 + 0.5 + 0.5) / 4. k3: 2.1137056 / 4.
    assert means["clip_fraction"].item() == pytest.approx(0.5)
    assert means["ratio"].item() == pytest.approx(0.875, abs=1e-6)
    assert means["kl"].item() == pytest.approx(0.5284264, abs=1e-6)
    assert not any(value.requires_grad for value in means.values())


def test_sequence_ratio_is_the_geometric_mean():
    # Row 0: (1.5 · 1 · 0.5)^(1/3) = 0.9085603, not clipped; row 1: 0.5 → 1.6 as before. (−0.9085603 + 1.6) / 2.
    result, gradient = _example(beta=0, importance="sequence")
    assert result.loss.item() == pytest.approx(0.34571986, abs=1e-6)
    # d s / d logp_t = s / 3 for each of row 0's tokens: −0.9085603 / 3 / 2. Row 1 is clipped.
    expected = torch.tensor([[-0.15142672] * 3, [0.0] * 3])
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-6)


def test_the_two_clips_are_independent():
    # Row 0: min(1.5, 1.4) = 1.4, 1, 0.5 → −2.9 / 3. Row 1: min(0.5·−2, 0.9·−2) = −1.8 → 1.8. (−0.9666667 + 1.8) / 2.
    result, _ = _example(beta=0, epsilon_low=0.1, epsilon_high=0.4)
    assert result.loss.item() == pytest.approx(0.41666667, abs=1e-6)
    # Row 0: min(1.5, 1.1) = 1.1, 1, 0.5 → −2.6 / 3. Row 1: min(0.5·−2, 0.6·−2) = −1.2 → 1.2. (−0.8666667 + 1.2) / 2.
    result, _ = _example(beta=0, epsilon_low=0.4, epsilon_high=0.1)
    assert result.loss.item() == pytest.approx(0.16666667, abs=1e-6)


def test_the_clip_never_hides_a_mistake():
    # A likelier bad token (ρ = 1.5, A = −1) and a rarer good one (ρ = 0.5, A = 1) keep their gradient: −ρA.
    old = torch.zeros(2, 1)
    logprobs = torch.tensor([[1.5], [0.5]]).log().requires_grad_()
    result = grpo_loss(logprobs, old, torch.tensor([-1.0, 1.0]), torch.ones(2, 1, dtype=torch.bool), beta=0)
    result.loss.backward()
    assert result.sums.clipped == 0
    torch.testing.assert_close(logprobs.grad, torch.tensor([[0.75], [-0.25]]))


@pytest.mark.parametrize("importance", ["token", "sequence"])
def test_without_old_logprobs_the_ratio_is_one_and_descent_follows_the_advantage(importance):
    logprobs = _policy()
    result = grpo_loss(logprobs, None, ADVANTAGES, MASK, beta=0, importance=importance)
    result.loss.backward()
    # Value: mean of −A_i = (−1 + 2) / 2. Gradient: −A_i over the row's tokens and the 2 rows.
    assert result.loss.item() == pytest.approx(0.5)
    assert result.sums.means()["ratio"].item() == 1.0
    torch.testing.assert_close(logprobs.grad, torch.tensor([[-1 / 6, -1 / 6, -1 / 6], [1.0, 0.0, 0.0]]))


def test_k3_is_zero_at_the_reference_and_exact_near_it():
    logprobs = torch.tensor([[-2.0, -2.0]])
    mask = torch.ones(1, 2, dtype=torch.bool)
    assert torch.equal(k3(logprobs, logprobs.clone(), mask), torch.zeros(1, 2))
    # x = 2^-12: x²/2 + x³/6 = 2.98e-8, less than float32 resolves at 1: exp(x) − 1 − x would give 0 or 1.19e-7.
    near = k3(logprobs, logprobs + 2**-12, mask)
    expected = math.expm1(2**-12) - 2**-12
    torch.testing.assert_close(near, torch.full((1, 2), expected), rtol=1e-3, atol=0)


def test_beta_zero_measures_the_kl_without_its_gradient():
    with_reference, gradient = _example(beta=0)
    logprobs = _policy()
    without = grpo_loss(logprobs, OLD, ADVANTAGES, MASK, beta=0)
    without.loss.backward()
    assert torch.equal(with_reference.loss, without.loss)
    assert torch.equal(gradient, logprobs.grad)
    assert with_reference.sums.kl.item() == pytest.approx(2.1137056, abs=1e-6)
    assert without.sums.kl.item() == 0.0


@pytest.mark.parametrize("importance", ["token", "sequence"])
@pytest.mark.parametrize("denominator", ["sequence", "token", "constant"])
def test_a_row_without_tokens_adds_nothing(denominator, importance):
    parameters = {"beta": BETA, "denominator": denominator, "constant_tokens": 4, "importance": importance}
    logprobs = _policy()
    mask = MASK & torch.tensor([[True], [False]])
    reference = _reference(logprobs)
    result = grpo_loss(logprobs, OLD, ADVANTAGES, mask, reference_logprobs=reference, **parameters)
    result.loss.backward()
    # The empty row stays a completion: row 0 alone, with both rows in the denominators.
    row = slice(0, 1)
    alone = grpo_loss(
        logprobs.detach()[row],
        OLD[row],
        ADVANTAGES[row],
        mask[row],
        reference_logprobs=reference[row],
        num_completions_total=2,
        **parameters,
    )
    torch.testing.assert_close(result.loss.detach(), alone.loss)
    assert torch.equal(logprobs.grad[1], torch.zeros(3))

    nothing = grpo_loss(logprobs, OLD, ADVANTAGES, torch.zeros_like(MASK), reference_logprobs=reference, **parameters)
    assert nothing.loss.item() == 0.0
    assert all(value.item() == 0.0 for value in nothing.sums.means().values())


@pytest.mark.numerics
@pytest.mark.parametrize("importance", ["token", "sequence"])
@pytest.mark.parametrize("denominator", ["sequence", "token", "constant"])
def test_micro_batches_sum_to_the_whole_batch(denominator, importance):
    generator = torch.Generator().manual_seed(0)
    lengths = torch.tensor([11, 3, 1, 0, 7, 5, 2])
    mask = torch.arange(11) < lengths[:, None]
    old = -3 * torch.rand(7, 11, generator=generator)
    reference = old + 0.3 * torch.randn(7, 11, generator=generator)
    start = old + 0.3 * torch.randn(7, 11, generator=generator)
    advantages = torch.randn(7, generator=generator)
    parameters = {"beta": BETA, "denominator": denominator, "constant_tokens": 16, "importance": importance}

    whole = start.clone().requires_grad_()
    full = grpo_loss(whole, old, advantages, mask, reference_logprobs=reference, **parameters)
    full.loss.backward()

    parts = start.clone().requires_grad_()
    losses, sums = [], None
    for rows in (slice(0, 1), slice(1, 5), slice(5, 7)):
        width = int(lengths[rows].max())
        part = grpo_loss(
            parts[rows, :width],
            old[rows, :width],
            advantages[rows],
            mask[rows, :width],
            reference_logprobs=reference[rows, :width],
            num_completions_total=7,
            num_tokens_total=int(lengths.sum()),
            **parameters,
        )
        part.loss.backward()
        losses.append(part.loss.detach())
        sums = part.sums if sums is None else sums + part.sums

    torch.testing.assert_close(sum(losses), full.loss.detach(), rtol=0, atol=1e-6)
    torch.testing.assert_close(parts.grad, whole.grad, rtol=0, atol=1e-6)
    for name, value in full.sums.means().items():
        torch.testing.assert_close(sums.means()[name], value, rtol=0, atol=1e-6, msg=name)
    assert 0 < full.sums.clipped < full.sums.tokens == 29


def test_half_precision_logprobs_are_computed_in_float32():
    logprobs = _policy().detach().bfloat16()
    result = grpo_loss(logprobs, OLD.bfloat16(), ADVANTAGES.bfloat16(), MASK, beta=0)
    assert result.loss.dtype == torch.float32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"logprobs": torch.zeros(6)}, r"logprobs has shape \(6,\), expected \[completions, tokens\]"),
        ({"old_logprobs": torch.zeros(2, 4)}, r"old_logprobs has shape \(2, 4\), .* \(2, 3\)"),
        ({"mask": torch.ones(2, 1, dtype=torch.bool)}, r"mask has shape \(2, 1\)"),
        ({"reference_logprobs": torch.zeros(1, 3)}, r"reference_logprobs has shape \(1, 3\)"),
        ({"advantages": torch.zeros(2, 3)}, r"advantages has shape \(2, 3\), .* \(2,\)"),
        ({"mask": torch.ones(2, 3)}, "mask has dtype torch.float32, expected torch.bool"),
        ({"reference_logprobs": None}, "beta is 0.1: expected 0, or more with `reference_logprobs`"),
        ({"beta": -0.1}, "beta is -0.1"),
        ({"epsilon_low": -0.2}, "epsilon_low is -0.2"),
        ({"denominator": "constant"}, "needs constant_tokens >= 1, got None"),
        ({"denominator": "mean"}, "Unknown denominator 'mean'"),
        ({"importance": "row"}, "Unknown importance 'row'"),
    ],
)
def test_bad_arguments_are_named(change, message):
    logprobs = _policy()
    arguments = {
        "logprobs": logprobs,
        "old_logprobs": OLD,
        "advantages": ADVANTAGES,
        "mask": MASK,
        "reference_logprobs": _reference(logprobs),
        "beta": BETA,
    }
    with pytest.raises(ValueError, match=message):
        grpo_loss(**(arguments | change))
