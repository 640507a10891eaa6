"""Linear layers by oneDNN: values, gradients, and where they are used."""

import copy

import pytest
import torch
from torch import nn

from lightning_modules.backbones import cpu_linear
from lightning_modules.backbones.cpu_linear import OneDNNLinear, use_onednn

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this PyTorch has no oneDNN")

SIZES = [((2, 60, 160), 128), ((3, 150, 64), 192), ((40, 300), 200), ((1, 2), 3), ((0, 7), 5), ((2048,), 1100)]
"""Inputs and outputs: backward by either factor first, no leading dimensions, too small for oneDNN, empty, a vector."""


def layers(inputs: int, outputs: int, bias: bool) -> tuple[nn.Linear, nn.Linear]:
    torch.manual_seed(0)
    plain = nn.Linear(inputs, outputs, bias)
    fast = copy.deepcopy(plain)
    fast.__class__ = OneDNNLinear
    return plain, fast


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[torch.Size]:
    """The rows of each product by oneDNN."""
    calls, product = [], cpu_linear._product

    def count(rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        calls.append(rows.shape)
        return product(rows, weight, bias)

    monkeypatch.setattr(cpu_linear, "_product", count)
    return calls


@pytest.mark.numerics
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("shape", "outputs"), SIZES)
def test_equals_pytorch(shape: tuple[int, ...], outputs: int, bias: bool, counted: list[torch.Size]) -> None:
    plain, fast = layers(shape[-1], outputs, bias)
    results = []
    for layer in (plain, fast):
        rows = torch.randn(shape, generator=torch.Generator().manual_seed(1), requires_grad=True)
        output = layer(rows)
        (output * torch.linspace(-1, 1, output.numel()).view(output.shape)).sum().backward()
        results.append([output, rows.grad, *(parameter.grad for parameter in layer.parameters())])
    for ours, theirs in zip(*reversed(results), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=2e-5)
    is_large = len(shape) > 1 and torch.Size(shape).numel() * outputs >= cpu_linear._SMALLEST
    assert len(counted) == (3 if is_large else 0)


@pytest.mark.unit
def test_frozen_weights_cost_no_product_of_their_own(counted: list[torch.Size]) -> None:
    _, fast = layers(160, 128, bias=True)
    fast.requires_grad_(False)
    rows = torch.randn(120, 160, requires_grad=True)
    fast(rows).sum().backward()
    assert rows.grad is not None and len(counted) == 2


@pytest.mark.unit
def test_other_precisions_are_left_to_pytorch(counted: list[torch.Size]) -> None:
    plain, fast = layers(160, 128, bias=True)
    rows = torch.randn(120, 160)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(fast(rows), plain(rows))
    assert torch.equal(fast.double()(rows.double()), plain.double()(rows.double()))
    assert not counted


@pytest.mark.unit
@pytest.mark.parametrize("pays", [True, False])
def test_models_are_changed_where_it_pays(pays: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_linear, "pays", lambda: pays)
    model = nn.Sequential(nn.Linear(4, 4), nn.Bilinear(4, 4, 4))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    use_onednn(model)
    assert isinstance(model[0], OneDNNLinear) is pays
    assert isinstance(copy.deepcopy(model)[0], OneDNNLinear) is pays
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.numerics
def test_under_torch_compile() -> None:
    plain, fast = layers(24, 16, bias=True)
    program = torch.compile(fast, fullgraph=True, dynamic=True)
    with torch.no_grad():
        for count in (3, 5, 8):
            rows = torch.randn(count, 2, 24)
            torch.testing.assert_close(program(rows), plain(rows), rtol=1e-5, atol=1e-5)
    rows = torch.randn(3, 2, 24)
    compiled, expected = program(rows), plain(rows)
    gradients = [
        torch.autograd.grad(out.sum(), list(one.parameters())) for out, one in ((compiled, fast), (expected, plain))
    ]
    torch.testing.assert_close(*gradients)


@pytest.mark.unit
def test_a_second_derivative_is_refused() -> None:
    _, fast = layers(160, 128, bias=True)
    rows = torch.randn(120, 160, requires_grad=True)
    (gradient,) = torch.autograd.grad(fast(rows).square().sum(), rows, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()
