"""A pool that runs jobs, goes on where it was, and does not let one failure end the rest. Jobs are a short script."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tools.study.jobs import Job
from tools.study.plan import Plan, choose, make_plan, read_study
from tools.study.records import Records
from tools.study.runner import Pool, Run

pytestmark = pytest.mark.unit

STAND_IN = """
import os, pathlib, sys, time
command, folder, *rest = sys.argv[1:]
pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
print("words", *sys.argv[1:], os.environ["OMP_NUM_THREADS"], os.environ.get("CUDA_VISIBLE_DEVICES"), flush=True)
if "fail" in rest:
    print("something is wrong"); sys.exit(2)
if "hang" in rest and not (pathlib.Path(folder) / "begun").exists():
    (pathlib.Path(folder) / "begun").touch(); time.sleep(60)
with open(pathlib.Path(folder) / "runs", "a") as file: file.write("x")
"""
STUDY = """
seeds: [0]
folder: .
result: test
jobs:
  data: make {folder}
  train: fit {folder} {data}
  test: {run: "test {folder} {train}", folder: "{train}/test"}
arms: {plain: , other: {add: {train: OTHER}}}
"""


class Watcher:
    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []

    def changed(self, run: Run) -> None:
        self.seen.append((run.job.folder, run.status))

    def tick(self, runs: Sequence[Run]) -> None:
        pass


@pytest.fixture
def study(tmp_path: Path):
    """Runs the study; returns how its jobs ended, and what was seen."""
    (tmp_path / "stand_in.py").write_text(STAND_IN)

    def run(other: str = "more", workers: int = 2, text: str = STUDY, rerun: bool = False, **options):
        pool, plan = prepare(tmp_path, other, workers, text, **options)
        watcher = Watcher()
        runs = pool.run(plan, rerun, watcher)
        return {folder: own.status for folder, own in runs.items()}, watcher.seen

    return run


def prepare(tmp_path: Path, other: str, workers: int = 2, text: str = STUDY, **options) -> tuple[Pool, Plan]:
    (tmp_path / "study.yaml").write_text(text.replace("OTHER", other))
    plan = make_plan(choose(read_study(tmp_path / "study.yaml"), None, None), tmp_path / "out")
    program = (sys.executable, str(tmp_path / "stand_in.py"))
    return Pool(Records(tmp_path / "out"), workers, options.get("devices", ()), program), plan


def times_run(tmp_path: Path) -> dict[str, int]:
    out = tmp_path / "out"
    return {str(file.parent.relative_to(out)): len(file.read_text()) for file in out.rglob("runs")}


ALL = {"data", "train", "train/test", "train_other", "train_other/test"}


def test_every_job_is_run_once_after_what_it_needs(study, tmp_path: Path) -> None:
    ended, seen = study()
    assert ended == dict.fromkeys(ALL, "done") and times_run(tmp_path) == dict.fromkeys(ALL, 1)
    for before, after in (("data", "train"), ("train", "train/test"), ("train_other", "train_other/test")):
        assert seen.index((before, "done")) < seen.index((after, "running"))
    log = (tmp_path / "out/jobs/train_other.log").read_text()
    assert "more --progress.every_seconds 5 1" in log, "what it printed, with one thread"
    assert (
        f"main.py fit {tmp_path}/out/train_other {tmp_path}/out/data more" in (tmp_path / "out/commands.sh").read_text()
    )


def test_what_is_done_is_not_run_again(study, tmp_path: Path) -> None:
    study()
    _, seen = study()
    assert not seen and times_run(tmp_path) == dict.fromkeys(ALL, 1)


def test_an_arm_that_fails_takes_what_waits_for_it_and_nothing_else(study, tmp_path: Path) -> None:
    ended, _ = study("fail")
    assert ended == {**dict.fromkeys(ALL, "done"), "train_other": "failed", "train_other/test": "left out"}
    assert "something is wrong" in (tmp_path / "out/jobs/train_other.log").read_text()


def test_a_changed_command_is_refused_or_made_anew_with_what_depends_on_it(study, tmp_path: Path) -> None:
    study()
    text = STUDY.replace("fit {folder}", "fit {folder} longer")
    with pytest.raises(ValueError, match=r"out/train: `fit .*` made it, now it is `fit .* longer .*--changed rerun"):
        study(text=text)
    _, seen = study(text=text, rerun=True)
    assert {folder for folder, _ in seen} == ALL - {"data"} and times_run(tmp_path) == dict.fromkeys(ALL, 1)


def test_a_changed_configuration_is_a_changed_command(study, tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("a: 1")
    text = STUDY.replace("make {folder}", f"make {{folder}} -c {file}")
    study(text=text)
    file.write_text("a: 2")
    with pytest.raises(ValueError, match=r"own.yaml changed since"):
        study(text=text)


def test_a_job_whose_folder_was_removed_is_run_again_with_what_depends_on_it(study, tmp_path: Path) -> None:
    study()
    for path in (tmp_path / "out/train_other").rglob("runs"):
        path.unlink()
    subprocess.run(["rm", "-r", str(tmp_path / "out/train_other")], check=True)
    _, seen = study()
    assert {folder for folder, _ in seen} == {"train_other", "train_other/test"}


def test_a_folder_of_someone_else_is_left_alone(study, tmp_path: Path) -> None:
    (tmp_path / "out/train").mkdir(parents=True)
    (tmp_path / "out/train/thesis.txt").write_text("precious")
    with pytest.raises(FileExistsError, match="out/train has files that no job of this study has written"):
        study()
    assert (tmp_path / "out/train/thesis.txt").read_text() == "precious"


def test_what_lies_deeper_and_what_a_link_names_is_left_alone(study, tmp_path: Path) -> None:
    precious = tmp_path / "out/train/part_1/clip.mp4"
    precious.parent.mkdir(parents=True)
    precious.write_text("precious")
    (tmp_path / "out/data").symlink_to(precious.parent)
    for folder in ("data", "train"):
        with pytest.raises(FileExistsError, match=f"out/{folder} has files that no job of this study has written"):
            study()
        (tmp_path / "out/data").unlink(missing_ok=True)
    assert precious.read_text() == "precious"


def test_folders_of_other_jobs_may_lie_in_that_of_a_job(study, tmp_path: Path) -> None:
    study()
    (tmp_path / "out/jobs/train.json").unlink()
    (tmp_path / "out/train/runs").unlink()
    _, seen = study()
    assert {folder for folder, _ in seen} == {"train", "train/test"}


def test_workers_share_out_the_devices(study, tmp_path: Path) -> None:
    study(devices=[5], workers=1)
    assert "1 5\n" in (tmp_path / "out/jobs/data.log").read_text()


def test_a_job_with_two_threads_takes_two_places(study, tmp_path: Path) -> None:
    text = (
        STUDY.replace("data: make {folder}", "data: {run: make {folder}, threads: 2}")
        .replace("train: fit {folder} {data}", "train: fit {folder}")
        .replace('"test {folder} {train}"', '"test {folder} {train} {data}"')
    )
    text = text.replace("{run: make {folder}, threads: 2}", "{run: 'make {folder}', threads: 2}")
    _, seen = study(text=text)
    running: set[str] = set()
    for folder, status in seen:
        running = running | {folder} if status == "running" else running - {folder}
        assert "data" not in running or running == {"data"}


INTERRUPTED = """
import signal, sys
sys.path[:0] = [{root!r}, {tests!r}]
from pathlib import Path
from test_runner import Watcher, prepare
pool, plan = prepare(Path({tmp!r}), "hang")
try:
    pool.run(plan, False, Watcher())
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_stopped_study_leaves_no_process_and_goes_on(study, tmp_path: Path, number: int) -> None:
    root, tests = str(Path(__file__).parents[3]), str(Path(__file__).parent)
    (tmp_path / "interrupted.py").write_text(INTERRUPTED.format(root=root, tests=tests, tmp=str(tmp_path)))
    process = subprocess.Popen([sys.executable, str(tmp_path / "interrupted.py")], start_new_session=True)
    record = tmp_path / "out/jobs/train/test.json"
    wait_for(lambda: record.exists() and json.loads(record.read_text())["finished"])
    wait_for((tmp_path / "out/train_other/begun").exists)
    process.send_signal(number)
    assert process.wait(60) == 130
    with Records(tmp_path / "out").open_log(Job("", 0, "train_other", (), (), 1, 1, ()), anew=False):
        pass  # not locked: the hanging job has ended
    ended, seen = study("hang")
    assert ended == dict.fromkeys(ALL, "done") and {folder for folder, _ in seen} == {"train_other", "train_other/test"}
    assert "--ckpt_path last" in (tmp_path / "out/jobs/train_other.log").read_text(), "goes on in its folder"


IMPATIENT = """
import signal, subprocess, sys
sys.path[:0] = [{root!r}]
from tools.study.runner import stop
deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(60)"
job = subprocess.Popen([sys.executable, "-c", deaf], stdout=subprocess.PIPE, start_new_session=True)
job.stdout.readline()
signal.signal(signal.SIGALRM, signal.default_int_handler)  # as Ctrl-C, again
signal.alarm(1)
try:
    stop([job])
except KeyboardInterrupt:
    sys.exit(0 if job.returncode == -signal.SIGKILL else 1)
"""


def test_pressing_ctrl_c_again_leaves_no_process_either() -> None:
    root = str(Path(__file__).parents[3])
    process = subprocess.Popen([sys.executable, "-c", IMPATIENT.format(root=root)])
    assert process.wait(60) == 0


def test_a_job_that_outlives_its_study_is_not_run_beside_itself(study, tmp_path: Path) -> None:
    pool, plan = prepare(tmp_path, "more")
    with (
        pool.records.open_log(plan.jobs["data"], anew=True),
        pytest.raises(BlockingIOError, match="data is still being run"),
    ):
        study()


def test_two_studies_do_not_work_in_one_output(study, tmp_path: Path) -> None:
    pool, _ = prepare(tmp_path, "more")
    with pool.records.held(), pytest.raises(BlockingIOError, match="Another study is being run in .*/out. Wait for"):
        study()
    ended, _ = study()
    assert ended == dict.fromkeys(ALL, "done")


def wait_for(condition, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
