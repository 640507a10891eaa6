"""What is true of generated clips: counts by hand, over processes, and differences between runs."""

from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules.synthetic.truth import ClipTruth, CorpusTruth
from lightning_modules.metrics.claims import (
    FIGURES,
    claim_counts,
    clip_counts,
    grounding_figures,
    prediction_truths,
    sentence_support,
)
from lightning_modules.metrics.grounding import Grounding
from lightning_modules.metrics.intervals import Interval
from lightning_modules.metrics.paired_grounding import compare_grounding
from lightning_modules.metrics.predictions import PredictedSentence, Prediction

pytestmark = pytest.mark.unit

AGREES = ClipTruth("anger", "anger", "anger")
FACE_DIFFERS = ClipTruth("anger", "fear", "anger")
VOICE_DIFFERS = ClipTruth("anger", "anger", "sadness")
FACE_ANGER, FACE_FEAR = "He frowns hard with lowered brows.", "He looks pale with frozen eyes."
FACE_JOY = "He slightly smiles with raised cheeks."
VOICE_ANGER, VOICE_SADNESS = "He shouts in a loud harsh voice.", "He cries with a weak broken tone."
BODY_ANGER, SCENE = "He points with a stiff finger.", "A plain wall fills the background."


def predicted(identifier: str, *sentences: str, prediction: str = "anger", judged: str | None = "anger") -> Prediction:
    said = tuple(map(PredictedSentence, sentences))
    media = f"/elsewhere/dfew/Clip/original/{identifier}.mp4"
    return Prediction(identifier, "anger", prediction, 1.0, 1.0, None, said, judged, media=media)


CLIPS = [
    (predicted("1", FACE_ANGER, VOICE_ANGER), AGREES),  # all true, faithful
    (predicted("2", FACE_ANGER, FACE_FEAR, FACE_JOY, VOICE_ANGER), FACE_DIFFERS),  # the label, the truth, neither
    (predicted("3", VOICE_ANGER, VOICE_SADNESS, SCENE), VOICE_DIFFERS),  # the label, the truth
    (predicted("4", FACE_ANGER, BODY_ANGER), AGREES),  # nothing supports the body
    (predicted("5", FACE_FEAR, prediction="fear", judged="fear"), FACE_DIFFERS),  # true, and the wrong answer
    (predicted("6", SCENE, "Words of no grammar.", judged="neutral"), AGREES),  # claims nothing
    (predicted("7", SCENE), AGREES),  # neither; the judge takes it for right
]
BY_HAND = {
    "grounded": (2 + 2 + 1 + 1 + 1, 2 + 4 + 2 + 1 + 1),
    "grounded_face_contradicting": (1 + 1, 3 + 1),
    "label_face_contradicting": (1, 4),
    "grounded_voice_contradicting": (1, 2),
    "label_voice_contradicting": (1, 2),
    "unsupported": (1, 11),
    "grounded_fcr": (2, 7),
}


def counts(judged: bool = True) -> np.ndarray:
    predictions, truths = zip(*CLIPS, strict=True)
    return clip_counts(predictions, truths, judged)


def test_counts_by_hand() -> None:
    figures = grounding_figures(counts().sum(axis=0))
    assert {name: (own["numerator"], own["denominator"]) for name, own in figures.items()} == BY_HAND
    assert figures["grounded"]["value"] == 7 / 10
    assert list(figures) == list(FIGURES)


def test_without_a_judge_there_is_no_grounded_fcr() -> None:
    figures = grounding_figures(counts(judged=False).sum(axis=0))
    assert figures["grounded_fcr"] == {"value": None, "numerator": 0, "denominator": 0}
    assert figures["grounded"]["value"] == 7 / 10


def test_a_policy_that_sees_the_label_in_the_face() -> None:
    said = [claim_counts([FACE_ANGER, FACE_ANGER], truth, True) for truth in (AGREES, FACE_DIFFERS, FACE_DIFFERS)]
    figures = grounding_figures(sum(said))
    assert figures["grounded"]["value"] == 2 / 6
    assert figures["grounded_face_contradicting"] == {"value": 0.0, "numerator": 0, "denominator": 4}
    assert figures["label_face_contradicting"]["value"] == 1.0
    assert figures["grounded_fcr"]["value"] == 1 / 3


def test_cues_joined_in_one_sentence_are_claims_of_their_own() -> None:
    joined = "He smiles with raised cheeks and shouts in a loud harsh voice."
    figures = grounding_figures(claim_counts([joined], AGREES, True))
    assert (figures["grounded"]["numerator"], figures["grounded"]["denominator"]) == (1, 2)
    assert figures["grounded_fcr"]["numerator"] == 0
    assert sentence_support(joined, AGREES) == "untrue"


def test_support_of_a_sentence() -> None:
    said = (FACE_ANGER, FACE_FEAR, VOICE_ANGER, BODY_ANGER, SCENE)
    assert [sentence_support(own, FACE_DIFFERS) for own in said] == ["untrue", "true", "true", "unsupported", None]


def test_two_processes_sum_their_counts() -> None:
    whole, first, second = Grounding(), Grounding(), Grounding()
    for metric, clips in ((whole, CLIPS), (first, CLIPS[:3]), (second, CLIPS[3:])):
        said = [[sentence.text for sentence in own.sentences] for own, _ in clips]
        truths, answers = [truth for _, truth in clips], [own.prediction for own, _ in clips]
        metric.update(said, truths, answers, [own.judged for own, _ in clips])
    assert whole.compute() == grounding_figures(counts().sum(axis=0))
    # As torchmetrics reduces it: the states of all processes, stacked.
    first.counts = first._reductions["counts"](torch.stack([first.counts, second.counts]))
    first._computed = None
    assert first.compute() == whole.compute()


def test_a_run_against_itself_and_against_the_truth() -> None:
    own = np.concatenate([counts()] * 8)
    same = compare_grounding(own, own, 200)
    assert list(same) == list(FIGURES)
    fcr = same.pop("grounded_fcr").difference
    assert fcr.value == 0 and fcr.low == pytest.approx(-fcr.high), "clips that were not tested might differ"
    assert {own.difference for own in same.values()} == {Interval(0.0, 0.0, 0.0)}
    sincere = np.stack([claim_counts([FACE_FEAR], FACE_DIFFERS, True)] * len(own))
    found = compare_grounding(own, sincere, 200)
    assert set(found) == set(FIGURES) - {"grounded_voice_contradicting", "label_voice_contradicting"}, "nothing said"
    grounded = found["grounded"]
    assert (grounded.baseline, grounded.other) == (0.7, 1.0) and grounded.difference.excludes_zero
    assert grounded.difference.value == pytest.approx(0.3) and grounded.test is None
    test = found["grounded_fcr"].test
    assert test is not None and (test.gained, test.lost) == (5 * 8, 0)


def test_truth_is_found_wherever_the_corpus_lies() -> None:
    media = {f"Clip/original/{own.id}.mp4": truth for own, truth in CLIPS}
    assert prediction_truths([own for own, _ in CLIPS], Path("p"), CorpusTruth(Path("t"), media)) == [
        t for _, t in CLIPS
    ]


def test_clips_without_truth_are_counted_and_named() -> None:
    predictions = [own for own, _ in CLIPS]
    truth = CorpusTruth(Path("t.json"), {"Clip/original/1.mp4": AGREES})
    with pytest.raises(ValueError, match=r"p\.jsonl: 6 of 7 clips have no truth in t\.json, the first is '2' \(/elsew"):
        prediction_truths(predictions, Path("p.jsonl"), truth)
    nameless = Prediction("1", "anger", "anger", 1.0, 1.0, None, (), None)
    with pytest.raises(ValueError, match=r"1 of 1 clips have no truth .*no media file is named"):
        prediction_truths([nameless], Path("p.jsonl"), truth)


def test_truth_of_another_corpus_is_refused() -> None:
    other = ClipTruth("fear", "fear", "fear")
    truth = CorpusTruth(Path("t.json"), {f"Clip/original/{own.id}.mp4": other for own, _ in CLIPS[:3]})
    with pytest.raises(ValueError, match=r"3 of 3 clips have another target .* '1' \(anger, there fear\)"):
        prediction_truths([own for own, _ in CLIPS[:3]], Path("p.jsonl"), truth)
