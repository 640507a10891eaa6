"""Cutting batches into pieces of rows, picking rows, and putting pieces together again."""

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from lightning_modules.backbones.interface import Completions
from lightning_modules.backbones.percept import Percept

Rows = TypeVar("Rows", Completions, Percept)


def spans(total: int, size: int | None) -> list[tuple[int, int]]:
    """Start and stop of consecutive pieces of at most `size` rows; None: one piece."""
    step = max(total, 1) if size is None else size
    return [(start, min(start + step, total)) for start in range(0, total, step)]


def take(value: Rows, rows: Sequence[int]) -> Rows:
    """The given rows of a dataclass each of whose fields, tensor or list, has one entry per row."""
    return replace(value, **{f.name: _pick(getattr(value, f.name), rows) for f in fields(value)})


def join(parts: Sequence[Completions], pad_token_id: int) -> Completions:
    """Completions of several pieces below each other, padded on the right to the widest.

    Args:
        parts: at least one piece; `[N_k, C_k]` each.
        pad_token_id: stands in the padding's `token_ids`.

    Returns:
        `[Σ N_k, max C_k]`.
    """
    width = max(part.token_ids.shape[1] for part in parts)

    def padded(name: str, fill: float) -> Tensor:
        tensors = [getattr(part, name) for part in parts]
        return torch.cat([nn.functional.pad(tensor, (0, width - tensor.shape[1]), value=fill) for tensor in tensors])

    return Completions(
        padded("token_ids", pad_token_id),
        padded("mask", False),
        padded("logprobs", 0.0),
        torch.cat([part.finished for part in parts]),
    )


def _pick(value: Any, rows: Sequence[int]) -> Any:
    if isinstance(value, Tensor):
        return value[torch.tensor(rows, dtype=torch.long, device=value.device)]
    return [value[row] for row in rows]
