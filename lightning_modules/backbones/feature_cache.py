"""Tower outputs on disk: a clip is perceived once, for all later epochs and runs.

Frozen towers return the same for a clip each time. An entry is known by the clip's content and by the towers, not by a
file name: when a file or a setting changes, the entry is simply another one.
"""

import hashlib
import json
import weakref
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from datamodules.batch import ClipBatch
from datamodules.files.json_log import json_digest
from datamodules.tensor_store import TensorStore
from lightning_modules.backbones.interface import Backbone, eval_mode
from lightning_modules.backbones.percept import Percept, Perception

_FORMAT = 1  # raise it when a backbone's own code makes other features of the same clip, weights and settings
_LIBRARIES = ("torch", "transformers")  # packages whose release may change a feature, too
_PASSING = {"architectures", "transformers_version"}  # in configurations; no feature depends on them


class FeatureCache(TensorStore):
    """A directory with the tower outputs of clips, that never grows beyond a limit.

    An entry belongs to a clip's content (frames, waveform, duration and mel features, so file and preprocessing are in
    it), to the weights and settings of the towers, to the releases of torch and transformers, and to the arithmetic
    (kind of device, autocast, default type, precision of matrix products). It comes back to the last bit. The towers
    see the clips that are not stored as one smaller batch, whose size may change a result by rounding.

    At the limit, what is there stays, as `TensorStore` explains. From 90 % of it on, entries of other towers make room
    for new towers.

    Args:
        directory: of the cache; made if it is not there. Nothing else may be in it.
        max_gigabytes: largest size of all its files together, in 10⁹ bytes.

    Raises:
        ValueError: `max_gigabytes` is not positive.
        OSError: the directory cannot be made or written to.
    """

    content = "features"
    remedy = "the towers run again"

    def __init__(self, directory: str, max_gigabytes: float) -> None:
        super().__init__(directory, max_gigabytes)
        self._known: tuple[weakref.ref[Backbone], list[tuple], Path] | None = None

    def __getstate__(self) -> dict[str, Any]:
        # Weak references do not travel to other processes.
        return {**self.__dict__, "_known": None}

    def check(self, backbone: Backbone) -> Perception:
        """What the features of a backbone depend on.

        Raises:
            ValueError: the backbone does not say, or a tower is trained, so that its outputs change.
        """
        perception = backbone.perception()
        trained = [n for n, tower in perception.towers.items() if any(p.requires_grad for p in tower.parameters())]
        if trained:
            raise ValueError(
                f"The feature cache keeps what frozen towers return, and {', '.join(trained)} is trained. Leave it out "
                "of model.trainable, or set model.feature_cache to null."
            )
        return perception

    def perceive(self, backbone: Backbone, batch: ClipBatch) -> Percept:
        """Tower outputs of each clip, on the backbone's device: those stored, and those that the towers now return.

        The towers run without dropout, and only on the clips that are not stored.

        Args:
            backbone: whose towers are all frozen.
            batch: one clip or more.

        Raises:
            ValueError: see `check` and `Percept.pack`.
        """
        perception = self.check(backbone)
        device = next(backbone.parameters()).device
        group = self._group(backbone, perception)
        entries = [group / f"{key}.safetensors" for key in _clip_keys(batch, device)]
        parts = [self._load(entry, clip, perception, device) for entry, clip in zip(entries, batch.media, strict=True)]
        missing = [i for i, part in enumerate(parts) if part is None]
        if missing:
            with eval_mode(backbone):
                computed = backbone.perceive(batch if len(missing) == len(batch) else batch.take(missing))
            for row, i in enumerate(missing):
                parts[i] = computed.rows(row, row + 1)
                self._store(entries[i], parts[i])
        return perception.percept_class.join(parts)

    def _load(self, entry: Path, clip: str, perception: Perception, device: torch.device) -> Percept | None:
        def restore(tensors: dict[str, Tensor], metadata: dict[str, str]) -> tuple[dict[str, Tensor], str]:
            structure = metadata["structure"]
            if _checksum(tensors, structure) != metadata["checksum"]:
                raise ValueError("its checksum is another one")
            try:
                perception.percept_class.unpack(tensors, structure)
            except (TypeError, AttributeError) as error:
                raise ValueError(str(error)) from error
            return tensors, structure

        stored = self._get(entry, restore, owner=clip)
        if stored is None:
            return None
        # Not while the file is read: a device out of memory says nothing about the file.
        tensors, structure = stored
        return perception.percept_class.unpack({name: t.to(device) for name, t in tensors.items()}, structure)

    def _store(self, entry: Path, percept: Percept) -> None:
        tensors, structure = percept.pack()
        # Copies, as no two may share memory.
        own = {name: t.detach().to("cpu", copy=True).contiguous() for name, t in tensors.items()}
        self._put(entry, own, {"structure": structure, "checksum": _checksum(own, structure)})

    def _group(self, backbone: Backbone, perception: Perception) -> Path:
        """Directory for entries of these towers; their weights are read only when they may have changed."""
        state = [
            (id(t), t.data_ptr(), None if t.is_inference() else t._version)
            for tower in perception.towers.values()
            for _, t in _state(tower)
        ]
        if self._known is not None:
            known, known_state, group = self._known
            if known() is backbone and known_state == state:
                return group
        group = self.directory / _fingerprint(backbone, perception)
        self._prune_others(keep=group)
        self._known = (weakref.ref(backbone), state, group)
        return group


def _state(tower: nn.Module) -> list[tuple[str, Tensor]]:
    return [*tower.named_parameters(), *tower.named_buffers()]


def _fingerprint(backbone: Backbone, perception: Perception) -> str:
    """Of all that features depend on beside clip and arithmetic, on whatever device the weights are."""
    description = [
        _FORMAT,
        f"{type(backbone).__module__}.{type(backbone).__qualname__}",
        {package: version(package) for package in _LIBRARIES},
        _lasting(perception.settings),
        {name: _checksum(dict(_state(tower)), "") for name, tower in perception.towers.items()},
    ]
    return json_digest(description)


def _lasting(value: Any) -> Any:
    """Settings as JSON has them, without what changes when a model is saved and loaded again."""
    if isinstance(value, PreTrainedConfig):
        return _lasting(value.to_dict())
    if isinstance(value, dict):
        # With an underscore: a library's own notes, such as where a configuration was read from.
        kept = {str(name): entry for name, entry in value.items() if name not in _PASSING}
        return {name: _lasting(entry) for name, entry in kept.items() if not name.startswith("_")}
    if isinstance(value, list | tuple):
        return [_lasting(entry) for entry in value]
    return value


def _clip_keys(batch: ClipBatch, device: torch.device) -> list[str]:
    """For each clip, a hash of what the towers may see of it, and of the arithmetic that they use."""
    autocast = str(torch.get_autocast_dtype(device.type)) if torch.is_autocast_enabled(device.type) else "off"
    # The default type, which some Trainer precisions set, is that of uint8 frames divided by a number.
    arithmetic = [device.type, autocast, str(torch.get_default_dtype()), torch.get_float32_matmul_precision()]
    keys = []
    for i, length in enumerate(batch.waveform_lengths.tolist()):
        seen = {
            "frames": batch.frames[i],
            "waveform": batch.waveform[i, :length],
            "duration": batch.durations_seconds[i],
        }
        if batch.mel is not None:
            seen["mel"] = batch.mel[i]
        keys.append(_checksum(seen, ", ".join(arithmetic)))
    return keys


def _checksum(tensors: dict[str, Tensor], text: str) -> str:
    """SHA-256 of named tensors, with their types and shapes, and of a text."""
    digest = hashlib.sha256(json.dumps(text).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
