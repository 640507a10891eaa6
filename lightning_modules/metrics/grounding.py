"""Grounding as a metric: how much of what rationales claim is true of generated clips; see `claims`."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from datamodules.synthetic.truth import ClipTruth
from lightning_modules.metrics.claims import FIGURES, batch_counts, grounding_figures


class Grounding(Metric):
    """Counts claims and clips; computes one dictionary. The counts add up over batches and processes."""

    is_differentiable = False
    full_state_update = False
    counts: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("counts", torch.zeros(len(FIGURES), 2, dtype=torch.long), dist_reduce_fx="sum")

    def update(
        self,
        sentences: Sequence[Sequence[str]],
        truths: Sequence[ClipTruth],
        predictions: Sequence[str | None],
        verdicts: Sequence[str | None] | None,
    ) -> None:
        """Count clips; see `batch_counts`."""
        counts = batch_counts(sentences, truths, predictions, verdicts).sum(axis=0)
        self.counts += torch.from_numpy(counts).to(self.counts.device)

    def compute(self) -> dict[str, Any]:
        """The figures of `grounding_figures`."""
        return grounding_figures(self.counts.cpu().numpy())
