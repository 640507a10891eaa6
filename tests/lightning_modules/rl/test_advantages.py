"""Group-relative advantages against numbers worked out by hand."""

import pytest
import torch

from lightning_modules.rl.advantages import group_advantages, has_spread

pytestmark = pytest.mark.unit


def test_a_group_by_hand():
    # 1, 2, 3: mean 2, unbiased variance (1 + 0 + 1) / 2 = 1; ±1 / (1 + 0.0001) = ±0.99990001 (biased: ±1.2246).
    advantages = group_advantages(torch.tensor([1.0, 2.0, 3.0]), group_size=3)
    torch.testing.assert_close(advantages, torch.tensor([-0.99990001, 0.0, 0.99990001]), rtol=0, atol=1e-7)


def test_each_prompt_is_compared_with_its_own_completions():
    # Row 0: 0, 1: mean 0.5, std sqrt(0.25 + 0.25) = 0.70710678; 0.5 / 0.70720678 = 0.70700680.
    # Row 1: 2, 6: mean 4, std sqrt(4 + 4) = 2.82842712; 2 / 2.82852712 = 0.70708178.
    rewards = torch.tensor([[0.0, 1.0], [2.0, 6.0]])
    expected = torch.tensor([[-0.70700680, 0.70700680], [-0.70708178, 0.70708178]])
    torch.testing.assert_close(group_advantages(rewards, group_size=2), expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(group_advantages(rewards.flatten(), group_size=2), expected.flatten(), rtol=0, atol=1e-6)


def test_without_std_normalisation_the_distance_to_the_mean_remains():
    # Mean of 0, 1, 2, 2.6 is 5.6 / 4 = 1.4.
    advantages = group_advantages(torch.tensor([0.0, 1.0, 2.0, 2.6]), group_size=4, normalise_std=False)
    torch.testing.assert_close(advantages, torch.tensor([-1.4, -0.4, 0.6, 1.2]), rtol=0, atol=1e-6)


@pytest.mark.parametrize("normalise_std", [True, False])
@pytest.mark.parametrize("group_size", [2, 3, 7])
def test_an_all_equal_group_has_exactly_zero_advantage(group_size, normalise_std):
    # 7 × 0.1 does not average to 0.1 in float32: the rounding must not become an advantage.
    rewards = torch.full((2 * group_size,), 0.1)
    advantages = group_advantages(rewards, group_size, normalise_std=normalise_std)
    assert torch.equal(advantages, torch.zeros(2 * group_size))


def test_has_spread_names_the_groups_with_different_rewards():
    rewards = torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0, 1.0, 2.5, 2.5, 2.5])
    assert has_spread(rewards, group_size=3).tolist() == [False, True, False]


def test_integer_rewards_give_float_advantages():
    advantages = group_advantages(torch.tensor([1, 3]), group_size=2, normalise_std=False)
    assert advantages.dtype == torch.float32
    assert advantages.tolist() == [-1.0, 1.0]


@pytest.mark.parametrize("function", [group_advantages, has_spread])
@pytest.mark.parametrize(
    ("rewards", "group_size", "message"),
    [
        (torch.zeros(4), 1, "at least 2 completions"),
        (torch.zeros(5), 2, r"\(5,\) are not whole groups of 2"),
        (torch.zeros(2, 4), 2, r"\(2, 4\) are not whole groups of 2"),
        (torch.zeros(0), 2, "not whole groups"),
        (torch.tensor([0.0, 1.0, float("nan"), 1.0]), 2, "Reward of completion 2 is nan"),
        (torch.tensor([0.0, float("inf")]), 2, "Reward of completion 1 is inf"),
    ],
)
def test_bad_rewards_are_named(function, rewards, group_size, message):
    with pytest.raises(ValueError, match=message):
        function(rewards, group_size)
