"""Drawing a token."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LogitsProcessorList, TopKLogitsWarper, TopPLogitsWarper

from lightning_modules.backbones.generation import _choose, _draw, _most_likely, _nucleus
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
        tokens, logprobs = _draw(logits, sampling)
        assert set(tokens.tolist()) == allowed
        expected = (logits / (sampling.temperature or 1.0)).log_softmax(dim=-1).gather(1, tokens[:, None])[:, 0]
        torch.testing.assert_close(logprobs, expected)


def test_nan_is_reported_and_ends_nothing() -> None:
    logits = torch.full((2, 5), torch.nan)
    tokens, logprobs = _draw(logits, Sampling())
    assert bool(((tokens >= 0) & (tokens < 5)).all()) and bool(logprobs.isnan().all())


@pytest.mark.parametrize(("top_k", "top_p"), [(0, 0.9), (0, 0.3), (7, 1.0), (300, 1.0), (5, 0.5)])
def test_the_choice_is_that_of_transformers(top_k: int, top_p: float) -> None:
    logprobs = (3 * torch.randn(20, 200, generator=torch.Generator().manual_seed(0))).log_softmax(dim=-1)
    warpers = LogitsProcessorList([TopPLogitsWarper(top_p)] if top_p < 1 else [])
    if top_k:
        warpers.insert(0, TopKLogitsWarper(top_k))
    expected = warpers(torch.empty(20, 0, dtype=torch.long), logprobs).softmax(dim=-1)
    chosen = _nucleus(_most_likely(logprobs, top_k), top_p)
    torch.testing.assert_close(chosen / chosen.sum(dim=-1, keepdim=True), expected)


class NoFloatSums(TorchDispatchMode):
    """Refuses what `torch.use_deterministic_algorithms` refuses on CUDA: running sums of floats."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        is_sum = func.overloadpacket in (torch.ops.aten.cumsum, torch.ops.aten.cumsum_)
        assert not (is_sum and args[0].is_floating_point()), "a running sum of floats"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=0.3, top_p=0.9), Sampling(top_k=3)])
def test_nothing_that_has_no_deterministic_algorithm_is_asked_for(sampling: Sampling) -> None:
    with NoFloatSums():
        _draw(torch.randn(4, 100), sampling)


@pytest.mark.gpu
@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=0.3, top_p=0.9), Sampling(top_k=3)])
def test_drawing_is_deterministic_on_a_gpu(sampling: Sampling) -> None:
    logits, tokens = torch.randn(4, 1_000, device="cuda"), []
    torch.use_deterministic_algorithms(True)
    try:
        for _ in range(2):
            torch.manual_seed(0)
            tokens.append(_draw(logits, sampling)[0])
    finally:
        torch.use_deterministic_algorithms(False)
    assert torch.equal(*tokens)
