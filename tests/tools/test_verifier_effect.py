"""How often labels decide rewards, from prediction files, through the command line."""

import json
from pathlib import Path

import pytest

import main

pytestmark = pytest.mark.e2e

GOLDEN = Path(__file__).parents[1] / "golden"


def test_from_scored_completions(tmp_path, capsys):
    main.run(
        ["score", f"--completions={GOLDEN}/metrics/mafw_alias/completions.jsonl", "--taxonomy=mafw"]
        + [f"--verifier={GOLDEN}/tiny_verifier", f"--output={tmp_path}/scored"]
    )
    rows = [json.loads(line) for line in (tmp_path / "scored" / "rows.jsonl").open()]
    main.run(
        ["verifier_effect", "--predictions", f"{{run: {tmp_path}/scored/rows.jsonl}}"]
        + ["--output", str(tmp_path / "effect.json")]
    )
    effect = json.loads((tmp_path / "effect.json").read_text())["run"]
    assert (effect["num_clips"], effect["num_left_out"]) == (len(rows), 0)
    assert effect["num_sentences"] == sum(len(row["sentences"]) for row in rows)
    assert 0 < effect["readings"]["top_label_only"]["clips_changed"] < 1
    assert f"run: {len(rows)} clips" in capsys.readouterr().out


def test_a_file_without_probabilities_is_refused(tmp_path):
    row = {"id": "a", "target": "anger", "prediction": None, "format": 0, "accuracy": 0, "explanation": None}
    path = tmp_path / "predictions.jsonl"
    path.write_text(json.dumps(row | {"sentences": [], "taxonomy": "dfew"}) + "\n")
    with pytest.raises(ValueError, match=r"none of the 1 clips .* main.py score --verifier"):
        main.run(["verifier_effect", "--predictions", f"{{run: {path}}}", "--output", str(tmp_path / "effect.json")])
    with pytest.raises(ValueError, match="Expected at least one run"):
        main.run(["verifier_effect", "--predictions", "{}", "--output", str(tmp_path / "effect.json")])
