"""Adapters (LoRA) that a model is published with, in a folder of its checkpoint: added to its weights once, at loading.

What is trained and exported afterwards is an ordinary model, with or without adapters of its own (`adapters.py`).

Shape legend: O outputs and I inputs of a linear layer, R rank.
"""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn

from datamodules.files.json_files import read_json_object

MERGED_ADAPTER = "merged_adapter"
"""In a model's configuration: the adapter that is part of its weights, by its folder."""

_KEY = re.compile(r"(?:base_model\.model\.)?(?:model\.)?(layers\.\d+\.(.+))\.lora_([AB])\.weight")
"""Name of a factor in the file: peft's prefix, which some leave out, the layer, which of the two."""

_OTHER_KINDS = (
    *("use_dora", "fan_in_fan_out", "rank_pattern", "alpha_pattern", "modules_to_save", "lora_bias"),
    *("alora_invocation_tokens", "use_qalora"),
)
"""Settings of peft under which an adapter is more than one product for each layer, all of one scale."""


def find(directory: Path, folders: Sequence[str], config: Mapping[str, Any], name: str | None) -> str | None:
    """Which of a checkpoint's adapters is to be merged into its weights.

    Args:
        directory: the checkpoint's.
        folders: those of such adapters; the first is taken, unless told otherwise.
        config: content of the checkpoint's `config.json`.
        name: the one that is wanted; None: any.

    Returns:
        Its folder; None: the checkpoint has no such folder, or its weights have the adapter already.

    Raises:
        ValueError: the checkpoint has others.
    """
    merged = config.get(MERGED_ADAPTER)
    present = [folder for folder in folders if (directory / folder).is_dir()] if merged is None else [merged]
    wanted = name or merged or (folders[0] if present else None)
    if wanted is not None and wanted not in present:
        where = "" if merged is None else ", in its weights"
        raise ValueError(f"adapter: {directory} has {', '.join(present) or 'none'}{where}, expected {wanted}.")
    return wanted if merged is None else None


@torch.no_grad()
def merge(body: nn.Module, directory: Path) -> None:
    """Add an adapter's products to the weights of a text model, computed in float32 and rounded to the weights' type.

    Args:
        body: the text model, with its decoder layers as `layers`.
        directory: `adapter_config.json` and `adapter_model.safetensors`, as peft writes them.

    Raises:
        ValueError: the adapter is of another kind than plain LoRA, of another model, or lacks some of its layers, or
            sums are not finite.
    """
    rank, scale = _rank_and_scale(directory / "adapter_config.json")
    file = directory / "adapter_model.safetensors"
    with safe_open(file, framework="pt") as tensors:
        factors: dict[tuple[str, str], str] = {}
        modules: set[str] = set()
        for key in tensors.keys():  # noqa: SIM118 - no mapping
            match = _KEY.fullmatch(key)
            if match is None:
                raise ValueError(f"{file} has {key}, expected factors of decoder layers (layers.N. ... .lora_A.weight)")
            if factors.setdefault((match[1], match[3]), key) != key:
                raise ValueError(f"{file} has {factors[match[1], match[3]]} and {key}, expected one of them")
            modules.add(match[2])
        for name in (f"layers.{i}.{module}" for i in range(len(body.layers)) for module in sorted(modules)):
            keys = [factors.pop((name, factor), None) for factor in "AB"]
            if None in keys:
                raise ValueError(f"{file} lacks a factor of {name}, which other layers have")
            first, second = map(tensors.get_tensor, keys)  # [R, I] and [O, R]
            weight = _linear_weight(body, name)
            shapes, expected = [[*first.shape], [*second.shape]], [[rank, weight.shape[1]], [weight.shape[0], rank]]
            if shapes != expected:
                raise ValueError(f"{file} has factors of shapes {shapes} for {name}, expected {expected}")
            if not (first.is_floating_point() and second.is_floating_point()):
                raise ValueError(f"{file} has factors of {first.dtype} and {second.dtype} for {name}, expected floats")
            weight.copy_(weight.float() + scale * (second.float() @ first.float()))
            if not weight.isfinite().all():
                raise ValueError(f"{file}: with its factors, weights of {name} are no finite numbers")
    if factors or not modules:
        raise ValueError(f"{file} is of another model: it has factors of more than {len(body.layers)} layers, or none")


def _rank_and_scale(file: Path) -> tuple[int, float]:
    """R, and what the product of two factors is multiplied by."""
    settings = read_json_object(file)
    odd = {name: settings[name] for name in _OTHER_KINDS if settings.get(name)}
    if settings.get("peft_type") != "LORA" or settings.get("bias", "none") != "none" or odd:
        shown = odd or {name: settings.get(name) for name in ("peft_type", "bias")}
        raise ValueError(f"{file} has {shown}, expected plain LoRA without biases")
    rank, alpha = settings.get("r"), settings.get("lora_alpha")
    if not (isinstance(rank, int) and rank > 0 and isinstance(alpha, int | float)):
        raise ValueError(f"{file} has r={rank!r} and lora_alpha={alpha!r}, expected numbers")
    return rank, alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank)


def _linear_weight(body: nn.Module, name: str) -> nn.Parameter:
    """Weight `[O, I]` of a linear layer."""
    try:
        layer = body.get_submodule(name)
    except AttributeError:
        layer = None
    if not isinstance(layer, nn.Linear):
        raise ValueError(f"The adapter changes {name}, which is no linear layer of {type(body).__name__}")
    return layer.weight
