"""Do the weights move? The share of trained weights that an optimizer step changes, by a sample of them.

A step far below the spacing of a weight's type leaves the weight as it is: such a run costs what any run does, and
learns nothing.
"""

import math
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from lightning_modules.processes import sum_over_processes

SAMPLE = 2**16
"""Weights that are looked at, about; a copy of all would not fit."""

FEW = 0.5
"""The share below which a step counts as lost."""


@dataclass
class _Looked:
    """A sample of one parameter before a step: values, and where a gradient asks for a change."""

    parameter: Tensor
    before: Tensor
    asked: Tensor


class Movement:
    """Compares a sample of the weights before and after each step of an optimizer.

    Weights without a gradient (words that no text has) are left out. What Kahan's summation keeps for the next step
    counts as part of a weight. Steps that a gradient scaler leaves out are not measured.

    Args:
        optimizer: of torch's interface; each process' own shards or copies of the weights.
        learning_rate: its peak. Steps at less than half of it (warm-up, the end of a schedule) do not warn.
    """

    def __init__(self, optimizer: Optimizer, learning_rate: float) -> None:
        self._optimizer, self._peak = optimizer, learning_rate
        # By chance rounding makes few steps of many, which is how it should be.
        self._may_warn = not hasattr(optimizer, "bf16_stochastic_round")
        total = sum(_own(parameter).numel() for group in optimizer.param_groups for parameter in group["params"])
        self._stride = math.ceil(total / SAMPLE) | 1  # odd, so that it meets all columns of a matrix
        self._looked: list[_Looked] = []
        self._counts: tuple[Tensor, Tensor] | None = None
        optimizer.register_step_post_hook(self._compare)

    def look(self) -> None:
        """Note the weights, when the gradients are there and before the optimizer steps."""
        self._looked = [
            _Looked(parameter, self._sample(parameter), self._pick(parameter.grad) != 0)
            for group in self._optimizer.param_groups
            for parameter in group["params"]
            if parameter.grad is not None
        ]

    def _pick(self, tensor: Tensor) -> Tensor:
        return _own(tensor.detach()).reshape(-1)[:: self._stride]

    def _sample(self, parameter: Tensor) -> Tensor:
        kept = self._optimizer.state[parameter].get("kahan_comp")
        values = self._pick(parameter)
        # Bit for bit: neither part rounds away in the other.
        return torch.stack([values, torch.zeros_like(values) if kept is None else self._pick(kept)])

    def _compare(self, *_: Any) -> None:
        looked, self._looked = self._looked, []
        changed = [((self._sample(one.parameter) != one.before).any(dim=0) & one.asked).sum() for one in looked]
        asked = [one.asked.sum() for one in looked]
        self._counts = (sum(changed, torch.zeros(())), sum(asked, torch.zeros(())))

    @property
    def is_measured(self) -> bool:
        """Whether the optimizer has stepped since `share` was asked for."""
        return self._counts is not None

    def share(self, device: torch.device) -> float | None:
        """The share of the last step, of all processes together; every process asks. Warns once of a small one.

        Returns:
            None where no weight had a gradient.
        """
        assert self._counts is not None, "see is_measured"
        counts, self._counts = self._counts, None
        changed, asked = sum_over_processes(*counts, device=device)
        if not asked:
            return None
        group = self._optimizer.param_groups[0]
        rate = float(group["lr"])
        if self._may_warn and changed / asked < FEW and rate >= self._peak / 2 > 0:
            self._may_warn = False
            kind = str(group["params"][0].dtype).removeprefix("torch.")
            warnings.warn(
                f"The last optimizer step changed {changed / asked:.0%} of the trained weights: at a learning rate of "
                f"{rate:g} most steps are below the spacing of {kind} numbers, and lost. Raise model.learning_rate, or "
                "train adapters (model.backbone.lora), which begin at 0, where numbers lie close.",
                stacklevel=2,
            )
        return changed / asked


def _own(tensor: Tensor) -> Tensor:
    """This process' part of a tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
