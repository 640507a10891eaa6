"""A training step on disk: all that it was computed from except weights and configuration, to be replayed.

One safetensors file, whose metadata is JSON: reading it runs no code, whoever wrote it.
"""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from datamodules.batch import BadClip, ClipBatch
from datamodules.files.text import require_file
from datamodules.files.writing import written_whole
from lightning_modules.backbones.interface import Completions

_FORMAT = 3
_KEY = "step"  # of the metadata


@dataclass(frozen=True)
class LearnedRollout:
    """What an update of stage 3 learns from: B·G completions of up to C tokens, and what they are worth.

    Args:
        completions: as they were sampled.
        loss_mask: tokens that count in the loss, bool `[B·G, C]`.
        advantages: float32 `[B·G]`.
        rewards: reward name → float32 `[B·G]`.
        total: their weighted sum, float32 `[B·G]`.
        reference_logprobs: of the reference policy, float32 `[B·G, C]`, or None without a reference.
        old_logprobs: of the policy before the first update of this rollout, or None in the first.
    """

    completions: Completions
    loss_mask: Tensor
    advantages: Tensor
    rewards: dict[str, Tensor]
    total: Tensor
    reference_logprobs: Tensor | None
    old_logprobs: Tensor | None


@dataclass(frozen=True)
class StepPlace:
    """Where in a run a step stands, and what came of it. Numbers are those of one process.

    Args:
        stage: `cold_start` or `grpo`.
        step: optimizer steps before it.
        epoch: counted from 0.
        batch_indices: of its batches within the epoch: several where gradients are accumulated.
        run_seed: of the whole run.
        rank: global rank of the process.
        num_processes: how many took part.
        precision: the Trainer's.
        loss_scale: what the loss was multiplied by before the backward pass; 1 but in float16.
        losses: of its micro-batches, in their order.
        gradient_norm: of all trained parameters, averaged over the processes.
        totals: the loss' denominators, over all processes: `num_tokens_total`, and in stage 3
            `num_completions_total`.
        weights: file with the trained weights before the step, relative to the run directory; None: not written.
    """

    stage: str
    step: int
    epoch: int
    batch_indices: list[int]
    run_seed: int
    rank: int
    num_processes: int
    precision: str
    loss_scale: float
    losses: list[float]
    gradient_norm: float
    totals: dict[str, int]
    weights: str | None


@dataclass(frozen=True)
class StepRecord:
    """A step of one process.

    Args:
        place: where and what.
        batches: its clips, decoded.
        rollout: what stage 3 learnt from; None in stage 1.
    """

    place: StepPlace
    batches: list[ClipBatch]
    rollout: LearnedRollout | None

    def write(self, path: Path) -> None:
        """Write the record, whole or not at all.

        Raises:
            OSError: the disk refuses.
        """
        tensors: dict[str, Tensor] = {}
        batches = [_split(batch, f"batch.{i}", tensors) for i, batch in enumerate(self.batches)]
        for batch in batches:
            batch["skipped"] = [asdict(clip) for clip in batch["skipped"]]
        if self.rollout is not None:
            _split(self.rollout.completions, "completions", tensors)
            for name, values in self.rollout.rewards.items():
                tensors[f"reward.{name}"] = values
            _split(self.rollout, "rollout", tensors)
        # JSON has no NaN: Python's own spelling of the numbers comes back exactly.
        place = asdict(self.place) | {
            "losses": [repr(loss) for loss in self.place.losses],
            "gradient_norm": repr(self.place.gradient_norm),
        }
        description = {"format": _FORMAT, "place": place, "batches": batches}
        # Copies, as no two may share memory.
        own = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
        with written_whole(path) as temporary:
            temporary.write_bytes(save(own, {_KEY: json.dumps(description, ensure_ascii=False)}))

    @classmethod
    def read(cls, path: Path) -> "StepRecord":
        """Read a record.

        Raises:
            FileNotFoundError: no such file.
            ValueError: it is not a record, or damaged.
        """
        require_file(path)
        try:
            with safe_open(path, framework="pt") as file:
                description = json.loads((file.metadata() or {})[_KEY])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            if description["format"] != _FORMAT:
                raise ValueError(f"its format is {description['format']}, expected {_FORMAT}")
            place = description["place"]
            place["losses"] = [float(loss) for loss in place["losses"]]
            place["gradient_norm"] = float(place["gradient_norm"])
            batches = [_batch(values, f"batch.{i}", tensors) for i, values in enumerate(description["batches"])]
            return cls(StepPlace(**place), batches, _rollout(tensors))
        except (SafetensorError, LookupError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path} is not a step that a run has saved, or is damaged ({error}). Give a .safetensors file from "
                "the directory non_finite/ of a run."
            ) from error


def _split(value: Any, prefix: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Put a dataclass' tensors among `tensors`, and return its other fields."""
    others = {}
    for f in fields(value):
        entry = getattr(value, f.name)
        if isinstance(entry, Tensor):
            tensors[f"{prefix}.{f.name}"] = entry
        else:
            others[f.name] = entry
    return others


def _tensors(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(f"{prefix}."): t for name, t in tensors.items() if name.startswith(f"{prefix}.")}


def _batch(values: dict[str, Any], prefix: str, tensors: dict[str, Tensor]) -> ClipBatch:
    skipped = [BadClip(**clip) for clip in values["skipped"]]
    return ClipBatch(**{**values, "skipped": skipped, **_tensors(prefix, tensors)})


def _rollout(tensors: dict[str, Tensor]) -> LearnedRollout | None:
    completions = _tensors("completions", tensors)
    if not completions:
        return None
    optional = {"reference_logprobs": None, "old_logprobs": None}
    return LearnedRollout(
        completions=Completions(**completions),
        rewards=_tensors("reward", tensors),
        **{**optional, **_tensors("rollout", tensors)},
    )
