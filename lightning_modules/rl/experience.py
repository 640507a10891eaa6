"""What stage 3 passes from the rollout to the update."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from datamodules.batch import ClipBatch
from lightning_modules.backbones.interface import Completions, Percept
from lightning_modules.emotion_verifier import SentenceReading
from lightning_modules.rationale import Response


@dataclass
class Rollout:
    """G sampled completions per clip; row `b·G + g` is completion g of clip b.

    Args:
        batch: the clips, B of them.
        percept: tower outputs of the clips, computed once and shared by sampling, reference and policy.
        completions: token ids, masks and log-probabilities, B·G rows.
        responses: the completions, read.
        targets: canonical emotion of each completion's clip, B·G.
    """

    batch: ClipBatch
    percept: Percept
    completions: Completions
    responses: list[Response]
    targets: list[str]


@dataclass
class Experience:
    """A scored rollout.

    Args:
        rollout: the completions.
        rewards: reward name → what it gave before weighting, float32 `[B·G]`.
        total: weighted sum of the rewards, float32 `[B·G]`.
        advantages: group-relative advantages, float32 `[B·G]`.
        readings: the verifier's reading of each completion's sentences, or None where no reward asked for it.
    """

    rollout: Rollout
    rewards: dict[str, Tensor]
    total: Tensor
    advantages: Tensor
    readings: Sequence[Sequence[SentenceReading]] | None
