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


def report_of(*parts: slice, labels: str | tuple[str, ...] = "abcd") -> SentenceLabelReport:
    report = SentenceLabelReport(labels)
    for part in parts:
        report.update(PROBABILITIES[part], LABELS[part])
    return report


def test_rates_by_hand():
    values = report_of(slice(0, 1), slice(1, 4)).compute()
    # At the threshold: a has 2 hits, 1 false; b has 2 hits, 2 missed; c has 1 false and no sentence.
    assert values["per_label"]["a"] | {"calibration_error": 0} == pytest.approx(
        {"support": 2, "precision": 2 / 3, "recall": 1, "f1": 4 / 5, "calibration_error": 0}
    )
    assert values["per_label"]["b"] | {"calibration_error": 0} == pytest.approx(
        {"support": 4, "precision": 1, "recall": 1 / 2, "f1": 4 / 6, "calibration_error": 0}
    )
    absent = values["per_label"]["c"]
    assert (absent["support"], absent["precision"], absent["recall"], absent["f1"]) == (0, 0, None, None)
    assert values["per_label"]["d"]["precision"] is None  # never read
    assert values["macro_f1"] == pytest.approx((4 / 5 + 4 / 6) / 2)
    assert values["micro_f1"] == pytest.approx(8 / (8 + 2 + 2))
    assert values["absent_labels"] == ["c", "d"]
    assert values["top_label_accuracy"] == 3 / 4
    assert values["exact_match"] == 3 / 4
    assert (values["num_sentences"], values["threshold"]) == (4, 0.1)
    assert json.loads(json.dumps(values)) == values


def test_threshold_sweep_by_hand():
    values = report_of(slice(0, 4)).compute()
    sweep = {point["threshold"]: point for point in values["threshold_sweep"]}
    assert list(sweep) == pytest.approx([0.05 * i for i in range(1, 19)])
    assert sweep[0.1] == {name: values[name] for name in ("threshold", "macro_f1", "micro_f1", "exact_match")}
    # At 0.55: a has 1 hit, 1 missed; b has 1 hit, 3 missed. Sets {a}, {a}, {b}, {b}: the third is right.
    assert sweep[0.55]["macro_f1"] == pytest.approx((2 / 3 + 2 / 5) / 2)
    assert sweep[0.55]["micro_f1"] == pytest.approx(4 / 8)
    assert sweep[0.55]["exact_match"] == 1 / 4
    # At 0.05, which the three probabilities of 0.05 do not exceed: a 2 hits, 1 false; b 4 hits; c 1 false.
    assert sweep[0.05]["micro_f1"] == pytest.approx(12 / 14)
    assert sweep[0.05]["exact_match"] == 3 / 4  # {a, b}, {a, b}, {b}, {b, a}


def test_calibration_by_hand():
    values = report_of(slice(0, 4)).compute()["calibration"]
    bins = {round(one["low"], 2): one for one in values["bins"]}
    # (0, 0.05]: 0.02, three 0.05, four 0.01; none true. (0.05, 0.1]: 0.08 and 0.09, both true.
    assert bins[0.0]["num_decisions"] == 8 and bins[0.0]["share_true"] == 0
    assert bins[0.0]["mean_probability"] == pytest.approx(0.21 / 8, abs=1e-6)
    assert bins[0.05]["num_decisions"] == 2 and bins[0.05]["share_true"] == 1
    assert bins[0.2]["mean_probability"] is None and bins[0.2]["interval"] is None
    # Gaps of the six decisions above the threshold: 0.9, true; 0.15, false; twice 0.2, one true; 0.5 and 0.6, true.
    above = 0.1 + 0.15 + (1 - 0.4) + 0.5 + 0.4
    assert values["error_above_threshold"] == pytest.approx(above / 6, abs=1e-6)
    assert values["error"] == pytest.approx((above + 0.21 + (2 - 0.17)) / 16, abs=1e-6)
    # d: four decisions at 0.01, none true.
    assert report_of(slice(0, 4)).compute()["per_label"]["d"]["calibration_error"] == pytest.approx(0.01, abs=1e-6)


def test_confusion_by_hand():
    values = report_of(slice(0, 4)).compute()["confusion"]
    # Most probable: a, a, b, b. Given: a and b; b; b; a and b.
    assert values == {"rows": ["a", "b"], "columns": ["a", "b"], "counts": [[1, 1], [2, 2]]}


def test_label_sets_by_hand():
    labels = ("anger", "joy", "neutral", "pride")
    values = report_of(slice(0, 4), labels=labels).compute()["label_sets"]
    # Margins: min(0.1, 0.075); min(0.02, 0.035); min(0.05, 0.02); min(0.4, 0.15). The two of 0.02 are a tie in float32.
    assert values["within_margin"]["0.01"] == 0
    assert values["within_margin"]["0.05"] == 2 / 4
    # At 0.05 the second sentence turns {anger} → {anger, joy}; the others keep their sets. Its own label is joy.
    assert values["readings"]["threshold_0.05"] == pytest.approx(
        {"label_set_changed": 1 / 4, "any_relation_changed": 1 / 4, "own_relation_changed": 1 / 6}
    )
    # The first sentence keeps anger only: 0.2 is not above 0.2.
    assert values["readings"]["threshold_0.2"] == pytest.approx(
        {"label_set_changed": 1 / 4, "any_relation_changed": 1 / 4, "own_relation_changed": 1 / 6}
    )
    # The first loses joy, the last anger; both are their own labels.
    assert values["readings"]["top_label_only"] == pytest.approx(
        {"label_set_changed": 2 / 4, "any_relation_changed": 2 / 4, "own_relation_changed": 2 / 6}
    )


def test_without_target_labels_no_relation_is_known():
    values = report_of(slice(0, 4)).compute()["label_sets"]["readings"]["threshold_0.05"]
    assert values == {"label_set_changed": 1 / 4, "any_relation_changed": 0, "own_relation_changed": None}


def test_several_updates_and_processes_add_up_to_one():
    whole, batches = report_of(slice(0, 4)), report_of(slice(0, 1), slice(1, 3), slice(3, 4))
    first, second = report_of(slice(0, 1)), report_of(slice(1, 4))
    first.merge_state(second)
    assert batches.compute() == whole.compute()
    assert first.compute() == whole.compute()


def test_no_sentence_is_an_error():
    with pytest.raises(ValueError, match="No sentence was evaluated"), pytest.warns(UserWarning, match="before"):
        SentenceLabelReport("abcd").compute()
