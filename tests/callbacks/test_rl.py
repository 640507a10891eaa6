"""The soft punishment of overlong completions, by hand."""

import pytest
import torch

from callbacks.rl import overlong_penalty

pytestmark = pytest.mark.unit


def test_falls_linearly_over_the_buffer() -> None:
    # Buffer of 4 before 10: free up to 6 tokens, then -1/4 per token.
    penalty = overlong_penalty(torch.tensor([1, 6, 7, 8, 9, 10]), max_new_tokens=10, buffer_tokens=4)
    torch.testing.assert_close(penalty, torch.tensor([0.0, 0.0, -0.25, -0.5, -0.75, -1.0]), rtol=0, atol=0)


def test_the_buffer_may_be_the_whole_completion() -> None:
    penalty = overlong_penalty(torch.tensor([0, 2, 4]), max_new_tokens=4, buffer_tokens=4)
    torch.testing.assert_close(penalty, torch.tensor([0.0, -0.5, -1.0]), rtol=0, atol=0)


@pytest.mark.parametrize("buffer_tokens", [0, 5])
def test_a_buffer_that_does_not_fit_is_refused(buffer_tokens: int) -> None:
    with pytest.raises(ValueError, match="Expected 1 to 4"):
        overlong_penalty(torch.tensor([1]), max_new_tokens=4, buffer_tokens=buffer_tokens)
