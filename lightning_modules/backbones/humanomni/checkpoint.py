"""Published HumanOmni checkpoints: finding them, reading their tensors, and giving each tensor its module.

Source: spec/humanomni.md, "Modules and parameter names", "Loading" and decision 1.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path

from huggingface_hub import snapshot_download
from safetensors import safe_open
from torch import Tensor, nn

MODULES = {
    "mm_projector": "model.mm_projector.",
    "audio_projector": "model.audio_projector.",
    "bert_gate": "model.bert_gate.",
    "bert": "model.bert_model.",
}
"""Published prefix of each module of the backbone that is not the language model's."""

_UNUSED = re.compile(r"model\.(vision_tower|audio_tower)\.|model\.bert_model\.(pooler\.|embeddings\.position_ids$)")
"""Towers come from their own directories, and the pooler is never run."""

MODEL_TYPE = "HumanOmni_qwen2"


def find(name: str) -> Path:
    """Directory of a checkpoint: `name` itself, or the hub's copy in the local cache, downloaded if it is not there.

    Raises:
        ValueError: neither a directory nor a model that the hub gives.
    """
    if Path(name).is_dir():
        return Path(name)
    patterns = ["*.json", "*.safetensors", "*.txt", "*.jinja"]
    try:
        return Path(snapshot_download(name, allow_patterns=patterns))
    except Exception as error:
        # The hub's client raises a dozen types, none of which says what to do without a network.
        raise ValueError(
            f"{name!r} is no directory here, and the hub gave no such model ({type(error).__name__}: {error}). "
            f"Where the hub can be reached, run `hf download {name} --local-dir DIR`; bring DIR here and give its path."
        ) from error


def read_config(directory: Path) -> dict:
    """The checkpoint's `config.json`.

    Raises:
        ValueError: there is none, or it is of another architecture.
    """
    file = directory / "config.json"
    if not file.is_file():
        raise ValueError(f"{directory} has no config.json: expected a HumanOmni checkpoint directory.")
    config = json.loads(file.read_text(encoding="utf-8"))
    if config.get("model_type") != MODEL_TYPE:
        raise ValueError(
            f"{file} has model_type {config.get('model_type')!r}, expected {MODEL_TYPE!r}. For another architecture "
            "choose its own configs/backbone/*.yaml."
        )
    return config


def read_tensors(directory: Path) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of `model.safetensors` or of its shards that the backbone uses, by its published name.

    Raises:
        ValueError: the weights are missing, pickled, or a shard is missing.
    """
    index = directory / "model.safetensors.index.json"
    if index.is_file():
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    else:
        names = ["model.safetensors"]
    for name in names:
        # A shard stands beside its index: a name with a path in it would read elsewhere.
        if Path(name).name != name or not (directory / name).is_file():
            pickled = sorted(path.name for path in directory.glob("*.bin"))
            hint = f" It has pickled weights ({pickled[0]}); convert them to safetensors first." if pickled else ""
            raise ValueError(f"{directory} lacks {name}. Weights are read from safetensors only.{hint}")
        with safe_open(directory / name, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118 - no mapping
                if not _UNUSED.match(key):
                    yield key, file.get_tensor(key)


def published_name(module: str, name: str) -> str:
    """Published name of a parameter `name` of the backbone's `module`."""
    return name if module == "language_model" else f"{MODULES[module]}{name}"


def load(modules: dict[str, nn.Module], directory: Path) -> None:
    """Copy a checkpoint's tensors into the modules (`MODULES` and `language_model`).

    Raises:
        ValueError: missing or unexpected keys, or tensors of another shape; all are listed.
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
    for key, tensor in read_tensors(directory):
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
