"""Several rewards, and rewards that are missing, against numbers worked out by hand."""

import pytest
import torch

from lightning_modules.rl.advantages import (
    balanced,
    decoupled_advantages,
    fill_missing,
    group_advantages,
    has_spread,
    weighted_sum,
)

pytestmark = pytest.mark.unit

NAN = float("nan")


def test_a_missing_reward_is_neither_better_nor_worse() -> None:
    values = torch.tensor([1.0, NAN, 0.0, NAN, NAN, NAN])
    assert fill_missing(values, 3).tolist() == [1.0, 0.5, 0.0, 0.0, 0.0, 0.0]
    assert group_advantages(fill_missing(values, 3), 3)[1] == 0.0


def test_what_is_missing_gives_a_group_of_equal_rewards_no_spread() -> None:
    # In float32 the mean of seven or more equal values is often another number.
    values = torch.rand(200, 1, generator=torch.Generator().manual_seed(0)).repeat(1, 8)
    values[:, 7] = NAN
    assert not has_spread(fill_missing(values.flatten(), 8), 8).any()


def test_rewards_add_up_by_weight() -> None:
    values = {"format": torch.tensor([1.0, 0.0, 1.0]), "accuracy": torch.tensor([1.0, 1.0, 0.0])}
    assert weighted_sum(values, {"format": 1.0, "accuracy": 0.5}).tolist() == [1.5, 0.5, 1.0]


def test_rewards_apart_by_hand() -> None:
    # Of one group of two: 0, 1 → mean 0.5, std 0.70710678: ∓0.5 / 0.70720678 = ∓0.70700680.
    # 0, 10 → mean 5, std 7.07106781: ∓5 / 7.07116781 = ∓0.70709678. Weights 1 and 2.
    rewards = {"small": torch.tensor([0.0, 1.0]), "large": torch.tensor([10.0, 0.0])}
    advantages = decoupled_advantages(rewards, {"small": 1.0, "large": 2.0}, 2)
    expected = -0.70700680 + 2 * 0.70709678
    torch.testing.assert_close(advantages, torch.tensor([expected, -expected]), rtol=0, atol=1e-6)


def test_rewards_that_cancel_in_the_sum_keep_their_say_apart() -> None:
    # Right and incoherent (1, 0), wrong and coherent (0, 1), and wrong and incoherent (0, 0) twice.
    rewards = {"accuracy": torch.tensor([1.0, 0.0, 0.0, 0.0]), "explanation": torch.tensor([0.0, 0.5, 0.5, 0.0])}
    together = group_advantages(weighted_sum(rewards, dict.fromkeys(rewards, 1.0)), 4)
    apart = decoupled_advantages(rewards, dict.fromkeys(rewards, 1.0), 4)
    assert together[1] == together[2] and apart[1] == apart[2]
    # One accurate of four is rarer than two coherent ones: it is worth more than their rewards' ratio of two.
    assert together[0] / together[1] > apart[0] / apart[1] > 0


def test_the_batch_has_unit_spread_whatever_the_weights() -> None:
    advantages = torch.tensor([3.0, -3.0, 0.0, 0.0])
    # Sum of squares 18 over 3 degrees of freedom: std √6 = 2.44948974.
    scaled = balanced(advantages, float(advantages.square().sum()), 4)
    torch.testing.assert_close(scaled, torch.tensor([1.224695, -1.224695, 0.0, 0.0]), rtol=0, atol=1e-5)
    assert balanced(torch.zeros(2), 0.0, 2).tolist() == [0.0, 0.0]
    assert torch.equal(balanced(torch.zeros(0), 0.0, 0), torch.zeros(0))
