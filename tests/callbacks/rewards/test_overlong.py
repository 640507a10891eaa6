"""The soft punishment of overlong completions, by hand."""

import pytest
import torch

from callbacks.rewards import OverlongPenalty
from callbacks.rewards.base import RewardInput
from datamodules.emotions import DFEW_TAXONOMY
from datamodules.rationale import read_response

pytestmark = pytest.mark.unit


def penalty(buffer_tokens: int, lengths: list[int], max_new_tokens: int) -> list[float]:
    mask = torch.arange(max_new_tokens) < torch.tensor(lengths)[:, None]
    responses = [read_response("", DFEW_TAXONOMY)] * len(lengths)
    given = RewardInput(responses, ["anger"] * len(lengths), mask=mask, max_new_tokens=max_new_tokens)
    return OverlongPenalty(buffer_tokens)(given).tolist()


def test_falls_linearly_over_the_buffer() -> None:
    # Buffer of 4 before 10: free up to 6 tokens, then -1/4 per token.
    assert penalty(4, [1, 6, 7, 8, 9, 10], 10) == [0.0, 0.0, -0.25, -0.5, -0.75, -1.0]


def test_the_buffer_may_be_the_whole_completion() -> None:
    assert penalty(4, [0, 2, 4], 4) == [0.0, -0.5, -1.0]
