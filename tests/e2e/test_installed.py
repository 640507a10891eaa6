"""The wheel, installed where the packages that it needs are: the command `erv` in a folder that has nothing else."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
SOURCES = ("main.py", "pyproject.toml", "README.md", "LICENSE")
PACKAGES = ("datamodules", "lightning_modules", "callbacks", "tools", "configs")
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]

Run = Callable[..., str]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy: a build leaves files beside its sources."""
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        shutil.copy(ROOT / name, source)
    for name in PACKAGES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    build = ["wheel", str(source), "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(built)]
    subprocess.run([*PIP, *build], check=True)
    (file,) = built.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("installed")
    options = ["--no-deps", "--no-index", "--no-compile", "--target", str(target)]
    subprocess.run([*PIP, "install", *options, str(wheel)], check=True)
    return target


@pytest.fixture
def erv(installed: Path, tmp_path: Path) -> Run:
    """Runs `erv` in an empty folder that is also the home directory; returns what it prints."""
    environment = {**os.environ, "PYTHONPATH": str(installed), "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}

    def run(*arguments: str, status: int = 0) -> str:
        command = [str(installed / "bin" / "erv"), *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == status, done.stderr
        return done.stderr if status else done.stdout

    return run


def test_the_wheel_has_all_files_that_are_read(wheel: Path) -> None:
    files = set(zipfile.ZipFile(wheel).namelist())
    expected = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert expected | {"main.py"} == {file for file in files if ".dist-info/" not in file}


def test_it_speaks_of_itself_as_it_was_called(erv: Run) -> None:
    assert erv("--help").startswith("usage: erv COMMAND")
    assert erv("alarms", "--help").startswith("usage: erv alarms ")
    said = erv("predict", "-c", "stage/grop", status=2)
    assert "The nearest: stage/grpo" in said and "`erv configs` lists them" in said
    assert erv("configs", "configs/stage/grpo.yaml") == (ROOT / "configs/stage/grpo.yaml").read_text()
    listed = erv("configs")
    assert "│ stage/grpo " in listed and "│ taxonomy/words/english " in listed


def test_a_machine_is_looked_over(erv: Run) -> None:
    report = json.loads(erv("doctor", "--json"))
    assert not report["problems"] and None not in report["versions"].values()


def test_a_stage_and_a_study_in_an_empty_folder(erv: Run, tmp_path: Path) -> None:
    erv("synthesize", "--layout", "sentences", "--output", "data", "--num_clips", "60")
    erv("tiny", "--output", "~/tiny", "--texts", "~/data/train.jsonl", "--verifier_texts", "data/train.jsonl")
    files = ["-c", "trainer/default", "--config=configs/trainer/cpu.yaml", "-cstage/verifier"]
    files += ["-c", "configs/data/rationale_text"]
    options = ["--data.train=~/data/train.jsonl", "--model.path=tiny/verifier", "--trainer.default_root_dir=~/run"]
    erv("fit", *files, *options, "--trainer.max_steps=2", "--trainer.limit_val_batches=1")
    assert (tmp_path / "run/model/model.safetensors").is_file() and not (tmp_path / "~").exists()

    line = {"id": "1", "completion": "<think>He smiles.</think><answer>Happy</answer>", "target": "happiness"}
    (tmp_path / "said.jsonl").write_text(json.dumps(line) + "\n")
    score = "score --completions said.jsonl --taxonomy configs/taxonomy/dfew.yaml --output {folder}"
    (tmp_path / "study.yaml").write_text(f"seeds: [0]\nresult: scored\narms: {{only: }}\njobs: {{scored: '{score}'}}\n")
    erv("study", "-c", "study.yaml", "--output", "~/out")
    assert json.loads((tmp_path / "out/seed_0/scored/metrics.json").read_text())["taxonomy"] == "dfew"
    assert " erv score --completions" in (tmp_path / "out/commands.sh").read_text()
