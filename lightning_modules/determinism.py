"""Matrix products on CPUs that are the same to the last bit in every process.

Lightning's `deterministic` covers PyTorch's algorithms and cuBLAS. Intel's MKL, which multiplies matrices on CPUs, by
default also depends on where in memory a matrix begins, which differs between processes.
"""

import os
import warnings

import torch
from torch.nn.functional import linear

_VARIABLE, _MODE = "MKL_CBWR", "AUTO,STRICT"
_FLOATS = 4  # that stand in the 16 bytes by which kernels see alignment


def make_products_reproducible() -> None:
    """Have MKL choose by the shapes of matrices alone; call it before the first product of a process and its children.

    A mode that is set already (`MKL_CBWR`) stays. Warns where products still depend on alignment: MKL has run before,
    or another library multiplies.
    """
    os.environ.setdefault(_VARIABLE, _MODE)
    if not products_are_reproducible():
        warnings.warn(
            f"Products on this CPU depend on where matrices begin in memory, with {_VARIABLE}="
            f"{os.environ[_VARIABLE]}: two runs may differ in the last bits. Set {_VARIABLE}={_MODE} in the "
            "environment, before Python starts.",
            stacklevel=2,
        )


def products_are_reproducible() -> bool:
    """Whether products are the same wherever the operands begin in memory; settles MKL's mode for this process."""
    generator = torch.Generator().manual_seed(0)
    # One row, an odd size, a narrow matrix: where MKL has special kernels.
    for rows, inner, columns in ((1, 64, 384), (3, 17, 33), (7, 100, 5)):
        inputs, weight = torch.randn(rows, inner, generator=generator), torch.randn(columns, inner, generator=generator)
        products = [linear(_shifted(inputs, shift), _shifted(weight, shift)) for shift in range(_FLOATS)]
        if not all(torch.equal(products[0], product) for product in products):
            return False
    return True


def _shifted(matrix: torch.Tensor, shift: int) -> torch.Tensor:
    """A copy that begins so many floats after an aligned address."""
    memory = torch.empty(matrix.numel() + shift, dtype=matrix.dtype)
    return memory[shift:].view(matrix.shape).copy_(matrix)
