"""Giving an object another attribute for a while."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Let an object have another attribute or method while the block runs.

    `nn.Module.__call__` finds a replaced `forward`.
    """
    own = {key: before for key, before in vars(owner).items() if key == name}
    object.__setattr__(owner, name, value)
    try:
        yield
    finally:
        object.__delattr__(owner, name)
        for before in own.values():
            object.__setattr__(owner, name, before)
