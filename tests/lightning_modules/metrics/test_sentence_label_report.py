"""The verifier's report on held-out sentences, by hand."""

import json

import pytest
import torch

from lightning_modules.metrics.sentences import SentenceLabelReport

pytestmark = pytest.mark.numerics

PROBABILITIES = torch.tensor(
    [
        [0.90, 0.20, 0.05, 0.01],  # set {a, b}
        [0.15, 0.08, 0.05, 0.01],  # set {a}
        [0.02, 0.09, 0.05, 0.01],  # set {b}: none above 0.1, so the most probable
        [0.50, 0.60, 0.20, 0.01],  # set {b, a}: c is above 0.1, but the third
    ]
)
LABELS = torch.tensor([[1, 1, 0, 0], [0, 1, 0, 0], [0, 1, 0, 0], [1, 1, 0, 0]]).float()


def test_by_hand():
    report = SentenceLabelReport("abcd")
    report.update(PROBABILITIES[:1], LABELS[:1])
    report.update(PROBABILITIES[1:], LABELS[1:])
    values = report.compute()
    # At the threshold: a has 2 hits, 1 false; b has 2 hits, 2 missed; c has 1 false and no sentence.
    assert values["per_label_f1"] == pytest.approx({"a": 4 / 5, "b": 4 / 6, "c": None, "d": None})
    assert values["macro_f1"] == pytest.approx((4 / 5 + 4 / 6) / 2)
    assert values["absent_labels"] == ["c", "d"]
    assert values["top_label_accuracy"] == 3 / 4
    assert values["exact_match"] == 3 / 4
    assert (values["num_sentences"], values["threshold"]) == (4, 0.1)
    assert json.loads(json.dumps(values)) == values


def test_two_processes_add_up_to_one():
    whole, first, second = (SentenceLabelReport("abcd") for _ in range(3))
    whole.update(PROBABILITIES, LABELS)
    first.update(PROBABILITIES[:1], LABELS[:1])
    second.update(PROBABILITIES[1:], LABELS[1:])
    first.merge_state(second)
    assert first.compute() == whole.compute()


def test_no_sentence_is_an_error():
    with pytest.raises(ValueError, match="No sentence was evaluated"), pytest.warns(UserWarning, match="before"):
        SentenceLabelReport("abcd").compute()
