"""Imports point one way, and a command that needs no model does not wait for torch, transformers or Lightning."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from datamodules.files.writing import write_json, write_rows

ROOT = Path(__file__).parents[1]
ORDER = ["datamodules", "lightning_modules", "callbacks", "tools", "main"]
"""Each may import those before it."""

HEAVY = ("torch", "transformers", "lightning", "torchmetrics")
RUN = f"""
import sys, main
try:
    status = main.main(sys.argv[1:])
except SystemExit as end:
    status = end.code
print("imported:", *[name for name in {HEAVY} if name in sys.modules], file=sys.stderr)
sys.exit(status)
"""
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


def predictions(path: Path, answers: list[str]) -> str:
    sentence = {"text": "She frowns.", "emotions": ["anger"], "probabilities": {"anger": 0.9}}
    scores = {"format": 1.0, "accuracy": 1.0, "explanation": 1.0}
    judged = {"judged": "anger", "judge": "someone", "taxonomy": "dfew"}
    rows = [
        {"id": str(i), "target": "anger", "prediction": answer, **scores, "sentences": [sentence], **judged}
        for i, answer in enumerate(answers)
    ]
    write_rows(path, rows)
    return str(path)


@pytest.fixture
def arguments(tmp_path: Path) -> dict[str, list[str]]:
    """Each light command with all that it needs."""
    first = predictions(tmp_path / "first.jsonl", ["anger", "fear"])
    second = predictions(tmp_path / "second.jsonl", ["anger", "anger"])
    share = dict.fromkeys(("war", "uar", "eea", "epc", "fcr"), 0.5)
    counts = {"num_samples": 2, "unknown_answers": 0, "judge": "someone", "judge_failures": 0}
    write_json(tmp_path / "run/test/metrics.json", {**share, **counts})
    for place in ("run", "run/test"):
        write_json(tmp_path / place / "run.json", {"seconds": 1.0})
    output = ["--output", str(tmp_path / "out")]
    return {
        "compare": ["--predictions", json.dumps({"a": first, "b": second}), *output],
        "alarms": ["--predictions", first, second, *output],
        "report": ["--predictions", first, second, *output],
        "agreement": ["--first", first, "--second", second, *output],
        "summarize": ["--runs", json.dumps({"a": str(tmp_path / "run")}), *output],
    }


@pytest.mark.e2e
@pytest.mark.parametrize("command", ["compare", "alarms", "report", "agreement", "summarize"])
def test_a_light_command(command: str, arguments: dict[str, list[str]], tmp_path: Path) -> None:
    done = run(command, *arguments[command])
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
    import main

    tools = {*main.TOOLS, main.CROSS_VALIDATE, main.ESTIMATE}
    assert set(WITH_CLASSES) <= tools
    for command in sorted(tools - set(WITH_CLASSES)):
        done = run(command, "--help")
        assert "usage:" in done.stdout
        assert done.stderr.strip() == "imported:", command
