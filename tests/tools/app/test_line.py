"""One clip is explained at a time, and only while there is somebody who reads it."""

import wave
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tools.app.conftest import Patient
from tests.tools.report.conftest import GOLDEN_CLIP
from tools.app.line import Line

pytestmark = pytest.mark.e2e

CLIP = str(GOLDEN_CLIP)


@pytest.fixture
def line(patient: Patient) -> Iterator[Line]:
    own = Line([patient], timeout_seconds=200.0)
    yield own
    own.close()


def modes_of(line: Line, clip: str) -> list[str]:
    events = [event for news in line.explain(clip, "reader", line.enter("reader")) for event in news]
    done = [event["mode"] for event in events if event.get("done")]
    assert "clip" in events[0] and events[0]["modes"] == done
    return done


def is_idle(line: Line) -> bool:
    return line._worker.submit(lambda: True).result(60)


def test_a_clip_is_explained_whole_and_in_part(line: Line, patient: Patient, tmp_path: Path) -> None:
    patient.may_end.set()
    assert modes_of(line, CLIP) == ["full", "video_only", "audio_only"]
    with wave.open(str(tmp_path / "sound.wav"), "wb") as sound:
        sound.setparams((1, 2, 16000, 0, "NONE", ""))
        sound.writeframes(bytes(range(200)) * 160)
    assert modes_of(line, str(tmp_path / "sound.wav")) == ["full"], "nothing, or all, would be taken away"


def test_the_next_clip_of_a_reader_ends_the_one_before(line: Line, patient: Patient) -> None:
    before = line.explain(CLIP, "reader", line.enter("reader"))
    waiting = line.explain(CLIP, "other", line.enter("other"))
    assert "clip" in next(before)[0]
    line.enter("reader")
    assert not any(event.get("done") for news in before for event in news)
    assert "clip" in next(waiting)[0], "it is the turn of others, who are not disturbed"


def test_nothing_is_written_for_who_has_left(line: Line, patient: Patient) -> None:
    events = line.explain(CLIP, "reader", line.enter("reader"))
    next(events)
    events.close()
    assert is_idle(line) and not patient.may_end.is_set()


def test_closing_ends_what_is_written(line: Line) -> None:
    events = line.explain(CLIP, "reader", line.enter("reader"))
    next(events)
    line.close()
    assert not any(event.get("done") for news in events for event in news)


def test_a_fault_costs_one_clip(
    line: Line, patient: Patient, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(patient, "explain", lambda *arguments: 1 / 0)
        *_, (last,) = line.explain(CLIP, "reader", line.enter("reader"))
    assert last == {"error": "This failed; the terminal says where."}
    assert "ZeroDivisionError" in capfd.readouterr().err
    patient.may_end.set()
    assert len(modes_of(line, CLIP)) == 3


def test_a_file_that_is_gone_is_named_by_no_path(line: Line, tmp_path: Path) -> None:
    ((event,),) = line.explain(str(tmp_path / "gone.mp4"), "reader", line.enter("reader"))
    assert event["error"].startswith("The clip was not decoded: ") and str(tmp_path) not in event["error"]
