"""What sentences rest on: nats, beliefs and figures by hand."""

import math

import pytest
import torch
from torchmetrics.utilities import dim_zero_cat

from datamodules.synthetic.truth import ClipTruth
from lightning_modules.metrics.reliance import Reliance
from lightning_modules.metrics.reliance_report import RelianceReport
from lightning_modules.reliance import information

pytestmark = pytest.mark.unit

TRUTH = ClipTruth("anger", "fear", "anger")
FACE_ANGER, FACE_FEAR = "He frowns hard with lowered brows.", "He looks pale with frozen eyes."
VOICE_ANGER, VOICE_SADNESS = "He shouts in a loud harsh voice.", "He cries with a weak broken tone."
BODY, SCENE = "He points with a stiff finger.", "A plain wall fills the background."


def test_information_is_beside_the_mean_probability_of_other_clips() -> None:
    own = torch.tensor([0.5, 0.1, 0.0]).log()
    others = torch.tensor([[0.5, 0.3, 0.2], [0.5, 0.1, 0.4]]).log()
    expected = [0.0, math.log(0.1 / 0.2), -math.inf]
    assert information(own, others).tolist() == pytest.approx(expected, abs=1e-6)


def test_information_of_long_sentences_does_not_underflow() -> None:
    assert information(torch.tensor([-900.0]), torch.tensor([[-901.0], [-2000.0]])).item() == pytest.approx(
        1 + math.log(2)
    )


def test_belief_is_the_chance_of_one_emotion_in_so_many_times_what_the_clip_adds() -> None:
    assert Reliance(0.0, -3.0).belief(7) == pytest.approx(1 / 7), "what suits every clip"
    assert Reliance(-3.0, math.log(3.5)).belief(7) == pytest.approx(0.5), "by what it rests on most"
    assert Reliance(50.0).belief(7) == 1.0
    assert Reliance(1e6).belief(7) == 1.0
    assert Reliance(sound=-50.0).belief(7) == pytest.approx(0.0)
    assert Reliance(sound=-math.inf).belief(7) == 0.0


def test_figures_by_hand() -> None:
    report = RelianceReport()
    said = [[FACE_ANGER, FACE_FEAR, BODY], [VOICE_ANGER, FACE_ANGER, SCENE], [VOICE_SADNESS, f"{FACE_FEAR} {BODY}"]]
    # Of the face by the pictures: 0.5 and 1.5 are untrue, 1.0 is true. The sound has to play no part in it.
    values = [
        [Reliance(0.5, 9.0, 1.0), Reliance(1.0, 0.0, 1.0), Reliance(0.05, 0.05, 0.0)],
        [Reliance(0.0, 20.0, 3.0), Reliance(1.5, -2.0, 1.0), Reliance(-1.0, -1.0, -1.0)],
        [Reliance(0.0, 10.0, 2.0), Reliance(5.0, 5.0, 5.0)],
    ]
    report.update(said[:2], values[:2], [TRUTH] * 2)
    report.update(said[2:], values[2:], [TRUTH])
    figures = report.compute()
    assert (figures["num_sentences"], figures["neither"]) == (8, 2 / 8)
    assert figures["pictures"] == pytest.approx((0.5 + 1 + 0.05 + 0 + 1.5 - 1 + 0 + 5) / 8)
    assert figures["both"] == pytest.approx(12 / 8)
    assert figures["auc_face"] == pytest.approx(0.5), "above one of two untrue claims"
    assert figures["auc_voice"] == 1.0, "20 nats and 10 are not the same"
    # True: 1.0, 20.0; untrue: 9.0, 1.5, 10.0.
    assert figures["auc"] == pytest.approx(3 / 6)


def test_processes_count_the_sentences_of_all() -> None:
    both, first, second, silent = (RelianceReport() for _ in range(4))
    halves = [([[FACE_ANGER]], [[Reliance(0.5, 9.0, 1.0)]]), ([[FACE_FEAR], []], [[Reliance(1.0, 0.0, 1.0)], []])]
    for own, half in zip((first, second), halves, strict=True):
        own.update(*half, [TRUTH] * 2)
        both.update(*half, [TRUTH] * 2)
    silent.update([[]], [[]])
    others = [dim_zero_cat(second.rows), torch.tensor([], dtype=silent.dtype)]
    first.sync(dist_sync_fn=lambda own, group=None: [own, *others], distributed_available=lambda: True)
    first._to_sync = False
    assert first.compute() == both.compute()


def test_figures_that_cannot_be_had_are_none() -> None:
    report = RelianceReport()
    assert report.compute() == {
        "num_sentences": 0,
        **dict.fromkeys(["pictures", "sound", "both", "neither", "auc_face", "auc_voice", "auc"]),
    }
    report.update([[FACE_ANGER], []], [[Reliance(pictures=0.4)], []])
    figures = report.compute()
    assert figures["pictures"] == pytest.approx(0.4) and figures["neither"] == 0.0
    assert {figures[name] for name in ("sound", "both", "auc_face", "auc_voice", "auc")} == {None}
