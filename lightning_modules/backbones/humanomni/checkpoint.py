"""Published HumanOmni checkpoints: the names of their tensors, and the module that each belongs to.

Which tensors come from where, and which may be absent: decision 34.
"""

import re
from pathlib import Path
from typing import Any

from torch import nn

from lightning_modules.backbones import loading

MODULES = {
    "mm_projector": "model.mm_projector.",
    "audio_projector": "model.audio_projector.",
    "bert_gate": "model.bert_gate.",
    "bert": "model.bert_model.",
}
"""Published prefix of each module of the backbone that is not the language model's."""

UNUSED = re.compile(r"model\.(vision_tower|audio_tower)\.|model\.bert_model\.(pooler\.|embeddings\.position_ids$)")
"""Towers come from their own directories, and the pooler is never run."""

MODEL_TYPE = "HumanOmni_qwen2"


def read_config(directory: Path) -> dict[str, Any]:
    """The checkpoint's `config.json`.

    Raises:
        ValueError: there is none, or it is of another architecture.
    """
    what = "a HumanOmni checkpoint; another architecture has its own configs/backbone/*.yaml"
    return loading.require_model_type(directory, {MODEL_TYPE}, "path", what)


def published_name(module: str, name: str) -> str:
    """Published name of a parameter `name` of the backbone's `module`."""
    return name if module == "language_model" else f"{MODULES[module]}{name}"


def load(modules: dict[str, nn.Module], directory: Path) -> None:
    """Copy a checkpoint's tensors into the modules (`MODULES` and `language_model`).

    Raises:
        ValueError: missing or unexpected keys, or tensors of another shape (all are listed), or unreadable weights.
    """
    expected = {
        published_name(module, name): parameter
        for module, part in modules.items()
        for name, parameter in part.state_dict(keep_vars=True).items()
    }
    tied = getattr(modules["language_model"], "config").tie_word_embeddings  # noqa: B009 - nn.Module's type has none
    if tied:
        expected.pop("lm_head.weight", None)
    unexpected, misshaped = [], []
    for key, tensor in loading.read_tensors(directory, skip=UNUSED):
        if tied and key == "lm_head.weight":
            continue
        parameter = expected.pop(key, None)
        if parameter is None:
            unexpected.append(key)
        elif parameter.shape != tensor.shape:
            misshaped.append(f"{key}: {tuple(tensor.shape)}, expected {tuple(parameter.shape)}")
        else:
            parameter.data.copy_(tensor)
    problems = {"missing": sorted(expected), "unexpected": sorted(unexpected), "of another shape": sorted(misshaped)}
    if any(problems.values()):
        listed = "; ".join(f"{kind}: {', '.join(keys)}" for kind, keys in problems.items() if keys)
        raise ValueError(f"{directory} does not fit its config.json. Tensors {listed}.")
