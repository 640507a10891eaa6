"""WAR, UAR, EEA, EPC, FCR and the report: golden cases, hand-computed numbers, merging."""

import json
from pathlib import Path

import pytest
import torch
from torchmetrics import MetricCollection

from datamodules.emotions import DFEW_TAXONOMY, MAFW_TAXONOMY, Taxonomy, get_taxonomy
from datamodules.rationale import read_response
from lightning_modules.judges import FileJudge
from lightning_modules.metrics.counts import class_indices
from lightning_modules.metrics.emotion_report import EmotionReport
from lightning_modules.metrics.explanation import EEA, EPC, FCR
from lightning_modules.metrics.recognition import UAR, WAR

pytestmark = pytest.mark.numerics

GOLDEN = Path(__file__).parents[2] / "golden/metrics"
THREE = Taxonomy("three", ("anger", "fear", "neutral"))

# target, prediction, judged; None: unknown answer or invalid reply
CLIPS = [
    ("anger", "anger", "anger"),
    ("anger", "anger", "fear"),
    ("anger", None, None),  # unknown and invalid are not equal to each other
    ("anger", "fear", "anger"),
    ("fear", "fear", "fear"),
    ("fear", None, "fear"),
]


def indices(clips, taxonomy=THREE):
    targets, predictions, judged = zip(*clips, strict=True)
    return {
        "prediction": class_indices(predictions, taxonomy),
        "target": class_indices(targets, taxonomy),
        "judged": class_indices(judged, taxonomy),
    }


def all_metrics(taxonomy) -> MetricCollection:
    return MetricCollection(
        {
            "war": WAR(taxonomy),
            "uar": UAR(taxonomy),
            "uar_answered_only": UAR(taxonomy, answered_only=True),
            "eea": EEA(taxonomy),
            "epc": EPC(taxonomy),
            "fcr": FCR(taxonomy),
        }
    )


@pytest.mark.parametrize("case", ["dfew_clean", "mafw_alias"])
def test_golden(case):
    expected = json.loads((GOLDEN / case / "expected.json").read_text())
    taxonomy = get_taxonomy(expected.pop("dataset"))
    rows = [json.loads(line) for line in (GOLDEN / case / "completions.jsonl").read_bytes().splitlines()]
    verdicts = FileJudge(GOLDEN / case / "judge.jsonl").verdicts([row["id"] for row in rows], taxonomy)
    clips = [
        (taxonomy.canonical(row["target"]), read_response(row["completion"], taxonomy).prediction, verdict)
        for row, verdict in zip(rows, verdicts, strict=True)
    ]
    report = EmotionReport(taxonomy, judge="golden")
    metrics = all_metrics(taxonomy)
    for start in range(0, len(clips), 16):  # as in an evaluation: batch by batch
        report.update(**indices(clips[start : start + 16], taxonomy))
        metrics.update(**indices(clips[start : start + 16], taxonomy))
    computed = report.compute()
    assert computed["absent_classes"] == expected.pop("absent_classes")
    assert {name: computed[name] for name in expected} == pytest.approx(expected, abs=1e-12)
    for name, value in metrics.compute().items():
        assert float(value) == pytest.approx(expected[name], abs=1e-6), name


def test_by_hand():
    metrics = all_metrics(THREE)
    metrics.update(**indices(CLIPS))
    with pytest.warns(UserWarning, match=r"UAR leaves out classes without a clip \(three\): neutral"):
        values = {name: float(value) for name, value in metrics.compute().items()}
    assert values == pytest.approx(
        {
            "war": 3 / 6,
            "uar": (2 / 4 + 1 / 2) / 2,
            "uar_answered_only": (2 / 3 + 1 / 1) / 2,
            "eea": 4 / 6,
            "epc": 2 / 6,
            "fcr": 2 / 6,
        }
    )


@pytest.mark.filterwarnings("ignore:UAR leaves out")
def test_report_by_hand():
    report = EmotionReport(THREE, judge="hand")
    report.update(**indices(CLIPS))
    values = report.compute()
    assert json.loads(json.dumps(values, allow_nan=False)) == values  # plain JSON
    assert (values["num_samples"], values["unknown_answers"], values["judge_failures"]) == (6, 2, 1)
    assert (values["judge"], values["absent_classes"]) == ("hand", ["neutral"])
    assert values["confusion_matrix"] == {
        "rows": ["anger", "fear", "neutral"],
        "columns": ["anger", "fear", "neutral", "unknown"],
        "counts": [[2, 1, 0, 1], [0, 1, 0, 1], [0, 0, 0, 0]],
    }
    assert values["per_class"]["anger"] == pytest.approx(
        {"num_samples": 4, "recall": 2 / 4, "precision": 1, "f1": 4 / 6, "eea": 2 / 4, "epc": 1 / 4, "fcr": 1 / 4}
    )
    assert values["per_class"]["fear"] == pytest.approx(
        {"num_samples": 2, "recall": 1 / 2, "precision": 1 / 2, "f1": 2 / 4, "eea": 1, "epc": 1 / 2, "fcr": 1 / 2}
    )
    absent = values["per_class"]["neutral"]
    assert absent.pop("num_samples") == 0
    assert set(absent.values()) == {None}


def test_without_a_judge_the_explanation_metrics_are_none():
    report = EmotionReport(DFEW_TAXONOMY)
    report.update(torch.arange(7), torch.arange(7))
    values = report.compute()
    assert values["war"] == 1
    assert {values[name] for name in ("eea", "epc", "fcr", "judge", "judge_failures")} == {None}


def test_only_unknown_answers():
    report = EmotionReport(DFEW_TAXONOMY)
    report.update(torch.full((7,), -1), torch.arange(7))
    values = report.compute()
    assert (values["war"], values["uar"], values["uar_answered_only"], values["unknown_answers"]) == (0, 0, None, 7)
    answered = UAR(DFEW_TAXONOMY, answered_only=True)
    answered.update(torch.full((7,), -1), torch.arange(7))
    assert answered.compute().isnan()


@pytest.mark.filterwarnings("ignore:UAR leaves out")
def test_two_processes_add_up_to_one():
    whole, first, second = (EmotionReport(THREE, judge="hand") for _ in range(3))
    whole.update(**indices(CLIPS))
    first.update(**indices(CLIPS[:2]))
    second.update(**indices(CLIPS[2:]))
    first.merge_state(second)
    assert first.compute() == whole.compute()
    assert first._reductions["counts"] is not None  # reduced over processes, by torchmetrics' sum
    assert torch.equal(first._reductions["counts"](torch.stack([whole.counts, whole.counts])), 2 * whole.counts)


def test_one_state_serves_the_whole_collection():
    metrics = all_metrics(MAFW_TAXONOMY)
    metrics.update(torch.arange(11), torch.arange(11), torch.arange(11))
    metrics.update(torch.arange(11), torch.arange(11), torch.arange(11))
    assert len(metrics.compute_groups) == 1
    assert {float(value) for value in metrics.compute().values()} == {1.0}


@pytest.mark.filterwarnings("ignore:UAR leaves out")
@pytest.mark.parametrize("metric", [WAR, UAR, EEA, EPC, FCR, EmotionReport])
def test_no_clip_is_an_error(metric):
    with pytest.raises(ValueError, match="No clip was evaluated"), pytest.warns(UserWarning, match="before"):
        metric(DFEW_TAXONOMY).compute()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (([7], [0], [0]), "prediction between -1 and 6"),
        (([-2], [0], [0]), "prediction between -1 and 6"),
        (([0], [-1], [0]), "target between 0 and 6"),
        (([0], [0], [7]), "judged between -1 and 6"),
        (([0, 1], [0], [0]), r"prediction of shape \[N\]"),
    ],
)
def test_bad_indices_are_errors(values, message):
    with pytest.raises(ValueError, match=message):
        WAR(DFEW_TAXONOMY).update(*(torch.tensor(value) for value in values))


def test_answer_by_explanation_and_the_released_protocol() -> None:
    """EEA, UAR and the 2 × 2 by hand, as the paper defines them and as its code computes them."""
    clips = [
        ("happiness", "happiness", "happiness"),  # both right
        ("happiness", "happiness", "sadness"),  # the answer alone
        ("happiness", "fear", "happiness"),  # the explanation alone
        ("sadness", None, "sadness"),  # the explanation of a clip without a readable answer
        ("sadness", "anger", None),  # neither
    ]
    reports = {}
    for protocol in ("paper", "released"):
        metric = EmotionReport(DFEW_TAXONOMY, "judge", protocol)
        metric.update_clips([own[1] for own in clips], [own[0] for own in clips], [own[2] for own in clips])
        reports[protocol] = metric.compute()
    for report in reports.values():
        expected = {"both": 1, "answer_only": 1, "explanation_only": 2, "neither": 1}
        assert report["answer_by_explanation"] == expected
        assert (report["war"], report["fcr"]) == (2 / 5, 1 / 5)
    paper, released = reports["paper"], reports["released"]
    assert (paper["eea"], released["eea"]) == (3 / 5, 2 / 5)
    assert paper["uar"] == pytest.approx((2 / 3 + 0) / 2)
    assert released["uar"] == pytest.approx((2 / 3 + 0) / 7)
    assert (paper["protocol"], released["protocol"]) == ("paper", "released")
