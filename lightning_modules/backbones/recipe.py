"""What a backbone's authors trained in a stage, and how fast: part of a backbone's YAML, not of a stage's."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """How a backbone is trained in one stage.

    Args:
        trainable: names of the backbone's parts to train.
        learning_rate: peak learning rate.

    Raises:
        ValueError: no part, a part twice, or a learning rate that is not a positive number.
    """

    trainable: list[str]
    learning_rate: float

    def __post_init__(self) -> None:
        if not self.trainable or len(set(self.trainable)) < len(self.trainable):
            raise ValueError(
                f"Got a recipe with trainable={self.trainable}. Expected at least one part of the backbone, each once."
            )
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(
                f"Got a recipe with learning_rate={self.learning_rate}. Expected a positive number, such as 2.0e-5."
            )
