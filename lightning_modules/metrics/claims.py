"""Is what a rationale says true of the clip? Exact on generated clips, whose truth `synthesize` writes.

A cue sentence claims that a channel shows an emotion (`sentence_claims`). Face and voice are drawn, so that a claim
about them is true or untrue; a body is not, so that nothing supports a claim about it. Scene sentences claim nothing.

Shape legend: N clips, F figures. Counts are int64 `[F, 2]`, the numerator and the denominator of each of `FIGURES`;
they add up over clips.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from datamodules.emotions import members
from datamodules.synthetic.grammar import sentence_claims
from datamodules.synthetic.truth import TRUTH_FILE, ClipTruth, CorpusTruth
from lightning_modules.metrics.predictions import Prediction

GROUNDED_FCR = "grounded_fcr"
"""The figure that is a share of clips; the others are shares of claims."""

FIGURES: dict[str, str] = {
    "grounded": "claims about face and voice that are true",
    "grounded_face_contradicting": "claims about the face that are true, where it contradicts the label",
    "label_face_contradicting": "claims about the face that say the label instead, where it contradicts it",
    "grounded_voice_contradicting": "claims about the voice that are true, where it contradicts the label",
    "label_voice_contradicting": "claims about the voice that say the label instead, where it contradicts it",
    "unsupported": "claims that nothing can support: the body is not drawn",
    GROUNDED_FCR: "clips with the right answer, the right explanation (judge) and only true claims",
}
"""Figure → what it is the share of."""

Counts = NDArray[np.int64]
Support = Literal["true", "untrue", "unsupported"]


def sentence_support(sentence: str, truth: ClipTruth) -> Support | None:
    """Whether a sentence is true of the clip; None when it claims nothing. Of several claims, the worst decides."""
    supports = [truth.supports(claim) for claim in sentence_claims(sentence)]
    if not supports:
        return None
    return "untrue" if False in supports else "unsupported" if None in supports else "true"


def claim_counts(sentences: Sequence[str], truth: ClipTruth, faithful: bool | None) -> Counts:
    """What one clip adds to each figure, int64 `[F, 2]`.

    Args:
        sentences: of the rationale.
        truth: of the clip.
        faithful: whether answer and judged emotion are the label, as FCR counts it; None without a judge.
    """
    claims = [claim for sentence in sentences for claim in sentence_claims(sentence)]
    supports = [truth.supports(claim) for claim in claims]
    hits: dict[str, list[bool]] = {
        "grounded": [own for own in supports if own is not None],
        "unsupported": [own is None for own in supports],
        # What nothing supports is not right. A rationale that claims nothing has no claim that is wrong.
        GROUNDED_FCR: [] if faithful is None else [faithful and all(supports)],
    }
    for channel in ("face", "voice"):
        shown = truth.shown(channel)
        said = [emotion for own, emotion in claims if own == channel and shown != truth.label]
        hits[f"grounded_{channel}_contradicting"] = [emotion == shown for emotion in said]
        hits[f"label_{channel}_contradicting"] = [emotion == truth.label for emotion in said]
    return np.array([(sum(hits[name]), len(hits[name])) for name in FIGURES], dtype=np.int64)


def clip_counts(predictions: Sequence[Prediction], truths: Sequence[ClipTruth], judged: bool) -> Counts:
    """What each clip adds, int64 `[N, F, 2]`.

    Args:
        predictions: of N clips, at least one.
        truths: of the same clips, as `match_truth` finds them.
        judged: whether there was a judge.
    """
    return np.stack(
        [
            claim_counts(
                [sentence.text for sentence in own.sentences],
                truth,
                own.prediction == own.judged == truth.label if judged else None,
            )
            for own, truth in zip(predictions, truths, strict=True)
        ]
    )


def grounding_figures(counts: Counts) -> dict[str, dict[str, Any]]:
    """Figure → `value` (None where there is nothing to count), `numerator` and `denominator`, from summed counts."""
    return {
        name: {"value": part / whole if whole else None, "numerator": part, "denominator": whole}
        for name, (part, whole) in zip(FIGURES, counts.tolist(), strict=True)
    }


def match_truth(predictions: Sequence[Prediction], path: Path, truth: CorpusTruth) -> list[ClipTruth]:
    """The truth of each clip, found by the path of its media file.

    Args:
        predictions: of one file.
        path: that file, for messages.
        truth: of the generated corpus that the clips come from.

    Raises:
        ValueError: clips without truth, or with another target than there: the truth of another corpus.
    """
    advice = f"Give the {TRUTH_FILE} beside the clips that were tested."
    found = [(own, truth.of(own.media)) for own in predictions]
    if without := [own for own, clip in found if clip is None]:
        raise ValueError(
            f"{path}: {len(without)} of {len(found)} clips have no truth in {truth.path}, the first is "
            f"{without[0].id!r} ({without[0].media or 'no media file is named'}). {advice}"
        )
    matched = [(own, clip) for own, clip in found if clip is not None]
    others = [pair for pair in matched if pair[0].target is not None and pair[1].label not in members(pair[0].target)]
    if others:
        own, clip = others[0]
        raise ValueError(
            f"{path}: {len(others)} of {len(found)} clips have another target than in {truth.path}, the first is "
            f"{own.id!r} ({own.target}, there {clip.label}): it is the truth of another corpus. {advice}"
        )
    return [clip for _, clip in matched]
