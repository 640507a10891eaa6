"""What a checkpoint was trained with: its verifier, backbone, taxonomy and code."""

import hashlib
from importlib.metadata import version
from typing import Any, Literal

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import nn

Mismatch = Literal["error", "warn"]
"""What becomes of a checkpoint that was trained with another verifier or taxonomy; see `check_provenance`."""


def weights_digest(module: nn.Module) -> str:
    """SHA-256 of a module's parameters and buffers: names, types, shapes and bytes; as hexadecimal digits."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def code_version() -> str:
    """Version of this package."""
    return version("erv")


def check_provenance(saved: dict[str, Any], now: dict[str, Any], mismatch: Mismatch) -> None:
    """Compare what a checkpoint was trained with and what it is loaded into.

    The verifier is known by its weights: a copy at another path is the same verifier. Backbone and code may differ: a
    backbone's parts are checked by name and shape where they are loaded.

    Args:
        saved: as in the checkpoint: `taxonomy` and `verifier` (`path`, `sha256`), or None for a run without one.
        now: the same of the module that loads it.
        mismatch: whether a difference is an error or a warning.

    Raises:
        ValueError: another taxonomy or verifier, with `mismatch="error"`.
    """
    differences = []
    if saved["taxonomy"] != now["taxonomy"]:
        differences.append(f"the taxonomy {saved['taxonomy']} (now {now['taxonomy']})")
    before, after = saved["verifier"], now["verifier"]
    if (before or {}).get("sha256") != (after or {}).get("sha256"):
        names = ["none" if one is None else f"{one['path']}, sha256 {one['sha256'][:12]}…" for one in (before, after)]
        differences.append(f"the verifier {names[0]} (now {names[1]})")
    if not differences:
        return
    message = f"The checkpoint was trained with {' and '.join(differences)}."
    if mismatch == "error":
        raise ValueError(f"{message} Name the same ones, or go on with --checkpoint_mismatch warn.")
    rank_zero_warn(message)
