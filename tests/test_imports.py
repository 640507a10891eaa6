"""Imports point one way, and a command that needs no model does not wait for torch, transformers or Lightning."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import main
from benchmarks.imports import RUN, light_commands, write_corpus

ROOT = Path(__file__).parents[1]
ORDER = ["datamodules", "lightning_modules", "callbacks", "tools", "main"]
"""Each may import those before it."""


def imported(source: str) -> set[str]:
    """Packages of this project that a module imports, at its top or in a function."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are written out"
            names.add(str(node.module).partition(".")[0])
        elif isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
    return names & set(ORDER)


@pytest.mark.unit
@pytest.mark.parametrize("package", ORDER[:-1])
def test_imports_point_one_way(package: str) -> None:
    files = sorted((ROOT / package).rglob("*.py"))
    allowed = set(ORDER[: ORDER.index(package) + 1])
    upwards = {str(file.relative_to(ROOT)): imported(file.read_text()) - allowed for file in files}
    assert files and not {file: names for file, names in upwards.items() if names}


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", RUN, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.e2e
@pytest.mark.parametrize("command", ["compare", "alarms", "report", "agreement", "summarize"])
def test_a_light_command(command: str, tmp_path: Path) -> None:
    done = run(command, *light_commands(tmp_path)[command])
    assert done.returncode == 0, done.stderr
    assert any((tmp_path / "out").iterdir())
    assert done.stderr.splitlines()[-1].strip() == "imported:"


@pytest.mark.e2e
def test_label_files_are_inspected_without_torch(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "dfew", num_clips=21, num_train=14)
    options = ["--data", "DFEW", "--data.root", corpus, "--output", str(tmp_path / "out")]
    done = run("inspect_data", "--decode", "false", *options)
    assert done.returncode == 0, done.stderr
    assert '"num_clips": 14' in (tmp_path / "out/report.json").read_text()
    assert done.stderr.splitlines()[-1].strip() == "imported:"


@pytest.mark.e2e
def test_an_error_of_a_light_command() -> None:
    done = run("alarms", "--predictions", "nowhere.jsonl")
    assert done.returncode == 2 and "nowhere.jsonl" in done.stderr
    assert done.stderr.splitlines()[-1].strip() == "imported:"


@pytest.mark.e2e
def test_help_of_the_tools() -> None:
    for command in (*main.TOOLS, main.CROSS_VALIDATE, main.ESTIMATE, main.CONFIGS):
        done = run(command, "--help")
        assert "usage:" in done.stdout
        assert done.stderr.strip() == "imported:", command
