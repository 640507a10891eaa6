"""Attention of an update on a GPU, at lengths and scores for which cuDNN's kernel gives NaN gradients."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention


def low_scores(num_queries: int, num_keys: int, device: str) -> list[torch.Tensor]:
    """Queries, keys and values `[2, 14, S or T, 64]` in bfloat16 whose rows have a log-sum-exp of about -120."""
    generator = torch.Generator().manual_seed(0)
    query, key, value = (
        0.1 * torch.randn(2, 14, length, 64, generator=generator) for length in (num_queries, num_keys, num_keys)
    )
    query[..., 0], key[..., 0] = 1.0, -120 * 8.0  # 8: the root of the width, by which scores are divided
    return [tensor.to(device, torch.bfloat16).requires_grad_() for tensor in (query, key, value)]


@pytest.mark.unit
def test_cudnn_is_not_asked() -> None:
    assert not torch.backends.cuda.cudnn_sdp_enabled()
    assert torch.backends.cuda.mem_efficient_sdp_enabled()  # the kernel that takes a mask and has a gradient


@pytest.mark.gpu
@pytest.mark.numerics
@pytest.mark.parametrize(
    ("num_queries", "num_keys"), [(704, 704), (640, 640), (102, 1088), (103, 1089), (225, 1211), (230, 1216)]
)
def test_gradients_under_a_mask_are_finite(num_queries: int, num_keys: int) -> None:
    """704, 1,088 and 1,216 keys are 64 more than a multiple of 128; values are those of attention by its formula."""
    query, key, value = low_scores(num_queries, num_keys, "cuda")
    mask = torch.ones(num_queries, num_keys, dtype=torch.bool, device="cuda").tril(num_keys - num_queries)
    output = scaled_dot_product_attention(query, key, value, attn_mask=mask.expand(2, 1, -1, -1))
    gradients = torch.autograd.grad(output.sum(), [query, key, value])
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)
    scores = (query.float() @ key.float().mT / 8).masked_fill(~mask, -torch.inf)
    torch.testing.assert_close(output.float(), scores.softmax(-1) @ value.float(), atol=2e-2, rtol=2e-2)
