from pathlib import Path

import pytest

from callbacks.predictions import score_responses
from datamodules.emotions import DFEW_TAXONOMY
from datamodules.rationale import read_response
from lightning_modules.emotion_verifier import EmotionVerifier

pytestmark = pytest.mark.e2e

TINY = str(Path(__file__).parents[1] / "golden" / "tiny_verifier")


def test_rows_without_target_or_without_verifier():
    responses = [read_response("<think>He smiles.</think><answer>happy</answer>", DFEW_TAXONOMY)] * 2
    readings = EmotionVerifier(TINY).read_groups([response.sentences for response in responses])
    unlabelled, labelled = score_responses(["a", "b"], responses, [None, "happiness"], readings, None, DFEW_TAXONOMY)
    assert (unlabelled.accuracy, unlabelled.explanation, unlabelled.format) == (None, None, 1)
    assert (labelled.accuracy, labelled.prediction) == (1, "happiness")
    assert labelled.explanation is not None
    row = score_responses(["a"], responses[:1], ["anger"], None, ["fear"], DFEW_TAXONOMY)[0].row(DFEW_TAXONOMY, "judge")
    assert (row["accuracy"], row["explanation"]) == (0, None)
    assert (row["judged"], row["judge"], row["taxonomy"]) == ("fear", "judge", "dfew")
    assert row["sentences"] == ({"text": "He smiles.", "emotions": None, "probabilities": None},)
    assert not {"dataset", "media", "completion", "failure"} & set(row)


def test_the_format_of_predictions_has_the_models_sections():
    texts = ["<context>A party.</context><think>He smiles.</think><answer>happy</answer>"]
    texts += [texts[0].replace("<context>A party.</context>", "")]
    responses = [read_response(text, DFEW_TAXONOMY, sections=["context"]) for text in texts]
    rows = score_responses(["a", "b"], responses, ["happiness"] * 2, None, None, DFEW_TAXONOMY)
    assert [row.format for row in rows] == [1, 0]
    assert [row.prediction for row in rows] == ["happiness"] * 2, "evaluation reads as published"
