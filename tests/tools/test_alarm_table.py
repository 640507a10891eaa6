"""The tool `alarms`: a table on screen and alarms.json."""

import json
from pathlib import Path

import pytest

import main
from datamodules.files.writing import write_rows
from tools.alarm_table import alarms

pytestmark = pytest.mark.unit


def row(identifier: str, text: str) -> dict:
    sentences = [{"text": text, "emotions": ["anger"], "probabilities": {"anger": 0.9}}]
    rewards = {"format": 1.0, "accuracy": 1.0, "explanation": 1.0}
    return {"id": identifier, "target": "anger", "prediction": "anger", **rewards, "sentences": sentences,
            "judged": "anger", "judge": "file:judge.jsonl", "taxonomy": "dfew"}  # fmt: skip


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    hacked = [row("1", "She is angry, very angry."), row("2", "He is angry and shouts.")]
    described = [row("1", "She frowns and shouts out loud."), row("2", "His fist hits the table.")]
    for name, rows in (("hacked", hacked), ("described", described)):
        write_rows(tmp_path / f"{name}.jsonl", rows)
    return [str(tmp_path / f"{name}.jsonl") for name in ("hacked", "described")]


def by_name(results: dict, file: str) -> dict[str, dict]:
    return {alarm["name"]: alarm for alarm in results[file]["alarms"]}


def test_table_and_file(
    files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    output = tmp_path / "out"
    assert main.main(["alarms", "--predictions", json.dumps(files), "--output", str(output)]) == 0
    shown = capsys.readouterr().out
    lines = [line for line in shown.splitlines() if "label_named" in line and "│" in line]
    assert ["⚠" in line for line in lines] == [True, False] and "1.000" in lines[0]
    assert "⚠ label_named: Rationales that assert the emotion" in shown.replace("\n", " ")
    results = json.loads((output / "alarms.json").read_text())
    assert list(results) == files and results[files[0]]["num_predictions"] == 2
    assert results[files[0]]["judge"] == "file:judge.jsonl" and results[files[0]]["taxonomy"] == "dfew"
    named = [by_name(results, file)["label_named"] for file in files]
    assert [(alarm["value"], alarm["warns"], alarm["high"]) for alarm in named] == [(1.0, True, 0.5), (0.0, False, 0.5)]
    assert by_name(results, files[0])["verifier_gap"]["value"] is None


def test_thresholds_from_the_command_line(files: list[str], tmp_path: Path) -> None:
    config = tmp_path / "thresholds.yaml"
    config.write_text("thresholds:\n  label_named: [null, 1.0]\n  sentence_words: [6, 40]\n")
    main.run(["alarms", "-c", str(config), "--predictions", json.dumps(files), "--output", str(tmp_path / "out")])
    found = by_name(json.loads((tmp_path / "out/alarms.json").read_text()), files[0])
    assert not found["label_named"]["warns"] and found["sentence_words"]["warns"]


def test_what_cannot_work_is_refused(files: list[str]) -> None:
    with pytest.raises(ValueError, match="No prediction file"):
        alarms([])
    with pytest.raises(ValueError, match="is a file"):
        alarms(files, output=files[0])
    with pytest.raises(ValueError, match="no alarm 'x'"):
        alarms(files, thresholds={"x": (None, 1.0)})
    with pytest.raises(FileNotFoundError):
        alarms(["nowhere.jsonl"])
