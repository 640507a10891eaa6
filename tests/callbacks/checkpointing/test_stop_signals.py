"""What a process is asked by signals, and what SLURM is asked for; whole jobs: tests/e2e/test_jobs.py."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from callbacks.checkpointing.stop_signals import StopSignals, requeue_job

pytestmark = pytest.mark.unit


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = {signum: signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGUSR1)}
    yield
    for signum, handler in before.items():
        signal.signal(signum, handler)


def alone() -> Any:
    return SimpleNamespace(strategy=SimpleNamespace(reduce_boolean_decision=lambda decision, all: decision))


def test_a_signal_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    signals = StopSignals()
    signals.listen_for_requeue()
    signals.listen_for_end()
    assert not signals.are_heard(alone())
    os.kill(os.getpid(), signal.SIGTERM)
    assert signals.are_heard(alone()) and not signals.is_to_be_requeued
    os.kill(os.getpid(), signal.SIGUSR1)
    assert signals.are_heard(alone()) and signals.is_to_be_requeued


def test_the_second_signal_has_its_usual_meaning_outside_of_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    before = signal.getsignal(signal.SIGUSR1)
    StopSignals().listen_for_requeue()
    assert signal.getsignal(signal.SIGUSR1) == before


@pytest.fixture
def scontrol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program that writes its arguments to the file that is returned."""
    program, asked = tmp_path / "scontrol", tmp_path / "asked"
    program.write_text(f'#!/bin/sh\necho "$@" > {asked}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "4713")
    return asked


def test_a_task_of_an_array_is_queued_alone(scontrol: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    requeue_job()
    assert scontrol.read_text() == "requeue 4713\n"
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "4711")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "2")
    requeue_job()
    assert scontrol.read_text() == "requeue 4711_2\n"


def test_a_job_that_slurm_does_not_take_back_is_told(scontrol: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = scontrol.with_name("scontrol")
    program.write_text("#!/bin/sh\necho 'Requested operation is presently disabled' >&2\nexit 1\n")
    with pytest.warns(UserWarning, match=r"job 4713 .*\(Requested operation is presently disabled\): submit it again"):
        requeue_job()
    monkeypatch.setenv("PATH", "")
    with pytest.warns(UserWarning, match=r"job 4713 .*No such file.*scontrol.*on the PATH"):
        requeue_job()
