"""Which type a mixed-precision step computes in: parts that stay in float32, and weights that are cast once."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn


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


def autocast_type(device: torch.device) -> torch.dtype | None:
    """What autocast computes in on a device, None outside it."""
    return torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else None


@contextmanager
def cast_once(modules: Iterable[nn.Module], device: torch.device) -> Iterator[None]:
    """Run a block without gradient whose linear layers have their weights in autocast's type, where they are wider.

    It changes no result: autocast casts the same weights at each call, which for one token is most of the work.

    Args:
        modules: whose linear layers; what is tied to one of their weights stays as it is.
        device: where they are.
    """
    dtype = autocast_type(device)
    layers = {layer for module in modules for layer in module.modules() if isinstance(layer, nn.Linear)}
    wide = [
        (layer, name, parameter)
        for layer in layers
        for name, parameter in layer.named_parameters(recurse=False)
        if dtype is not None and parameter.dtype.itemsize > dtype.itemsize
    ]
    try:
        for layer, name, parameter in wide:
            layer.register_parameter(name, nn.Parameter(parameter.detach().to(dtype), requires_grad=False))
        yield
    finally:
        for layer, name, parameter in wide:
            layer.register_parameter(name, parameter)
