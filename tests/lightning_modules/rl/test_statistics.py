"""What is logged of completions, by hand."""

import pytest
import torch

from lightning_modules.backbones.interface import Completions
from lightning_modules.rl.statistics import completion_statistics, policy_statistics

pytestmark = pytest.mark.unit

MASK = torch.tensor([[True, True, True], [True, False, False]])
COMPLETIONS = Completions(
    torch.zeros(2, 3, dtype=torch.long),
    MASK,
    torch.tensor([[-1.0, -2.0, -3.0], [-1.0, 0.0, 0.0]]),
    torch.tensor([False, True]),
)


def test_completions() -> None:
    values = {name: float(value) for name, value in completion_statistics(COMPLETIONS).items()}
    assert values == {
        "completion_tokens": 2.0,
        "completion_tokens_min": 1.0,
        "completion_tokens_max": 3.0,
        "truncated": 0.5,
    }


def test_policy() -> None:
    logprobs = torch.tensor([[-1.0, -2.5, -3.0], [-1.1, 0.0, 0.0]])
    entropy = torch.tensor([[1.0, 2.0, 3.0], [2.0, 0.0, 0.0]])
    values = policy_statistics(COMPLETIONS, logprobs, entropy)
    # Differences 0, 0.5, 0 | 0.1 over 4 tokens; entropies 1, 2, 3 | 2.
    assert float(values["sampler_drift"]) == pytest.approx(0.5)
    assert float(values["sampler_drift_mean"]) == pytest.approx(0.15)
    assert float(values["entropy"]) == pytest.approx(2.0)
    assert "entropy" not in policy_statistics(COMPLETIONS, logprobs, None)
