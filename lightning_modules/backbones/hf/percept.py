"""What the towers of a model of transformers returned for each clip, and how it becomes tensors and text for a file."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from transformers.utils import ModelOutput

from lightning_modules.backbones.hf.family import MediaInputs
from lightning_modules.backbones.hf.replay import Recording
from lightning_modules.backbones.percept import Modality, Percept

_TOWERS: dict[Modality, str] = {"pictures": "vision_tower", "sound": "audio_tower"}
"""Modality → its tower."""


@dataclass
class HFPercept(Percept):
    """What was made of each clip before the language model.

    Args:
        recordings: what the frozen towers returned, by name of the tower.
        media: the clips as the model takes them in, None where `encode` has to make them (a percept from a file).
    """

    recordings: list[dict[str, Recording]]
    media: list[MediaInputs | None] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.media = self.media or [None] * len(self.recordings)

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """Those whose towers are frozen, so that what they returned stands here."""
        recorded = self.recordings[0] if self.recordings else {}
        return tuple(modality for modality, tower in _TOWERS.items() if tower in recorded)

    def replaced(self, modality: Modality, other: "HFPercept") -> "HFPercept":
        """This percept with a modality of other clips, cut or repeated to the length that each clip's own has.

        A clip without sound has none that could be replaced, and lends none.
        """
        tower = _TOWERS[modality]
        pairs = zip(self.recordings, other.recordings, strict=True)
        return replace(self, recordings=[{**own, tower: _lent(own[tower], new[tower])} for own, new in pairs])

    def pack(self) -> tuple[dict[str, Tensor], str]:
        tensors: dict[str, Tensor] = {}
        structure = [
            {name: [_described(result, tensors, name) for result in recording] for name, recording in clip.items()}
            for clip in self.recordings
        ]
        return tensors, json.dumps(structure)

    @classmethod
    def unpack(cls, tensors: dict[str, Tensor], structure: str) -> "HFPercept":
        clips = json.loads(structure)
        return cls(
            [{name: [_rebuilt(node, tensors) for node in nodes] for name, nodes in clip.items()} for clip in clips]
        )


def _lent(own: Any, new: Any) -> Any:
    """A result in the place of another, its tensors as long as those there.

    Raises:
        ValueError: another kind of result, or tensors of other axes.
    """
    match own:
        case None | bool():
            return own
        case Tensor() if isinstance(new, Tensor) and own.dim() == new.dim():
            for axis, length in enumerate(own.shape):
                if length != new.shape[axis]:
                    new = new.index_select(axis, torch.arange(length, device=new.device) % new.shape[axis])
            return new
        case list() | tuple() if isinstance(new, list | tuple):
            if not (own and new):
                return own
            if len(new) == len(own):
                return type(own)(_lent(mine, theirs) for mine, theirs in zip(own, new, strict=True))
        case ModelOutput() if isinstance(new, ModelOutput):
            return type(own)(**{name: _lent(value, new.get(name)) for name, value in own.items()})
    raise ValueError(f"A tower returned {type(own).__name__} for one clip and {type(new).__name__} for another.")


def _described(value: Any, tensors: dict[str, Tensor], tower: str) -> Any:
    """A result as JSON has it, its tensors put aside by number.

    Raises:
        ValueError: something else than a tensor, a bool, None, or a tuple or model output of these.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensors[name] = value
        return {"tensor": name}
    if type(value) is tuple:
        return {"tuple": [_described(entry, tensors, tower) for entry in value]}
    if _output_classes().get(_class_name(type(value))) is type(value):
        fields = {name: _described(entry, tensors, tower) for name, entry in value.items()}
        return {"output": _class_name(type(value)), "fields": fields}
    raise ValueError(
        f"The {tower} returns a {_class_name(type(value))}, which cannot be kept on disk; expected tensors, or tuples "
        "or transformers' model outputs of them. Set model.feature_cache to null."
    )


def _rebuilt(node: Any, tensors: dict[str, Tensor]) -> Any:
    """What `_described` described.

    Raises:
        LookupError: an unknown class of output, or a tensor that is not there.
        ValueError: no such description.
    """
    match node:
        case None | bool():
            return node
        case {"tensor": name}:
            return tensors[name]
        case {"tuple": entries}:
            return tuple(_rebuilt(entry, tensors) for entry in entries)
        case {"output": name, "fields": fields}:
            # Looked up among the classes that the loaded models brought, never imported.
            return _output_classes()[name](**{key: _rebuilt(entry, tensors) for key, entry in fields.items()})
    raise ValueError(f"{node!r} describes no result of a tower")


def _class_name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _output_classes() -> dict[str, type[ModelOutput]]:
    """Transformers' own model outputs by full name, of the modules that are in use."""

    def below(base: type) -> Iterator[type]:
        for cls in base.__subclasses__():
            yield cls
            yield from below(cls)

    return {_class_name(cls): cls for cls in below(ModelOutput) if cls.__module__.startswith("transformers.")}
