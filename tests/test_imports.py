"""Imports point one way, and a command that needs no model does not wait for torch, transformers or Lightning."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import main
from benchmarks.imports import RUN, light_commands

ROOT = Path(__file__).parents[1]
ORDER = ["datamodules", "lightning_modules", "callbacks", "tools", "main"]
"""Each may import those before it."""

WITH_CLASSES = {
    "inspect_data": "the classes of --data are Lightning's",
    "label_sentences": "the classes of --data are Lightning's",
    "replay": "it returns what it computed",
    "tiny": "it writes models",
}
"""Tools whose `--help` imports more, and why."""


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
def test_an_error_of_a_light_command() -> None:
    done = run("alarms", "--predictions", "nowhere.jsonl")
    assert done.returncode == 2 and "nowhere.jsonl" in done.stderr
    assert done.stderr.splitlines()[-1].strip() == "imported:"


@pytest.mark.e2e
def test_help_of_the_tools() -> None:
    tools = {*main.TOOLS, main.CROSS_VALIDATE, main.ESTIMATE}
    assert set(WITH_CLASSES) <= tools
    for command in sorted(tools - set(WITH_CLASSES)):
        done = run(command, "--help")
        assert "usage:" in done.stdout
        assert done.stderr.strip() == "imported:", command
