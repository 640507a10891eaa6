"""`python main.py judges`: runs by several judges, some of whom judged some of the clips."""

import json
from pathlib import Path
from typing import Any

import pytest

import main
from datamodules.files.writing import write_rows
from lightning_modules.metrics.intervals import wilson
from tools.judge_table import judges

pytestmark = pytest.mark.unit


@pytest.fixture
def run(tmp_path: Path) -> str:
    """Ten clips of happiness, all answered right, of which the file's judge reads eight as happy."""
    rows = [
        {
            "id": f"clip{i}",
            "target": "happiness",
            "prediction": "happiness",
            "format": 1,
            "accuracy": 1,
            "explanation": None,
            "sentences": [{"text": f"She grins, {i}.", "emotions": None, "probabilities": None}],
            "judged": "happiness" if i < 8 else "fear",
            "judge": "oracle",
            "taxonomy": "dfew",
        }
        for i in range(10)
    ]
    write_rows(tmp_path / "predictions.jsonl", rows)
    return str(tmp_path / "predictions.jsonl")


def verdicts(path: Path, emotions: list[str | None], **fields: Any) -> str:
    write_rows(path, [{"id": f"clip{i}", "emotion": emotion, **fields} for i, emotion in enumerate(emotions)])
    return str(path)


def test_each_judge_over_its_own_clips(
    run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    people = verdicts(tmp_path / "anna.jsonl", ["happy", "fear", None, "happy"], judge="human:anna", taxonomy="dfew")
    given = {"predictions": {"erv": run}, "verdicts": {"erv": [people]}}
    arguments = [text for name, value in given.items() for text in (f"--{name}", json.dumps(value))]
    assert main.main(["judges", *arguments, f"--output={tmp_path / 'out'}"]) == 0
    result = json.loads((tmp_path / "out/judges.json").read_text())["runs"]["erv"]
    oracle, anna = result["oracle"], result["human:anna"]
    assert (oracle["num_clips"], oracle["invalid"], oracle["fcr"]["value"], oracle["kappa"]) == (10, 0, 0.8, None)
    assert (anna["num_clips"], anna["invalid"], anna["eea"]["value"]) == (4, 1, 0.5)
    assert (anna["eea"]["low"], anna["eea"]["high"]) == pytest.approx(wilson(2, 4))
    assert "Judge 2: human:anna\n" in capsys.readouterr().out


def test_what_does_not_fit_is_refused(run: str, tmp_path: Path) -> None:
    again = verdicts(tmp_path / "again.jsonl", ["happy"], judge="oracle")
    others = verdicts(tmp_path / "others.jsonl", ["happy"], judge="x", rationale="He cries.")
    for given, message in (
        ({"grpo": [again]}, "verdicts for grpo; expected runs of erv"),
        ({"erv": [again]}, "two judges of the name 'oracle'"),
        ({"erv": [others]}, "'clip0' is on another rationale"),
    ):
        with pytest.raises(ValueError, match=message):
            judges({"erv": run}, given, str(tmp_path / "out"))
    with pytest.raises(ValueError, match="no run to judge"):
        judges({}, {}, str(tmp_path / "out"))
    assert not (tmp_path / "out/judges.json").exists()
