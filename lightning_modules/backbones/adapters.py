"""Low-rank adapters (LoRA, arXiv 2106.09685) on a language model, through peft.

They are injected in place: the model keeps its class and interface, and has parameters with `lora_` in their names.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from lightning_modules.backbones.published_adapter import MERGED_ADAPTER

_PREFIX = "lora_"


@dataclass(frozen=True)
class LoRA:
    """Train low-rank adapters in place of the language model's own weights.

    A saved model has them added to the weights, in float32: load it with `dtype: float32` where they were trained on
    bfloat16, which rounds away what is smaller than half a weight's spacing.

    Args:
        rank: rank of each adapter.
        alpha: the adapter's output is scaled by `alpha / rank`.
        dropout: share of an adapter's inputs dropped in stage 1; stage 3 samples and scores without dropout.
        target_modules: names of the linear layers that get an adapter; empty: all of the language model's layers.
            The experts of a mixture are stacked weights, not layers, and stay as they are.
    """

    rank: int = 16
    alpha: int = 32
    dropout: float = 0.0
    target_modules: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.rank < 1 or self.alpha < 1 or not 0 <= self.dropout < 1:
            raise ValueError(f"Invalid {self}. Expected rank >= 1, alpha >= 1 and 0 <= dropout < 1.")


def add_adapters(body: nn.Module, lora: LoRA) -> None:
    """Give the linear layers of a text model adapters that change nothing yet, in float32.

    Raises:
        ValueError: no layer has one of the names.
    """
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.target_modules or [n for n, m in body.named_modules() if isinstance(m, nn.Linear)],
    )
    # Not the model itself: of a mixture of experts, peft would adapt the experts' stacked weights in ways of its own,
    # which can be neither copied nor merged here.
    inject_adapter_in_model(config, nn.ModuleList([body]))
    for parameter in adapter_parameters(body):
        # A step of 1e-6 would be lost in bfloat16.
        parameter.data = parameter.data.float()


def adapter_parameters(module: nn.Module) -> list[nn.Parameter]:
    """Parameters of all adapters in a module."""
    return [parameter for name, parameter in module.named_parameters() if _PREFIX in name]


def hub_name(model: PreTrainedModel) -> str:
    """What a model was loaded from: its name on the hub, also where it is a copy in the hub's cache, or a directory."""
    cached = re.search(r"models--(.+?)/snapshots/", model.name_or_path)
    return cached[1].replace("--", "/") if cached else model.name_or_path


def save_adapters(model: PreTrainedModel, lora: LoRA, directory: Path) -> None:
    """Write a model's adapters as peft does: `PeftModel.from_pretrained(base, directory)` puts them on the base.

    Args:
        model: with adapters in it, of transformers' own class.
        lora: what they were made by.
        directory: is made.
    """
    layers = _layers(model)
    tensors = {}
    for name, layer in layers.items():
        for factor in ("lora_A", "lora_B"):
            (weight,) = (own.weight for own in getattr(layer, factor).values())
            tensors[f"base_model.model.{name}.{factor}.weight"] = weight.detach().contiguous()
    leaves = {name.rpartition(".")[2] for name in layers}
    adapted = tuple(f"{name}." for name in layers)
    others = [name for name, _ in model.named_modules() if name not in layers and not name.startswith(adapted)]
    # A tower may have layers of these names, or what is no layer (Gemma 4's).
    are_unique = leaves.isdisjoint(name.rpartition(".")[2] for name in others)
    base = hub_name(model)
    directory.mkdir(parents=True, exist_ok=True)
    LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=sorted(leaves if are_unique else layers),
        task_type="CAUSAL_LM",
        # A path of this machine tells others nothing, and a published model lacks what was merged at loading.
        base_model_name_or_path=None if Path(base).is_dir() or MERGED_ADAPTER in vars(model.config) else base,
        inference_mode=True,
    ).save_pretrained(directory)
    save_file(tensors, directory / "adapter_model.safetensors", metadata={"format": "pt"})


def _layers(module: nn.Module) -> dict[str, LoraLayer]:
    return {name: layer for name, layer in module.named_modules() if isinstance(layer, LoraLayer)}


def drop_fresh_adapters(module: nn.Module) -> None:
    """Remove adapters that change nothing: those whose second factor is still zero."""
    for name, layer in _layers(module).items():
        if not any(factor.weight.any() for factor in layer.lora_B.values()):
            module.set_submodule(name, layer.get_base_layer())


@torch.no_grad()
def merged_state_dict(module: nn.Module) -> dict[str, Tensor]:
    """State dict under the names of the model without adapters, the adapters added to the weights.

    Those sums are float32, whatever the weights are: bfloat16 would round most of what a short run has learnt away. The
    model itself stays as it is.
    """
    layers = _layers(module)
    state = {name: tensor for name, tensor in module.state_dict().items() if _PREFIX not in name}
    for name, layer in layers.items():
        weight = state[f"{name}.base_layer.weight"]
        deltas = [layer.get_delta_weight(adapter) for adapter in layer.active_adapters]
        state[f"{name}.base_layer.weight"] = weight.float() + sum(deltas)
    return {name.replace(".base_layer.", "."): tensor for name, tensor in state.items()}
