"""What the towers of a backbone made of clips, and what it depends on. See `Backbone.perceive`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

Modality = Literal["pictures", "sound"]


@dataclass
class Percept:
    """What the towers made of each clip of a batch. A subclass names its fields; entry b of each belongs to clip b."""

    modality_fields: ClassVar[Mapping[Modality, str]] = {}
    """Modality → the field that holds it and nothing else."""

    def __len__(self) -> int:
        """Clips."""
        return len(getattr(self, fields(self)[0].name))

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """The modalities that are held apart, so that each can be replaced."""
        return tuple(self.modality_fields)

    def replaced(self, modality: Modality, other: Self) -> Self:
        """This percept with one of its `modalities` from another percept of as many clips.

        Raises:
            ValueError: what the other holds of it has another shape, so that prompts would be of another length.
        """
        name = self.modality_fields[modality]
        own, new = getattr(self, name), getattr(other, name)
        if own.shape != new.shape:
            shapes = f"{tuple(own.shape)}, those of the other clips {tuple(new.shape)}"
            raise ValueError(f"{type(self).__name__}: the features of {modality} have the shape {shapes}.")
        return replace(self, **{name: new})

    def rows(self, start: int, stop: int) -> Self:
        """Clips `start` to `stop`."""
        return replace(self, **{f.name: getattr(self, f.name)[start:stop] for f in fields(self)})

    @classmethod
    def join(cls, parts: Sequence[Self]) -> Self:
        """Percepts of several batches, one or more, as that of all their clips in order."""

        def joined(values: list[Any]) -> Any:
            return torch.cat(values) if isinstance(values[0], Tensor) else [clip for value in values for clip in value]

        return cls(**{f.name: joined([getattr(part, f.name) for part in parts]) for f in fields(cls)})

    def pack(self) -> tuple[dict[str, Tensor], str]:
        """The percept as named tensors, and what `unpack` needs to know beside them, as text.

        Raises:
            ValueError: it holds something that cannot be written so.
        """
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        others = [f"{name} ({type(value).__name__})" for name, value in values.items() if not isinstance(value, Tensor)]
        if others:
            raise ValueError(f"A percept has fields that are no tensors, {', '.join(others)}: write its own `pack`.")
        return values, ""

    @classmethod
    def unpack(cls, tensors: dict[str, Tensor], structure: str) -> Self:
        """The percept that `pack` took apart; nothing in `structure` runs or is imported.

        Raises:
            LookupError, ValueError: they do not belong together, or are not of this class.
        """
        return cls(**{f.name: tensors[f.name] for f in fields(cls)})


@dataclass(frozen=True)
class Perception:
    """What `perceive` depends on beside the clips. See `FeatureCache`.

    Args:
        towers: the parts that run, by name.
        settings: everything else: numbers, texts, lists and mappings of them, transformers' configurations.
        percept_class: what is returned.
    """

    towers: dict[str, nn.Module]
    settings: dict[str, Any]
    percept_class: type[Percept]
