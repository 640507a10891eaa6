"""Published weights: finding a model, checking what it is and whether it fits in memory, reading its tensors.

No code of a model repository is run: tensors come from safetensors, or from pickles that hold nothing but tensors
(decision 39).
"""

import math
import pickle
import re
import zipfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from safetensors import SafetensorError, safe_open
from torch import Tensor

from datamodules.files.json_files import read_json_object, shown
from lightning_modules.machine import available_memory
from lightning_modules.processes import num_of_node

# Whatever loads a model imports this module first. On Hopper, under a mask, cuDNN's attention returns gradients that
# are NaN at some lengths (https://github.com/pytorch/pytorch/issues/196678; versions: docs/upgrading.md).
torch.backends.cuda.enable_cudnn_sdp(False)

_SETTINGS = ("*.json", "*.txt", "*.jinja", "*.model", "*.tiktoken")
"""Configurations, and what tokenizers and processors are made of."""

_SAFETENSORS = ("*model.safetensors", "*model-*-of-*.safetensors")
"""Whisper, for one, is published in a second precision beside these, which nobody needs."""

_PICKLES = ("pytorch_model*.bin",)

_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
"""Where weights may stand, in the order of transformers: the first that is there is read."""

_MARGIN = 1.05
"""Memory beside the weights while they are read, such as one tensor in the precision of the file."""

_GIB = 2**30


def find(name: str, argument: str = "path", weights: bool = True) -> Path:
    """Directory of a model: `name` itself, or the hub's copy in the local cache, downloaded if it is not there.

    Args:
        name: directory or hub id; `id@revision` for another branch, tag or commit than the main one.
        argument: what the backbone calls it, for errors.
        weights: whether weights are needed, and not only settings. Pickles are downloaded only where a repository has
            no safetensors.

    Raises:
        ValueError: neither a directory nor a model that the hub gives.
    """
    if Path(name).is_dir():
        return Path(name)
    patterns = [*_SETTINGS, *(_SAFETENSORS if weights else ())]
    hub_id, _, revision = name.partition("@")
    options = {"revision": revision} if revision else {}
    try:
        directory = Path(snapshot_download(hub_id, allow_patterns=patterns, **options))
        if weights and not any(directory.rglob("*.safetensors")):
            directory = Path(snapshot_download(hub_id, allow_patterns=[*patterns, *_PICKLES], **options))
    except HFValidationError as error:
        raise ValueError(
            f"{argument}: there is no directory {name!r}, nor could it be a model of the hub (OWNER/NAME, or "
            "OWNER/NAME@REVISION)."
        ) from error
    except Exception as error:
        # The hub's client raises a dozen types, none of which says what to do without a network.
        raise ValueError(
            f"{argument}: {name!r} is no directory here, and the hub gave no such model ({type(error).__name__}: "
            f"{error}). Where the hub can be reached, run `hf download {' --revision '.join(name.split('@', 1))} "
            f"--local-dir DIR`; bring DIR here and give its path as {argument}."
        ) from error
    return directory


@contextmanager
def named(directory: str | Path) -> Iterator[None]:
    """Name the model's directory in the errors that its files cause in the code that reads them.

    Raises:
        ValueError: the block raised an error other than a lack of memory or of a package.
    """
    try:
        yield
    except (ImportError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ValueError(
            f"{directory} cannot be loaded: {reason} ({type(error).__name__}). Is it whole, and what was meant? "
            "Download it again where it is not."
        ) from error


def pretrained(model_class: Any, directory: str | Path, **options: Any) -> Any:
    """What transformers' `from_pretrained` returns; the one place where backbones load, which `estimate` replaces."""
    return model_class.from_pretrained(directory, **options)


def require_model_type(directory: Path, expected: Collection[str], argument: str, what: str) -> dict[str, Any]:
    """The model's `config.json`, checked to be of an architecture that the backbone takes.

    Args:
        directory: the model's.
        expected: values of `model_type` that are taken.
        argument: what the backbone calls the directory, for errors.
        what: the expected kind of model in words, for errors.

    Raises:
        ValueError: there is no `config.json`, it is of another architecture, or an adapter lies beside it.
    """
    file = directory / "config.json"
    if not file.is_file():
        raise ValueError(f"{argument}: {_without_config(directory)} Expected {what}, as a directory or hub id.")
    _refuse_adapter(directory)
    config = read_json_object(file)
    found = config.get("model_type")
    if found not in expected:
        few = " or ".join(map(repr, sorted(expected))) if len(expected) <= 3 else f"one of {len(expected)} types"
        raise ValueError(f"{argument}: {file} has model_type {found!r}, expected {few} ({what}).")
    return config


def read_tensors(directory: Path, skip: re.Pattern[str] | None = None) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of a model with its name, from one file or from shards; on the CPU, in the precision of the file.

    Args:
        directory: has one of `model.safetensors`, `model.safetensors.index.json`, `pytorch_model.bin` and
            `pytorch_model.bin.index.json`; the first of them is read.
        skip: tensors whose names it matches from their beginning are left out.

    Raises:
        ValueError: no weights, a shard is missing or elsewhere, a file cannot be read, or a pickle holds more than
            tensors.
    """
    for file in _weight_files(directory):
        if file.suffix == ".safetensors":
            with _open(file) as tensors:
                for key in tensors.keys():  # noqa: SIM118 - no mapping
                    if skip is None or not skip.match(key):
                        yield key, tensors.get_tensor(key)
        else:
            for key, tensor in _unpickle(file).items():
                if skip is None or not skip.match(key):
                    yield key, tensor


def check_files(directory: Path) -> None:
    """Refuse a model directory that would have its loader read elsewhere, or unpickle more than tensors.

    Raises:
        ValueError: as `read_tensors`; or there is no `config.json`, or an adapter.
    """
    if not (directory / "config.json").is_file():
        raise ValueError(_without_config(directory))
    _refuse_adapter(directory)
    count_weights(directory)


def _without_config(directory: Path) -> str:
    """What is wrong with a directory that is no model's; that of a run has its model in it."""
    own = directory / "model"
    return f"{directory} has no config.json{f': give {own}' if own.is_dir() else ''}."


def _refuse_adapter(directory: Path) -> None:
    file = directory / "adapter_config.json"
    if file.is_file():
        raise ValueError(
            f"{file}: transformers would load this adapter on top of the model, or another model that it names. Merge "
            "it into the weights (peft's `merge_and_unload`), or remove the file to use the model without it."
        )


def count_weights(directory: Path, skip: re.Pattern[str] | None = None) -> int:
    """How many numbers `read_tensors` would read, found without reading them.

    Raises:
        ValueError: as `read_tensors`.
    """
    count = 0
    for file in _weight_files(directory):
        if file.suffix == ".safetensors":
            with _open(file) as tensors:
                shapes = {key: tensors.get_slice(key).get_shape() for key in tensors.keys()}  # noqa: SIM118
        else:
            shapes = {key: tensor.shape for key, tensor in _unpickle(file).items()}
        count += sum(math.prod(shape) for key, shape in shapes.items() if skip is None or not skip.match(key))
    return count


def _weight_files(directory: Path) -> list[Path]:
    name = next((name for name in _WEIGHTS if (directory / name).is_file()), None)
    if name is None:
        raise ValueError(f"{directory} has no weights. Expected one of {', '.join(_WEIGHTS)}.")
    if not name.endswith(".json"):
        return [directory / name]
    places = read_json_object(directory / name).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(shard, str) for shard in places.values()):
        raise ValueError(
            f"{directory / name}: weight_map is {shown(places)}. Expected the name of a file for each tensor: download "
            "it again."
        )
    shards = sorted(set(places.values()))
    for shard in shards:
        # A shard stands beside its index: a name with a path in it would read elsewhere.
        if Path(shard).name != shard or not (directory / shard).is_file():
            raise ValueError(
                f"{directory} lacks {shard}, which {name} names. Expected all shards beside it: download it again."
            )
    return [directory / shard for shard in shards]


def _open(file: Path) -> Any:
    try:
        return safe_open(file, framework="pt")
    except SafetensorError as error:
        raise _unreadable(file, error) from error


def _unpickle(file: Path) -> dict[str, Tensor]:
    """A pickled state dict; tensors of today's format are mapped into memory and read when they are used."""
    try:
        tensors = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except pickle.UnpicklingError as error:
        raise _refused(file) from error
    except (EOFError, RuntimeError) as error:
        raise _unreadable(file, error) from error
    if not isinstance(tensors, dict) or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        raise _refused(file)
    return tensors


def _refused(file: Path) -> ValueError:
    return ValueError(
        f"{file} holds more than tensors by name, and is refused: to unpickle it could run any code. Convert it to "
        "safetensors: https://huggingface.co/spaces/safetensors/convert does so for a model of the hub; or, where its "
        "author is trusted, load it with torch.load(..., weights_only=False) on a machine apart, and write the tensors "
        f"to {file.parent / _WEIGHTS[0]} with safetensors.torch.save_file."
    )


def _unreadable(file: Path, error: Exception) -> ValueError:
    return ValueError(f"{file} cannot be read ({error}). Its download may be incomplete: download it again.")


def gpu_memory() -> list[int]:
    """Bytes of each CUDA device that this process sees, used or not."""
    # `mem_get_info` tells the same, but opens a context, which takes memory, on each device that it is asked of.
    return [torch.cuda.get_device_properties(i).total_memory for i in range(torch.cuda.device_count())]


def require_memory(weights: Path | int, dtype: Literal["float32", "bfloat16"], name: str = "The backbone") -> None:
    """Refuse weights that cannot fit, before the system kills the process minutes into loading them.

    Each process of a node loads them into the machine's memory and then moves them to its GPU, if there is one: whole,
    unless the strategy shards them. As the strategy is not known here, weights that fit only when sharded give a
    warning.

    Args:
        weights: a model's directory, or how many numbers are loaded from several (`count_weights`).
        dtype: precision in memory.
        name: whose weights these are, for errors.

    Raises:
        ValueError: they need more than is free on this machine, or more than all visible GPUs have together; or they
            cannot be read.
    """
    num_weights, count = weights if isinstance(weights, int) else count_weights(weights), num_of_node()
    needed = _MARGIN * num_weights * getattr(torch, dtype).itemsize
    needs = f"{name}: {num_weights / 1e9:.2f} billion weights need {needed / _GIB:.1f} GiB in {dtype}"
    smaller = " Choose a smaller model" if dtype == "bfloat16" else " Set dtype to bfloat16, or choose a smaller model"
    smaller += " (LoRA does not help: it trains less, but the frozen weights are loaded whole)."
    free = available_memory()
    if free is not None and count * needed > free:
        each = f" on each of {count} processes" if count > 1 else ""
        raise ValueError(f"{needs}{each}, and {free / _GIB:.1f} GiB are free on this machine.{smaller}")
    gpus = gpu_memory()
    if not gpus or needed <= min(gpus):
        return
    have = f"{needs}, and this machine's GPU has {gpus[0] / _GIB:.1f} GiB."
    if len(gpus) > 1:
        have = f"{needs}, and this machine's {len(gpus)} GPUs have {min(gpus) / _GIB:.1f} GiB each or more."
    if needed > sum(gpus):
        raise ValueError(f"{have}{smaller} To run on the CPU all the same, set CUDA_VISIBLE_DEVICES to nothing.")
    rank_zero_warn(f"{have} Only a trainer.strategy that shards the weights, such as fsdp, can use them.{smaller}")
