"""What sentences rest on, over a test set; and does it tell what is true? See `reliance`.

Shape legend: S sentences.
"""

import math
from collections.abc import Sequence
from typing import Any, get_args

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional.classification import binary_auroc
from torchmetrics.utilities import dim_zero_cat

from datamodules.synthetic.grammar import sentence_claims
from datamodules.synthetic.truth import ClipTruth
from lightning_modules.metrics.reliance import NEITHER, Evidence, Reliance

_CHANNELS = ("face", "voice")
"""In the order of their modalities."""

_AUCS = ("auc_face", "auc_voice", "auc")


class RelianceReport(Metric):
    """Mean nats per sentence by modality, and the share of sentences that rest on neither.

    With the truth about the clips: how well reliance tells true claims from untrue ones, as the area under the ROC
    curve over sentences that make one claim. Of the face by the pictures, of the voice by the sound, of both together
    by the stronger of the two, which needs no one to know which is which. ½ is chance.
    """

    is_differentiable = False
    full_state_update = False
    rows: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        # Flat, in the type of an empty state: a process without a sentence joins in with nothing.
        self.add_state("rows", [], dist_reduce_fx="cat")

    def update(
        self,
        sentences: Sequence[Sequence[str]],
        reliances: Sequence[Sequence[Reliance]],
        truths: Sequence[ClipTruth] | None = None,
    ) -> None:
        """Take the sentences of N clips in.

        Args:
            sentences: of each clip's rationale.
            reliances: of each sentence.
            truths: of the clips.
        """
        for row, (said, own) in enumerate(zip(sentences, reliances, strict=True)):
            for sentence, reliance in zip(said, own, strict=True):
                nats = [getattr(reliance, name) for name in get_args(Evidence)]
                claim = _claim(sentence, None if truths is None else truths[row])
                values = [*(math.nan if own is None else own for own in nats), *claim]
                self.rows.append(torch.tensor(values, device=self.device))

    def compute(self) -> dict[str, Any]:
        """`num_sentences`, `pictures`, `sound`, `both`, `neither`, and `auc_face`, `auc_voice` and `auc`.

        A figure that cannot be computed is None.
        """
        if not len(self.rows):
            return {"num_sentences": 0, **dict.fromkeys((*get_args(Evidence), "neither", *_AUCS))}
        rows = dim_zero_cat(self.rows).cpu().view(-1, len(get_args(Evidence)) + 2)
        nats, claims = rows[:, :-2].double(), rows[:, -2:].long()
        strongest = nats[:, :2].nan_to_num(-math.inf).amax(dim=1)
        judged = [(nats[:, channel], claims[:, 0] == channel) for channel in range(len(_CHANNELS))]
        judged.append((strongest, claims[:, 0] >= 0))
        means = dict(zip(get_args(Evidence), nats.mean(dim=0).tolist(), strict=True))
        return {
            "num_sentences": len(nats),
            **{name: None if math.isnan(mean) else mean for name, mean in means.items()},
            "neither": float((strongest <= NEITHER).double().mean()),
            **dict(zip(_AUCS, [_auc(scores, claims, chosen) for scores, chosen in judged], strict=True)),
        }


def _claim(sentence: str, truth: ClipTruth | None) -> list[int]:
    """Channel by number and whether the claim is true; -1 where there is no truth, or not one claim."""
    claims = sentence_claims(sentence)
    if truth is None or len(claims) != 1 or claims[0][0] not in _CHANNELS:
        return [-1, -1]
    return [_CHANNELS.index(claims[0][0]), int(bool(truth.supports(claims[0])))]


def _auc(scores: Tensor, claims: Tensor, chosen: Tensor) -> float | None:
    """Of the chosen claims; None unless some are true and some are not, or where there is no score."""
    truths, own = claims[chosen, 1], scores[chosen]
    if own.isnan().any() or not 0 < truths.sum() < len(truths):
        return None
    # Ranks: the library squashes what is outside [0, 1], and thereby ties large scores.
    return float(binary_auroc(own.unique(return_inverse=True)[1].double() / len(own), truths))
