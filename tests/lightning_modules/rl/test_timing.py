"""The step meter with a clock that is set by hand."""

import pytest
import torch

from lightning_modules.rl import timing
from lightning_modules.rl.timing import StepMeter

pytestmark = pytest.mark.unit


class Clock:
    """Shows what it is set to."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(timing, "time", clock)
    return clock


def test_phases_add_up_and_a_new_step_begins_at_zero(clock: Clock) -> None:
    meter = StepMeter()
    meter.start(torch.device("cpu"))
    for seconds, tokens in ((1.0, 30), (3.0, 50)):
        with meter.phase("sample"):
            clock.now += seconds
        meter.add_tokens(tokens)
    with meter.phase("update"):
        clock.now += 0.5
    clock.now += 0.25  # between the phases
    summary = meter.summary()
    assert summary.pop("peak_memory_gib") > 0
    assert summary == {
        "seconds": 4.75,
        "encode_seconds": 0.0,
        "sample_seconds": 4.0,
        "score_seconds": 0.0,
        "reference_seconds": 0.0,
        "update_seconds": 0.5,
        "tokens_per_second": 20.0,
    }
    meter.start(torch.device("cpu"))
    assert meter.summary()["seconds"] == 0 and meter.summary()["tokens_per_second"] == 0


def test_a_cuda_phase_waits_for_what_it_launched(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    def synchronize(device: torch.device) -> None:
        assert device.type == "cuda"
        clock.now += 2.0

    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 3 * 2**30)
    meter = StepMeter()
    meter.start(torch.device("cuda"))
    with meter.phase("update"):
        clock.now += 1.0
    summary = meter.summary()
    assert summary["update_seconds"] == 3.0 and summary["peak_memory_gib"] == 3.0
