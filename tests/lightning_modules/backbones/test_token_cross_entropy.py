"""Liger's kernel in place of PyTorch's cross-entropy: the same log-probabilities, gradients and entropies.

Without a GPU, Triton's interpreter runs the kernel on the CPU (tests/conftest.py). Without the extra `liger`, the tests
that need it skip.
"""

import copy
import sys

import pytest
import torch
from torch import Tensor

from datamodules.batch import ClipBatch
from lightning_modules.backbones import logprobs
from lightning_modules.backbones.decoder_backbone import DecoderBackbone
from lightning_modules.backbones.interface import Completions, Sampling
from lightning_modules.backbones.token_cross_entropy import liger_cross_entropy, token_cross_entropy

pytestmark = pytest.mark.numerics

ONE_BACKBONE = pytest.mark.parametrize("case", ["composed"], indirect=True)


@pytest.fixture
def device() -> str:
    """Where Liger runs here."""
    pytest.importorskip("liger_kernel.ops", reason="Liger is an optional extra, and brings Triton")
    return "cuda" if torch.cuda.is_available() else "cpu"


def test_values_and_gradients_are_pytorchs(device: str) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = (3 * torch.randn(7, 1_003, generator=generator)).to(device)
    token_ids = torch.randint(1_003, (7,), generator=generator).to(device)
    weights = torch.randn(7, generator=generator).to(device)

    def run(cross_entropy) -> tuple[Tensor, Tensor]:
        leaf = logits.clone().requires_grad_()
        losses = cross_entropy(leaf * 1, token_ids)
        (losses * weights).sum().backward()
        return losses.detach(), leaf.grad

    for actual, expected in zip(run(liger_cross_entropy()), run(token_cross_entropy), strict=True):
        torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


@ONE_BACKBONE
@pytest.mark.parametrize("chunk_elements", [2**24, 4_000], ids=["whole", "chunks computed again"])
def test_scores_are_pytorchs(
    model: DecoderBackbone, clips: ClipBatch, device: str, chunk_elements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logprobs, "chunk_elements", lambda device_type: chunk_elements)
    model, clips = model.to(device), clips.to(device)
    model.set_trainable(["language_model"])
    torch.manual_seed(0)
    completions = model.generate(model.encode(clips), 2, Sampling(max_new_tokens=8))
    liger = copy.deepcopy(model)
    liger.use_liger_kernel()

    def run(model: DecoderBackbone, completions: Completions) -> list[Tensor]:
        scores = model.score(model.encode(clips), completions, temperature=0.7, with_entropy=True)
        (scores.logprobs * torch.arange(8, device=device)).sum().backward()
        return [scores.logprobs.detach(), scores.entropy, *(p.grad for p in model.parameters() if p.requires_grad)]

    for actual, expected in zip(run(liger, completions), run(model, completions), strict=True):
        torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-4)
    reference = liger.reference()
    assert reference._cross_entropy is liger._cross_entropy
    with torch.no_grad():
        scored = reference.logprobs(reference.encode(clips), completions)
        torch.testing.assert_close(scored, model.logprobs(model.encode(clips), completions), atol=1e-4, rtol=0)


def test_says_how_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "liger_kernel.ops", None)
    with pytest.raises(ValueError, match=r"use_liger_kernel needs the package liger_kernel.*\.\[liger\]"):
        liger_cross_entropy()
