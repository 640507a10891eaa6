"""Explanation metrics: does the rationale speak of the emotion? (arXiv 2510.23506)

A judge reads only the rationale and names one emotion e. `K[t, p, j]` as in `counts`: clips with target t, prediction p
and judged emotion j = e. Every clip counts in N; an unknown answer and an invalid reply equal nothing.
"""

from torch import Tensor

from lightning_modules.metrics.counts import EmotionMetric, num_clips


def explanation_emotion_accuracy(counts: Tensor, answered: bool = False) -> float:
    """EEA = #(e = target) / N = Σ_c K[c, ·, c] / N.

    Args:
        counts: K.
        answered: a clip with an unknown answer counts as wrong, as in the paper's released code.
    """
    judged = (counts[:, :-1] if answered else counts).sum(dim=1)
    return int(judged.diagonal().sum()) / num_clips(counts)


def answer_by_explanation(counts: Tensor) -> dict[str, int]:
    """The four ways in which a clip can be right: `both`, `answer_only`, `explanation_only`, `neither`; sums to N."""
    both = int(counts.diagonal(dim1=0, dim2=1).diagonal().sum())
    answers = int(counts.sum(dim=2).diagonal().sum())
    explanations = int(counts.sum(dim=1).diagonal().sum())
    return {
        "both": both,
        "answer_only": answers - both,
        "explanation_only": explanations - both,
        "neither": num_clips(counts) - answers - explanations + both,
    }


def explanation_prediction_consistency(counts: Tensor) -> float:
    """EPC = #(e = prediction) / N = Σ_c K[·, c, c] / N over real classes c: unknown and invalid are not equal."""
    return int(counts.sum(dim=0)[:-1, :-1].diagonal().sum()) / num_clips(counts)


def faithful_consistency_rate(counts: Tensor) -> float:
    """FCR = #(e = prediction = target) / N = Σ_c K[c, c, c] / N."""
    return int(counts.diagonal(dim1=0, dim2=1).diagonal().sum()) / num_clips(counts)


class EEA(EmotionMetric):
    """Explanation Emotion Accuracy: share of clips whose rationale is judged to show the target.

    Args:
        taxonomy: the classes.
    """

    def compute(self) -> Tensor:
        """EEA, float32 `[]`."""
        return self.scalar(explanation_emotion_accuracy(self.counts))


class EPC(EmotionMetric):
    """Explanation–Prediction Consistency: share of clips whose rationale is judged to show the predicted emotion.

    Args:
        taxonomy: the classes.
    """

    def compute(self) -> Tensor:
        """EPC, float32 `[]`."""
        return self.scalar(explanation_prediction_consistency(self.counts))


class FCR(EmotionMetric):
    """Faithful Consistency Rate: share of clips where rationale, answer and target agree.

    Args:
        taxonomy: the classes.
    """

    def compute(self) -> Tensor:
        """FCR, float32 `[]`."""
        return self.scalar(faithful_consistency_rate(self.counts))
