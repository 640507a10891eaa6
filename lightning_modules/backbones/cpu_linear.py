"""Linear layers that use the whole of an AMD processor (decision 45).

PyTorch multiplies float32 matrices by Intel's MKL, which leaves AVX-512 unused on other makers' processors. oneDNN,
which comes with PyTorch, uses it and is twice as fast there. Values differ by float32's rounding.

Shape legend: R rows, I inputs, O outputs.
"""

from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

_SMALLEST = 2**21
"""Multiplications from which a product takes so long that the microseconds of another start do not matter."""

_library = torch.library.Library("erv", "DEF")
_library.define("product(Tensor rows, Tensor weight, Tensor? bias) -> Tensor")


@torch.library.impl(_library, "product", "CPU")
def _product(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """rows · weightᵀ + bias: `[..., I]`, `[O, I]` and `[O]` to `[..., O]`, by oneDNN and without a graph."""
    return torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")


@torch.library.register_fake("erv::product", lib=_library)
def _like_product(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return rows.new_empty(*rows.shape[:-1], weight.shape[0])


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(rows, weight)
        return _product(rows, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        rows, weight = ctx.saved_tensors
        for_rows, for_weight, for_bias = ctx.needs_input_grad
        inputs, outputs = rows.flatten(0, -2).mT, gradient.flatten(0, -2).mT
        of_weight = None
        if for_weight:  # the first matrix is copied: the smaller one
            of_weight = _product(inputs, outputs).mT if len(inputs) < len(outputs) else _product(outputs, inputs)
        of_rows = _product(gradient, weight.mT) if for_rows else None
        return of_rows, of_weight, outputs.sum(dim=1) if for_bias else None


class OneDNNLinear(nn.Linear):
    """`nn.Linear` whose float32 products on a CPU go through oneDNN where they are large enough to gain by it."""

    def forward(self, input: Tensor) -> Tensor:
        is_float32 = input.dtype == self.weight.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
        if not (input.is_cpu and is_float32) or input.ndim < 2:
            return super().forward(input)
        if torch.compiler.is_compiling():  # a product's size may be unknown; compiled sampling has no graph
            has_graph = torch.is_grad_enabled()
            return super().forward(input) if has_graph else torch.ops.erv.product(input, self.weight, self.bias)
        if input.numel() * self.out_features < _SMALLEST:
            return super().forward(input)
        return _Linear.apply(input, self.weight, self.bias)


@cache
def pays() -> bool:
    """Whether this machine computes on an AMD processor with AVX-512."""
    information = Path("/proc/cpuinfo")
    is_amd = information.exists() and "AuthenticAMD" in information.read_text()
    has_avx512 = torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    return is_amd and has_avx512 and torch.backends.mkldnn.is_available() and not torch.cuda.is_available()


def use_onednn(model: nn.Module) -> None:
    """Let the linear layers of a model compute by oneDNN, on machines where that pays."""
    if not pays():
        return
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = OneDNNLinear
