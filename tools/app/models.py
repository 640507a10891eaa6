"""Models that the app asks: a directory of an exported policy, or a backbone's configuration."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from callbacks.model_card import TRAINING_FILE
from datamodules.files.config_files import find_config
from datamodules.files.json_files import read_json_object
from datamodules.files.yaml_files import read_yaml_mapping
from lightning_modules.backbones import loading
from lightning_modules.backbones.composed import ComposedBackbone
from lightning_modules.backbones.hf.backbone import HFBackbone
from lightning_modules.backbones.humanomni.backbone import HumanOmniBackbone
from lightning_modules.backbones.humanomni.checkpoint import MODEL_TYPE
from lightning_modules.backbones.interface import Backbone

_OF_TRAINING = ("lora", "gradient_checkpointing", "recipes")
"""Arguments of a backbone that change nothing of what a trained model says."""


def open_backbone(path: str | None, config: str | None, dtype: str | None) -> Backbone:
    """Load a policy, in eval mode.

    Args:
        path: directory of an exported model, or hub id; None: the one that the configuration names.
        config: name or file of a configuration such as `backbone/qwen2_5_vl`, which brings the class and its arguments;
            None: what the directory holds says the class.
        dtype: precision of the weights; None: the configuration's, else float32.

    Raises:
        FileNotFoundError: no such configuration.
        ValueError: it names no backbone, or the model does not load.
    """
    wanted = {"class_path": _class_of(path), "init_args": {}} if config is None else _configured(config)
    if path is not None:
        wanted["init_args"]["path"] = path
    if dtype is not None:
        wanted["init_args"]["dtype"] = dtype
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Backbone, "backbone")
    return parser.instantiate(parser.parse_object({"backbone": wanted})).backbone.requires_grad_(False).eval()


def _configured(config: str) -> dict[str, Any]:
    """`class_path` and `init_args` of the backbone that a configuration names."""
    file = find_config(config)
    found: Any = read_yaml_mapping(file)
    for key in ("model", "init_args", "backbone"):
        found = found.get(key) if isinstance(found, dict) else None
    if not isinstance(found, dict) or "class_path" not in found:
        raise ValueError(
            f"{file} has no model.init_args.backbone with a class_path. Expected a configuration of a backbone, such "
            "as backbone/qwen2_5_vl (`python main.py configs` lists them)."
        )
    arguments = {name: value for name, value in found.get("init_args", {}).items() if name not in _OF_TRAINING}
    return {"class_path": found["class_path"], "init_args": arguments}


def _class_of(path: str | None) -> str:
    """Import path of the class that loads a directory, by what it holds; none of its code is run."""
    if path is None:
        raise ValueError("There is no model: give --model, a directory of an exported policy, or --backbone.")
    directory = loading.find(path, "model", weights=False)
    own = HFBackbone
    if (directory / "backbone.json").is_file():
        own = ComposedBackbone
    elif (directory / "config.json").is_file() and MODEL_TYPE in (directory / "config.json").read_text("utf-8"):
        own = HumanOmniBackbone
    return f"{own.__module__}.{own.__qualname__}"


def trained_taxonomy(path: str | None) -> str | None:
    """The classes that a model was trained on, where its export says so."""
    file = Path(path or "") / TRAINING_FILE
    return read_json_object(file).get("taxonomy") if path is not None and file.is_file() else None


def names_of(paths: Sequence[str]) -> list[str]:
    """What a page calls models: the runs that exported them, or their paths where these are called the same."""
    names = [next((part for part in reversed(Path(path).parts) if part != "model"), path) for path in paths]
    return names if len(set(names)) == len(names) else list(paths)
