"""Is what a rationale says true of the clip? Exact on generated clips, whose truth `synthesize` writes.

A cue sentence claims that a channel shows an emotion (`sentence_claims`). Face and voice are drawn, so that a claim
about them is true or untrue; a body is not, so that nothing supports a claim about it. Scene sentences claim nothing.

Shape legend: N clips, F figures. Counts are int64 `[F, 2]`, the numerator and the denominator of each of `FIGURES`;
they add up over clips.
"""

from collections.abc import Iterable, Sequence
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


def batch_counts(
    sentences: Sequence[Sequence[str]],
    truths: Sequence[ClipTruth],
    predictions: Sequence[str | None],
    verdicts: Sequence[str | None] | None,
) -> Counts:
    """What each clip adds, int64 `[N, F, 2]`.

    Args:
        sentences: of the rationales of N clips, at least one.
        truths: of the clips.
        predictions: canonical emotions; None where the answer is unknown.
        verdicts: emotions that the judge names; None where its reply is invalid. None without a judge.
    """
    judged = [None] * len(truths) if verdicts is None else verdicts
    clips = zip(sentences, truths, predictions, judged, strict=True)
    return np.stack(
        [
            claim_counts(said, truth, None if verdicts is None else answer == verdict == truth.label)
            for said, truth, answer, verdict in clips
        ]
    )


def clip_counts(predictions: Sequence[Prediction], truths: Sequence[ClipTruth], judged: bool) -> Counts:
    """The same from a prediction file; `judged`: whether there was a judge."""
    return batch_counts(
        [[sentence.text for sentence in own.sentences] for own in predictions],
        truths,
        [own.prediction for own in predictions],
        [own.judged for own in predictions] if judged else None,
    )


def grounding_figures(counts: Counts) -> dict[str, dict[str, Any]]:
    """Figure → `value` (None where there is nothing to count), `numerator` and `denominator`, from summed counts."""
    return {
        name: {"value": part / whole if whole else None, "numerator": part, "denominator": whole}
        for name, (part, whole) in zip(FIGURES, counts.tolist(), strict=True)
    }


def run_grounding(
    predictions: Sequence[Prediction], truths: Sequence[ClipTruth], judged: bool
) -> dict[str, dict[str, Any]]:
    """The figures of a run."""
    return grounding_figures(clip_counts(predictions, truths, judged).sum(axis=0))


def match_truth(
    clips: Iterable[tuple[str, str | None, str | None]], where: str | Path, truth: CorpusTruth
) -> list[ClipTruth]:
    """The truth of each clip, found by the path of its media file.

    Args:
        clips: id, media file (None where none is named) and target (None without a label) of each.
        where: they come from, for messages.
        truth: of the generated corpus that they come from.

    Raises:
        ValueError: clips without truth, or with another target than there: the truth of another corpus.
    """
    advice = f"Give the {TRUTH_FILE} beside the clips that were tested."
    matched, without, others = [], [], []
    for identifier, media, target in clips:
        own = truth.of(media)
        if own is None:
            without.append(f"{identifier!r} ({media or 'no media file is named'})")
            continue
        matched.append(own)
        if target is not None and own.label not in members(target):
            others.append(f"{identifier!r} ({target}, there {own.label})")
    num_clips = len(matched) + len(without)
    if without:
        raise ValueError(
            f"{where}: {len(without)} of {num_clips} clips have no truth in {truth.path}, the first is {without[0]}. "
            f"{advice}"
        )
    if others:
        raise ValueError(
            f"{where}: {len(others)} of {num_clips} clips have another target than in {truth.path}, the first is "
            f"{others[0]}: it is the truth of another corpus. {advice}"
        )
    return matched


def prediction_truths(predictions: Sequence[Prediction], path: Path, truth: CorpusTruth) -> list[ClipTruth]:
    """The truth of each clip of a prediction file; see `match_truth`."""
    return match_truth([(own.id, own.media, own.target) for own in predictions], path, truth)
