"""What the towers of a model of transformers returned for each clip, and how it becomes tensors and text for a file."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from transformers.utils import ModelOutput

from lightning_modules.backbones import interface
from lightning_modules.backbones.hf.family import MediaInputs
from lightning_modules.backbones.hf.replay import Recording


@dataclass
class HFPercept(interface.Percept):
    """What was made of each clip before the language model.

    Args:
        recordings: what the frozen towers returned, by name of the tower.
        media: the clips as the model takes them in, None where `encode` has to make them (a percept from a file).
    """

    recordings: list[dict[str, Recording]]
    media: list[MediaInputs | None] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.media = self.media or [None] * len(self.recordings)

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
