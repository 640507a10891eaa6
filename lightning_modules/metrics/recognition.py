"""Recognition metrics: is the answer the clip's emotion?

`K[t, p, j]` as in `counts`: clips with target t, prediction p, judged emotion j.
"""

from statistics import fmean

from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor

from datamodules.emotions import Taxonomy
from lightning_modules.metrics.counts import EmotionMetric, num_clips


def weighted_average_recall(counts: Tensor) -> float:
    """WAR = correct / N = Σ_t K[t, t, ·] / N. An unknown answer is wrong (decision 29)."""
    return int(counts.sum(dim=2).diagonal().sum()) / num_clips(counts)


def unweighted_average_recall(counts: Tensor, answered_only: bool = False, all_classes: bool = False) -> float | None:
    """UAR = mean over the classes with at least one clip of K[t, t, ·] / K[t, ·, ·]. An unknown answer is wrong.

    Args:
        counts: K, int64 `[C, C+1, C+1]`.
        answered_only: leave clips with an unknown answer out of numerators and denominators.
        all_classes: the mean is over all C classes; the recall of one without a clip is 0.

    Returns:
        The mean, or None when no clip is left (`answered_only`, and every answer unknown).
    """
    num_clips(counts)
    confusion = counts.sum(dim=2)
    totals = (confusion[:, :-1] if answered_only else confusion).sum(dim=1).tolist()
    recalls = [hits / total for hits, total in zip(confusion.diagonal().tolist(), totals, strict=True) if total]
    if all_classes:
        return sum(recalls) / len(totals)
    return fmean(recalls) if recalls else None


def absent_classes(counts: Tensor, taxonomy: Taxonomy) -> list[str]:
    """Classes of the taxonomy without a clip."""
    totals = counts.sum(dim=(1, 2)).tolist()
    return [emotion for emotion, total in zip(taxonomy.classes, totals, strict=True) if not total]


def warn_absent(counts: Tensor, taxonomy: Taxonomy) -> None:
    """Warn when classes have no clip, since UAR is then a mean over the others."""
    if absent := absent_classes(counts, taxonomy):
        rank_zero_warn(f"UAR leaves out classes without a clip ({taxonomy.name}): {', '.join(absent)}.")


class WAR(EmotionMetric):
    """Weighted average recall, that is accuracy over all clips: correct / N.

    Args:
        taxonomy: the classes.
    """

    def compute(self) -> Tensor:
        """WAR, float32 `[]`."""
        return self.scalar(weighted_average_recall(self.counts))


class UAR(EmotionMetric):
    """Unweighted average recall: mean recall of the classes with at least one clip; warns about the others.

    Args:
        taxonomy: the classes.
        answered_only: leave clips with an unknown answer out. NaN when no clip is left.
    """

    def __init__(self, taxonomy: Taxonomy, answered_only: bool = False) -> None:
        super().__init__(taxonomy)
        self.answered_only = answered_only

    def compute(self) -> Tensor:
        """UAR, float32 `[]`."""
        warn_absent(self.counts, self.taxonomy)
        value = unweighted_average_recall(self.counts, self.answered_only)
        return self.scalar(float("nan") if value is None else value)
