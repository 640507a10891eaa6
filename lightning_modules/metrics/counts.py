"""The counts that every metric here is a function of.

Shape legend: N clips, C classes of the taxonomy. `K[t, p, j]`, int64 `[C, C+1, C+1]`, is the number of clips with
target t, prediction p and judged emotion j; the last prediction is "unknown" (the answer names no class), the last
judged emotion is "invalid" (so is the judge's reply). Unknown and invalid equal nothing, not even each other, which
torchmetrics' own classification metrics cannot say: to them any prediction is a class.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

from datamodules.emotions import Taxonomy


def class_indices(emotions: Sequence[str | None], taxonomy: Taxonomy, device: torch.device | str = "cpu") -> Tensor:
    """Class index of canonical emotions, int64 `[N]`; -1 for None."""
    return torch.tensor([taxonomy.index(emotion) for emotion in emotions], dtype=torch.long, device=device)


def joint_counts(prediction: Tensor, target: Tensor, judged: Tensor | None, num_classes: int) -> Tensor:
    """The counts K of some clips, int64 `[C, C+1, C+1]`.

    Args:
        prediction: int64 `[N]`, 0..C-1, or -1 for unknown.
        target: int64 `[N]`, 0..C-1.
        judged: int64 `[N]`, 0..C-1, or -1 for invalid; None: no judge, all invalid.
        num_classes: C.

    Raises:
        ValueError: an index is out of range, or the lengths differ.
    """
    if judged is None:
        judged = torch.full_like(target, -1)
    for name, indices, lowest in (("prediction", prediction, -1), ("target", target, 0), ("judged", judged, -1)):
        if indices.shape != target.shape or indices.ndim != 1:
            raise ValueError(
                f"Expected {name} of shape [N] as target; got {list(indices.shape)}, {list(target.shape)}."
            )
        if bool(((indices < lowest) | (indices >= num_classes)).any()):
            raise ValueError(f"Expected {name} between {lowest} and {num_classes - 1}; got {indices.tolist()}.")
    size = num_classes + 1
    last = torch.full_like(target, num_classes)
    prediction = torch.where(prediction < 0, last, prediction)
    judged = torch.where(judged < 0, last, judged)
    flat = (target * size + prediction) * size + judged
    return torch.bincount(flat, minlength=num_classes * size * size).view(num_classes, size, size)


class EmotionMetric(Metric):
    """Base of the metrics: counts clips; a subclass computes one number from the counts.

    The counts add up over batches and processes. In a `MetricCollection` all these metrics share one state.

    Args:
        taxonomy: the classes.
    """

    is_differentiable = False
    higher_is_better: bool | None = True
    full_state_update = False
    counts: Tensor

    def __init__(self, taxonomy: Taxonomy) -> None:
        super().__init__()
        self.taxonomy = taxonomy
        size = len(taxonomy) + 1
        empty = torch.zeros(len(taxonomy), size, size, dtype=torch.long)
        self.add_state("counts", default=empty, dist_reduce_fx="sum")

    def update(self, prediction: Tensor, target: Tensor, judged: Tensor | None = None) -> None:
        """Count clips.

        Args:
            prediction: int64 `[N]` class indices; -1 where the answer is unknown.
            target: int64 `[N]` class indices.
            judged: int64 `[N]` emotions that the judge names; -1 where its reply is invalid. None without a judge.

        Raises:
            ValueError: an index is out of range, or the lengths differ.
        """
        self.counts += joint_counts(prediction, target, judged, len(self.taxonomy))

    def scalar(self, value: float) -> Tensor:
        """A computed number as float32 `[]` on the metric's device."""
        return torch.tensor(value, dtype=torch.float32, device=self.counts.device)


def num_clips(counts: Tensor) -> int:
    """N, every clip counted.

    Raises:
        ValueError: there is none.
    """
    total = int(counts.sum())
    if total == 0:
        raise ValueError("No clip was evaluated, so there is no metric to compute.")
    return total
