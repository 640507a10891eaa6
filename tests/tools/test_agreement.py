"""`python main.py agreement`: figures, forms of files, refusals."""

import json

import pytest
from PIL import Image

import main
from tools.agreement import agreement

pytestmark = pytest.mark.e2e

FIRST = ["happiness"] * 25 + ["sadness"] * 25 + [None, "fear"]
SECOND = ["happiness"] * 20 + ["sadness"] * 5 + ["happiness"] * 10 + ["sadness"] * 15 + [None, None]


def write(path, emotions, **fields):
    rows = [{"id": f"clip{i}", "emotion": emotion, **fields} for i, emotion in enumerate(emotions)]
    path.write_text("".join(json.dumps(own) + "\n" for own in rows))
    return str(path)


def write_predictions(path, emotions, judge="second judge", taxonomy="dfew", rationale="He smiles."):
    row = {"target": None, "prediction": None, "format": 0, "accuracy": None, "explanation": None, "sentences": []}
    row |= {"judge": judge, "taxonomy": taxonomy, "completion": f"<think>{rationale}</think>"}
    rows = [{**row, "id": f"clip{i}", "judged": emotion} for i, emotion in enumerate(emotions)]
    path.write_text("".join(json.dumps(own) + "\n" for own in rows))
    return str(path)


@pytest.fixture
def first(tmp_path):
    return write(tmp_path / "first.jsonl", FIRST)


def test_figures_by_hand_on_screen_in_json_and_as_a_picture(first, tmp_path, capsys):
    second = write_predictions(tmp_path / "second.jsonl", SECOND)
    assert main.main(["agreement", "--first", first, "--second", second, "--output", str(tmp_path / "out")]) == 0
    result = json.loads((tmp_path / "out/agreement.json").read_text())
    # See tests/lightning_modules/metrics/test_agreement.py: 20 and 15 of 50 on the diagonal, κ 0.4.
    assert result["kappa"]["value"] == pytest.approx(0.4, abs=1e-12)
    assert result["kappa"]["low"] < 0.4 < result["kappa"]["high"]
    assert result["agreement"]["value"] == pytest.approx(35 / 52, abs=1e-12)
    assert (result["num_clips"], result["num_valid"], result["taxonomy"]) == (52, 50, "dfew")
    assert result["first"] == {"path": first, "judge": f"file:{first}", "dropped": 0, "invalid": 1}
    assert result["second"] == {"path": second, "judge": "second judge", "dropped": 0, "invalid": 2}
    matrix = result["confusion_matrix"]
    at = {name: i for i, name in enumerate(matrix["rows"])}
    assert matrix["counts"][at["sadness"]][at["happiness"]] == 10
    assert matrix["counts"][at["fear"]][at["invalid"]] == matrix["counts"][at["invalid"]][at["invalid"]] == 1
    with Image.open(tmp_path / "out/agreement.png") as picture:
        assert min(picture.size) > 400
    printed = " ".join(capsys.readouterr().out.split())
    assert "Agreement: 67.3 [" in printed
    assert "Cohen's kappa over the 50 clips with two valid verdicts: 0.400 [" in printed
    assert "second judge" in printed


def test_the_order_of_the_files_does_not_change_kappa_nor_the_order_of_lines(first, tmp_path):
    second = write(tmp_path / "second.jsonl", SECOND)
    there = agreement(first, second, str(tmp_path / "a"), taxonomy="dfew")
    (tmp_path / "first.jsonl").write_text("".join(reversed((tmp_path / "first.jsonl").read_text().splitlines(True))))
    back = agreement(second, first, str(tmp_path / "b"), taxonomy="dfew")
    assert there["kappa"]["value"] == back["kappa"]["value"]
    transposed = [list(column) for column in zip(*back["confusion_matrix"]["counts"], strict=True)]
    assert transposed == there["confusion_matrix"]["counts"]


def test_other_clips_are_refused_or_left_out_and_counted(first, tmp_path):
    second = write(tmp_path / "second.jsonl", [*SECOND[:40]], taxonomy="dfew")
    with pytest.raises(ValueError, match=r"different clips \(.*52 clips, .*40, in both: 40\).*--intersect"):
        agreement(first, second, str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    result = agreement(first, second, str(tmp_path / "out"), intersect=True)
    assert (result["num_clips"], result["first"]["dropped"], result["second"]["dropped"]) == (40, 12, 0)
    other = tmp_path / "other.jsonl"
    other.write_text('{"id": "elsewhere", "emotion": "fear"}\n')
    with pytest.raises(ValueError, match="No clip is in both"):
        agreement(first, str(other), str(tmp_path / "out"), taxonomy="dfew", intersect=True)


def test_taxonomies(first, tmp_path):
    second = write(tmp_path / "second.jsonl", SECOND)
    with pytest.raises(ValueError, match=r"Neither .* names its taxonomy. Give --taxonomy"):
        agreement(first, second, str(tmp_path / "out"))
    assert agreement(first, second, str(tmp_path / "out"), taxonomy="mafw")["taxonomy"] == "mafw"
    named = write(tmp_path / "second.jsonl", SECOND, taxonomy="mafw")
    with pytest.raises(ValueError, match="verdicts in the taxonomy mafw; expected dfew"):
        agreement(first, named, str(tmp_path / "out"), taxonomy="dfew")
    predictions = write_predictions(tmp_path / "predictions.jsonl", SECOND)
    with pytest.raises(ValueError, match="in the taxonomy dfew; expected mafw"):
        agreement(named, predictions, str(tmp_path / "out"))


def test_judges_of_different_rationales_cannot_be_compared(tmp_path):
    first = write(tmp_path / "first.jsonl", FIRST, taxonomy="dfew", rationale="He  smiles.")
    same = write_predictions(tmp_path / "same.jsonl", SECOND)
    assert agreement(first, same, str(tmp_path / "out"))["num_clips"] == 52
    other = write_predictions(tmp_path / "other.jsonl", SECOND, rationale="He cries.")
    with pytest.raises(ValueError, match="Clip 'clip0': the judges read different rationales"):
        agreement(first, other, str(tmp_path / "out"))


def test_predictions_without_a_judge_are_refused(first, tmp_path):
    second = write_predictions(tmp_path / "second.jsonl", [None] * 52, judge=None)
    with pytest.raises(ValueError, match=r"has no verdicts. Judge its rationales first: `python main.py judge`"):
        agreement(first, second, str(tmp_path / "out"))


def test_kappa_that_is_not_defined(tmp_path, capsys):
    first = write(tmp_path / "first.jsonl", ["fear", "fear"], taxonomy="dfew")
    result = agreement(first, first, str(tmp_path / "out"))
    assert (result["kappa"], result["agreement"]["value"]) == (None, 1.0)
    assert "two valid verdicts: not defined" in " ".join(capsys.readouterr().out.split())


def test_cut_and_doubled_lines_are_named(first, tmp_path):
    second = write(tmp_path / "second.jsonl", SECOND, taxonomy="dfew")
    content = (tmp_path / "second.jsonl").read_text()
    (tmp_path / "second.jsonl").write_text(content[:-9])
    with pytest.raises(ValueError, match="second.jsonl:52: not valid JSON"):
        agreement(first, second, str(tmp_path / "out"))
    (tmp_path / "second.jsonl").write_text(content + content.splitlines(True)[0])
    with pytest.raises(ValueError, match=r"second.jsonl:53: id 'clip0' is already at .*:1"):
        agreement(first, second, str(tmp_path / "out"))
