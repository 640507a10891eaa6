"""Linear layers of a few rows, fast on a CPU."""

import platform
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


def _is_amd() -> bool:
    information = Path("/proc/cpuinfo")
    return "AuthenticAMD" in (information.read_text() if information.exists() else platform.processor())


TALL_IS_FASTER = _is_amd()
"""As measured on an AMD EPYC, where W xᵀ is faster, and an Intel Xeon, where it is slower (benchmarks/few_rows.py)."""


def few_rows() -> AbstractContextManager[Any]:
    """For the linear layers of a decoding step: `TallProducts` on processors where they are faster."""
    return TallProducts() if TALL_IS_FASTER else nullcontext()


class TallProducts(TorchFunctionMode):
    """While it is on, linear layers on a CPU compute W xᵀ in place of x Wᵀ.

    Matrix libraries split the rows of the first matrix over cores and registers, and a decoding step has few of them.
    Each operation inside costs some microseconds more, unless torch.compile makes one program of them.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is nn.functional.linear and not kwargs and args[0].device.type == "cpu":
            return _linear(*args)
        return func(*args, **(kwargs or {}))


def _linear(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    columns = rows.flatten(0, -2).mT
    product = weight @ columns if bias is None else torch.addmm(bias[:, None], weight, columns)
    return product.mT.view(*rows.shape[:-1], -1)
