"""A pool of processes that runs the jobs of a study: what others wait for first, and what does not wait at once."""

import os
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from types import FrameType
from typing import Literal, Protocol

from datamodules.files.writing import write_text
from tools.program import own_command, program
from tools.study.jobs import Job
from tools.study.plan import Plan
from tools.study.records import Records

STAGES = ("fit", "validate", "test", "predict")
_REPORT_SECONDS = "5"
"""How often a stage writes its progress to its log."""
_STOP_SECONDS = 20.0
"""What a process has for its last checkpoint when it is asked to stop."""
_POLL_SECONDS = 0.1

Status = Literal["waiting", "running", "done", "failed", "left out"]


class StudyError(RuntimeError):
    """Jobs of a study failed; the others were run."""


@dataclass
class Run:
    """A job in this run of the study.

    Args:
        job: what it is.
        goes_on: in the folder that it left when it was stopped.
        status: how far it is now.
        started: by `time.monotonic`.
        seconds: that it took, in this run or before.
        exit_status: of its process, after a failure.
    """

    job: Job
    goes_on: bool
    status: Status = "waiting"
    started: float = 0.0
    seconds: float | None = None
    exit_status: int = 0


class Screen(Protocol):
    """Who watches a study."""

    def changed(self, run: Run) -> None:
        """A job has started, or ended."""

    def tick(self, runs: Sequence[Run]) -> None:
        """Some time has passed."""


@dataclass(frozen=True)
class Pool:
    """Runs the jobs of a plan.

    Args:
        records: of the study.
        num_workers: jobs at a time.
        devices: numbers of GPUs that workers share out among them; empty leaves the choice to the jobs.
        program: what a job's words are given to.
    """

    records: Records
    num_workers: int
    devices: Sequence[int] = ()
    program: Sequence[str] = field(default_factory=own_command)

    def run(self, plan: Plan, rerun: bool, screen: Screen) -> dict[str, Run]:
        """Run what is left to do. A job that fails takes with it what waits for it, and nothing else.

        Args:
            plan: of the study.
            rerun: run a job anew whose command or configuration has changed, instead of an error.
            screen: to tell.

        Returns:
            Folder → run, each `done`, `failed` or `left out`.

        Raises:
            FileExistsError: the folder of a job has other files.
            ValueError: another command made a job's folder.
            BlockingIOError: another study is being run in the output, or a job of one that was killed.
            KeyboardInterrupt: as it came, or for SIGTERM or SIGHUP; no process is left.
        """
        with self.records.held(), _terminated_as_interrupted():
            return self._run(plan, rerun, screen)

    def _run(self, plan: Plan, rerun: bool, screen: Screen) -> dict[str, Run]:
        runs = self._look(plan, rerun)
        write_text(plan.output / "commands.sh", commands(plan))
        urgency = _urgency(plan)
        processes: dict[str, subprocess.Popen[bytes]] = {}
        slots: dict[str, set[int]] = {}
        try:
            while True:
                self._leave_out(runs, screen)
                for run in _ready(runs, urgency):
                    free = sorted(set(range(self.num_workers)).difference(*slots.values()))
                    if len(free) >= min(run.job.slots, self.num_workers):
                        slots[run.job.folder] = set(free[: run.job.slots])
                        processes[run.job.folder] = self._start(run, free[0])
                        screen.changed(run)
                if not processes:
                    return runs
                for folder in [name for name, process in processes.items() if process.poll() is not None]:
                    self._end(runs[folder], processes.pop(folder).returncode)
                    del slots[folder]
                    screen.changed(runs[folder])
                screen.tick(list(runs.values()))
                time.sleep(_POLL_SECONDS)
        finally:
            stop(list(processes.values()))

    def _look(self, plan: Plan, rerun: bool) -> dict[str, Run]:
        """What is there of each job; what waits for one that is to be run is to be run, too."""
        runs: dict[str, Run] = {}
        for folder, job in plan.jobs.items():
            state = self.records.state(job)
            if state == "changed" and not rerun:
                raise ValueError(
                    f"{plan.output / folder}: {self.records.change(job)}. Give --changed rerun to make it anew with "
                    "all that depends on it, or choose another --output."
                )
            if state in ("finished", "stopped") and any(runs[need].status != "done" for need in job.needs):
                state = "outdated"
            is_done = state == "finished"
            seconds = self.records.seconds(job) if is_done else None
            goes_on = state == "stopped" and job.words[0] == "fit"  # which has checkpoints
            runs[folder] = Run(job, goes_on, "done" if is_done else "waiting", seconds=seconds)
        return runs

    def _leave_out(self, runs: Mapping[str, Run], screen: Screen) -> None:
        for run in runs.values():  # in which what a job needs stands before it
            if run.status == "waiting" and any(runs[need].status in ("failed", "left out") for need in run.job.needs):
                run.status = "left out"
                screen.changed(run)

    def _start(self, run: Run, slot: int) -> subprocess.Popen[bytes]:
        job = run.job
        environment = dict(os.environ)
        environment |= {name: str(job.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        if self.devices:
            environment["CUDA_VISIBLE_DEVICES"] = str(self.devices[slot % len(self.devices)])
        with self.records.open_log(job, anew=not run.goes_on) as log:
            self.records.begin(job, anew=not run.goes_on)
            run.status, run.started = "running", time.monotonic()
            # A session of its own: Ctrl-C reaches this process alone, which then stops the job with its children.
            return subprocess.Popen(
                [*self.program, *job.words, *_added(run)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )

    def _end(self, run: Run, exit_status: int) -> None:
        run.seconds = time.monotonic() - run.started
        run.exit_status = exit_status
        run.status = "failed" if exit_status else "done"
        if not exit_status:
            self.records.finish(run.job, run.seconds, datetime.now().astimezone().isoformat())


def commands(plan: Plan) -> list[str]:
    """The lines of a shell script that runs the jobs one after another."""
    lines = [f"# What `{program()} study` runs, beside each other where nothing waits."]
    for folder, job in plan.jobs.items():
        lines += ["", f"# {folder}: {job.name} of {', '.join(job.arms)}"]
        lines.append(f"OMP_NUM_THREADS={job.threads} {program()} {shlex.join(job.words)}")
    return lines


def stop(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """End processes with their children: asked first, then killed."""
    for process in processes:
        _signal(process, signal.SIGTERM)
    deadline = time.monotonic() + _STOP_SECONDS
    try:
        for process in processes:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(deadline - time.monotonic(), 0.0))
    finally:  # who presses Ctrl-C again does not want to wait
        for process in processes:
            _signal(process, signal.SIGKILL)  # also what its children left behind
            process.wait()


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    with suppress(ProcessLookupError):  # all of them have ended
        os.killpg(process.pid, number)


def _added(run: Run) -> list[str]:
    """Options that are no part of the command, as they change none of its results."""
    words = run.job.words
    added = ["--progress.every_seconds", _REPORT_SECONDS] if words[0] in STAGES else []
    return [*added, "--ckpt_path", "last"] if run.goes_on and "--ckpt_path" not in words else added


def _ready(runs: Mapping[str, Run], urgency: Mapping[str, int]) -> list[Run]:
    """Jobs that need not wait any longer; first those that most others wait for, one after another."""
    ready = [
        run
        for run in runs.values()
        if run.status == "waiting" and all(runs[need].status == "done" for need in run.job.needs)
    ]
    return sorted(ready, key=lambda run: -urgency[run.job.folder])


def _urgency(plan: Plan) -> dict[str, int]:
    """Folder → number of jobs in the longest chain that begins with it."""
    longest = dict.fromkeys(plan.jobs, 1)
    for folder, job in reversed(plan.jobs.items()):
        for need in job.needs:
            longest[need] = max(longest[need], longest[folder] + 1)
    return longest


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Have SIGTERM, and a terminal that is closed, end this process as Ctrl-C does."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {signal.SIGTERM: signal.signal(signal.SIGTERM, interrupt)}
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # not under `nohup`
        before[signal.SIGHUP] = signal.signal(signal.SIGHUP, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
