"""The script for a first run on a GPU, tried on a CPU: each part's result is there, whatever becomes of the others."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.gpu_check import ROOT, Part, count_tests, make_parts, run_part, tail


def smoke(output: Path, *options: str) -> dict:
    command = [sys.executable, "benchmarks/gpu_check.py", "--device", "cpu", "--smoke", "--output", str(output)]
    result = subprocess.run([*command, *options], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return json.loads((output / "gpu_check.json").read_text())


@pytest.mark.e2e
def test_a_step_and_tests(tmp_path: Path) -> None:
    found = smoke(tmp_path, "--parts", "tests", "eager")
    assert found["tests"]["result"] == {"passed": 1, "failed_tests": []}
    assert found["eager"]["result"]["shared"]["seconds"]["step"]["median"] > 0


@pytest.mark.e2e
@pytest.mark.slow
def test_all_parts(tmp_path: Path) -> None:
    """About three minutes."""
    found = smoke(tmp_path)
    assert list(found) == list(make_parts("cpu", True, tmp_path))
    assert all(record["status"] == 0 and record["result"] for record in found.values())
    assert len(found["stage3"]["result"]["step/seconds"]) == 3
    for figures in found["estimate"]["result"].values():
        assert figures["estimated"] > figures["measured"] > 0, "0.5B beside a tiny model"


@pytest.mark.unit
def test_a_part_that_hangs_is_killed_and_loses_nothing(tmp_path: Path) -> None:
    script = "import time; print('a.py::test_one PASSED', flush=True); time.sleep(60)"
    log, start = tmp_path / "log", time.monotonic()
    part = Part(60, [["-c", script], ["-c", "print('never')"]], lambda: count_tests(log))
    record = run_part(part, log, limit=2)
    assert time.monotonic() - start < 20
    assert record["status"] == "killed" and record["result"] == {"passed": 1, "failed_tests": []}
    assert tail(log) == ["a.py::test_one PASSED"]


@pytest.mark.unit
def test_a_part_that_fails_says_why(tmp_path: Path) -> None:
    log = tmp_path / "log"
    part = Part(60, [["-c", "raise SystemExit('no GPU')"]], lambda: json.loads((tmp_path / "none").read_text()))
    record = run_part(part, log, limit=60)
    assert record["status"] == 1 and record["result"] is None and record["log"] == ["no GPU"]


@pytest.mark.unit
def test_outcomes_of_tests(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("a.py::test_x[a b] PASSED [ 10%]\na.py::test_y FAILED [ 20%]\nFAILED a.py::test_y - assert 0\n")
    assert count_tests(log) == {"passed": 1, "failed": 1, "failed_tests": ["a.py::test_y"]}


@pytest.mark.unit
def test_all_parts_fit_the_budget_of_eight_minutes(tmp_path: Path) -> None:
    """The first ones by their limits; the last, which need the most time at worst, by what is left."""
    parts = make_parts("cuda", False, tmp_path)
    assert list(parts)[:3] == ["tests", "stage3", "eager"]
    assert sum(parts[name].limit for name in ("tests", "stage3", "eager", "compiled")) < 470
