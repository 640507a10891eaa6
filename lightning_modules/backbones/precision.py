"""Parts of a mixed-precision step that stay in float32."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def in_float32(device: torch.device) -> Iterator[None]:
    """Run a block without autocast and with float32 as the type of new tensors, whatever the Trainer's precision.

    transformers computes features of sound and pictures in NumPy, which has no bfloat16.

    Args:
        device: of the batch.
    """
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.autocast(device.type, enabled=False), torch.autocast("cpu", enabled=False):
            yield
    finally:
        torch.set_default_dtype(default)
