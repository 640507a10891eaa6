"""Attention to a prompt and to own positions, against one softmax over keys that are written side by side."""

import pytest
import torch
from torch import Tensor

from lightning_modules.backbones import cascade
from lightning_modules.backbones.cascade import cascade_attention

pytestmark = pytest.mark.numerics

SEEN = 600
"""Prompt positions that are seen; the kernel takes keys in blocks of at most 512."""


def make_inputs(
    num_new: int, num_own: int, dtype: torch.dtype = torch.float32, length: int = 1300, head: int = 8
) -> list[Tensor]:
    """Queries, prompt keys and values, own keys and values: B = 2, A = 2, W = 3, R = 2."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 2, 3, 2, num_new, head), *[(2, 2, length, head)] * 2, *[(2, 2, 3, num_own, head)] * 2]
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_() for shape in shapes]


def make_padding(length: int = 1300, seen: int = SEEN) -> Tensor:
    """Padding in the first prompt, by default whole blocks of it, and none in the second."""
    unseen = torch.zeros(2, length, dtype=torch.bool)
    unseen[0, : length - seen] = True
    return unseen


def attend_plainly(
    queries: Tensor, prompt_keys: Tensor, prompt_values: Tensor, own_keys: Tensor, own_values: Tensor, unseen: Tensor
) -> Tensor:
    """Keys of the prompt are copied for each row, and all weights are written down."""
    batch, num_new, num_own = len(queries), queries.shape[4], own_keys.shape[3]
    copied = [tensor[:, :, None].expand(-1, -1, queries.shape[2], -1, -1) for tensor in (prompt_keys, prompt_values)]
    keys, values = torch.cat([copied[0], own_keys], dim=3), torch.cat([copied[1], own_values], dim=3)
    may_see = torch.ones(num_new, num_own, dtype=torch.bool).tril(num_own - num_new)
    mask = torch.cat([~unseen[:, None].expand(-1, num_new, -1), may_see.expand(batch, -1, -1)], dim=2)
    scores = torch.einsum("bawrsd,bawtd->bawrst", queries, keys)
    scores = scores.masked_fill(~mask[:, None, None, None], -torch.inf)
    return torch.einsum("bawrst,bawtd->bawrsd", scores.softmax(dim=-1), values)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize(("num_new", "num_own"), [(40, 40), (1, 1), (1, 40), (7, 40)])
def test_equals_one_softmax_in_value_and_gradient(num_new: int, num_own: int, padded: bool) -> None:
    """Values within 1e-5, gradients within 1e-4."""
    inputs = make_inputs(num_new, num_own)
    unseen = make_padding() if padded else torch.zeros(2, 1300, dtype=torch.bool)
    output = cascade_attention(*inputs, unseen if padded else None)
    expected = attend_plainly(*inputs, unseen)
    torch.testing.assert_close(output, expected, atol=1e-5, rtol=0)
    of_output = torch.randn(output.shape, generator=torch.Generator().manual_seed(1))
    gradients = torch.autograd.grad(output, inputs, of_output)
    torch.testing.assert_close(gradients, torch.autograd.grad(expected, inputs, of_output), atol=1e-4, rtol=0)


def test_merged_gradient_equals_finite_differences() -> None:
    inputs, unseen = make_inputs(3, 3, torch.float64, length=5, head=2), make_padding(5, seen=3)
    assert torch.autograd.gradcheck(lambda *tensors: cascade_attention(*tensors, unseen), inputs)


@pytest.mark.parametrize("autocast", [False, True])
def test_narrow_numbers_are_summed_in_float32(autocast: bool) -> None:
    """The output is off by roundings of inputs and output, 2^-9 each, and not by those of sums of 1,300 numbers."""
    inputs = make_inputs(40, 40, torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        output = cascade_attention(*inputs, None)
    expected = attend_plainly(*(tensor.double() for tensor in inputs), torch.zeros(2, 1300, dtype=torch.bool))
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output.double(), expected, atol=2e-2, rtol=2e-2)


def test_nothing_is_seen_of_padding_and_of_later_positions() -> None:
    inputs, unseen = make_inputs(40, 40), make_padding()
    output = cascade_attention(*inputs, unseen)
    (of_keys,) = torch.autograd.grad(output.sum(), inputs[1:2], retain_graph=True)
    assert not of_keys[0, :, : 1300 - SEEN].any()
    assert of_keys[0, :, 1300 - SEEN :].any()
    (of_own_values,) = torch.autograd.grad(output[..., :20, :].sum(), inputs[4:])
    assert not of_own_values[..., 20:, :].any()
    assert of_own_values[..., :20, :].any()


def test_completions_that_are_scored_keep_no_weights() -> None:
    """What autograd keeps is as large as what goes in and comes out, and a number per query."""
    inputs, kept = make_inputs(40, 40), {}

    def remember(tensor: Tensor) -> Tensor:
        kept[tensor.data_ptr()] = tensor.nbytes
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(remember, lambda tensor: tensor):
        output = cascade_attention(*inputs, None)
    assert sum(kept.values()) == sum(tensor.nbytes for tensor in [*inputs, output]) + output[..., 0].nbytes


def test_a_step_of_sampling_is_written_in_one_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel would spend its time on being started."""
    monkeypatch.delattr(cascade, "_MergedAttention")
    inputs = make_inputs(1, 40)
    assert cascade_attention(*inputs, None).shape == inputs[0].shape
