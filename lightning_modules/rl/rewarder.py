"""What completions earn: `GRPOModule` asks, one of the Trainer's callbacks answers.

Shape legend: B prompts, G completions per prompt.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from lightning import Trainer
from torch import Tensor

from lightning_modules.emotion_verifier import SentenceReading
from lightning_modules.rl.experience import Rollout


class Rewarder(ABC):
    """Rewards the completions of a rollout."""

    @staticmethod
    def of(trainer: Trainer) -> "Rewarder":
        """The one among a Trainer's callbacks.

        Raises:
            ValueError: there is none.
        """
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, Rewarder):
                return callback
        raise ValueError(
            "Nothing says what completions earn: GRPO needs callbacks.RLCallback among trainer.callbacks, as in "
            "configs/stage/grpo.yaml."
        )

    @property
    @abstractmethod
    def names(self) -> list[str]:
        """Names of the rewards."""

    @property
    @abstractmethod
    def needs_verifier(self) -> bool:
        """Whether `reward` needs the verifier's readings."""

    @abstractmethod
    def reward(
        self, rollout: Rollout, readings: Sequence[Sequence[SentenceReading]] | None, max_new_tokens: int
    ) -> tuple[dict[str, Tensor], Tensor]:
        """What each completion earns.

        Args:
            rollout: the completions.
            readings: what the verifier read in each completion's sentences; None where nobody asked it.
            max_new_tokens: longest completion that the rollout allows.

        Returns:
            Reward name → what it gave before weighting, and the weighted sum, float32 `[B·G]` each, on the device of
            the completions.
        """
