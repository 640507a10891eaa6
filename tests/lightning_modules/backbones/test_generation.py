"""Drawing a token."""

import pytest
import torch
from transformers import LogitsProcessorList

from lightning_modules.backbones.generation import _choose, _draw, _warpers
from lightning_modules.backbones.interface import Sampling

pytestmark = pytest.mark.numerics


def test_tokens_are_drawn_as_often_as_they_are_likely() -> None:
    torch.manual_seed(0)
    probabilities = torch.tensor([0.0, 0.5, 0.0, 0.3, 0.2, 0.0])
    counts = _choose(probabilities.expand(40_000, -1)).bincount(minlength=6) / 40_000
    # Four standard errors of a share of one half: 4 · sqrt(0.25 / 40,000) = 0.01.
    torch.testing.assert_close(counts, probabilities, atol=0.01, rtol=0)
    assert counts[[0, 2, 5]].sum() == 0, "what is impossible is never drawn"


def test_the_least_likely_of_a_large_vocabulary_are_not_lost() -> None:
    """A tail of 150,000 tokens that has half of the probability."""
    torch.manual_seed(0)
    probabilities = torch.cat([torch.tensor([0.5]), torch.full((150_000,), 0.5 / 150_000)])
    tail = _choose(probabilities.expand(400, -1)) > 0
    assert abs(float(tail.float().mean()) - 0.5) < 0.1  # four standard errors


def test_top_k_and_top_p_limit_the_choice_and_not_the_log_probability() -> None:
    torch.manual_seed(0)
    logits = torch.tensor([[0.0, 1.0, 2.0, 3.0]]).expand(200, -1)
    for sampling, allowed in (
        (Sampling(temperature=2.0, top_k=2), {2, 3}),
        (Sampling(temperature=2.0, top_p=0.4), {3}),  # its probability is 0.46 at temperature 2
        (Sampling(temperature=0.0), {3}),
    ):
        tokens, logprobs = _draw(logits, sampling, _warpers(sampling))
        assert set(tokens.tolist()) == allowed
        expected = (logits / (sampling.temperature or 1.0)).log_softmax(dim=-1).gather(1, tokens[:, None])[:, 0]
        torch.testing.assert_close(logprobs, expected)


def test_nan_is_reported_and_ends_nothing() -> None:
    logits = torch.full((2, 5), torch.nan)
    tokens, logprobs = _draw(logits, Sampling(), LogitsProcessorList())
    assert bool(((tokens >= 0) & (tokens < 5)).all()) and bool(logprobs.isnan().all())
