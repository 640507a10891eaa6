"""What expressions and prosodies have in common: they are departures from a resting state, zero where at rest."""

from dataclasses import dataclass, fields
from typing import Self

import numpy as np


@dataclass(frozen=True)
class Departure:
    """Base of dataclasses whose fields are all floats that are 0 at rest."""

    def _times(self, factors: np.ndarray) -> Self:
        values = {
            field.name: getattr(self, field.name) * float(k) for field, k in zip(fields(self), factors, strict=True)
        }
        return type(self)(**values)

    def scaled(self, intensity: float) -> Self:
        """The same departure at another intensity."""
        return self._times(np.full(len(fields(self)), intensity))

    def varied(self, rng: np.random.Generator, spread: float) -> Self:
        """Each component times a factor of its own, uniform in [1 - spread, 1 + spread]: people differ in how they show
        an emotion.
        """
        return self._times(rng.uniform(1.0 - spread, 1.0 + spread, len(fields(self))))
