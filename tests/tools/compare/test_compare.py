"""The `compare` tool: what it writes and shows, which files it refuses."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import main
from tools.compare.compare import compare

pytestmark = pytest.mark.e2e

TARGETS = ["fear", "anger", "sadness"]
FAST = {"num_resamples": 200}


def rows(right: str, **changes: Any) -> list[dict[str, Any]]:
    """A row per digit: right and coherent (1) or neither (0)."""
    made = []
    for i, digit in enumerate(right):
        target = TARGETS[i % 3]
        prediction = target if digit == "1" else "neutral"
        row = {"id": str(i), "target": target, "prediction": prediction, "format": 1, "accuracy": int(digit)}
        row |= {"explanation": None, "sentences": [], "judged": target, "judge": "oracle", "taxonomy": "dfew"}
        made.append(row | changes)
    return made


@pytest.fixture
def write(tmp_path):
    def write_file(name: str, content: list[dict[str, Any]]) -> str:
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in content))
        return str(path)

    return write_file


def test_the_tool(write, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    before, after = write("before", rows("000111" * 10)), write("after", rows("100111" * 10))
    worse = write("worse", rows("000110" * 10))
    output = tmp_path / "out"
    predictions = json.dumps({"worse[1]": worse, "cold_start": before, "erv $x$": after})
    arguments = ["--predictions", predictions, "--baseline", "cold_start", "--output", str(output)]
    assert main.main(["compare", *arguments, "--num_resamples", "500"]) == 0

    result = json.loads((output / "compare.json").read_text())
    assert (result["baseline"], result["num_clips"], result["taxonomy"]) == ("cold_start", 60, "dfew")
    assert result["notes"] == ["UAR leaves out classes without a clip: happiness, neutral, surprise, disgust."]
    assert list(result["runs"]) == ["cold_start", "worse[1]", "erv $x$"]
    assert result["runs"]["worse[1]"]["rates"]["war"]["value"] == 20 / 60
    assert (result["runs"]["cold_start"]["judge"], result["runs"]["cold_start"]["dropped"]) == ("oracle", 0)
    assert list(result["comparisons"]) == ["worse[1]", "erv $x$"]
    better = result["comparisons"]["erv $x$"]
    war = better["overall"]["war"]
    assert (war["baseline"], war["other"], war["test"]["gained"], war["test"]["lost"]) == (0.5, 40 / 60, 10, 0)
    assert war["test"]["p_value"] == pytest.approx(0.001565, abs=1e-6) and war["difference"]["low"] > 0
    eea = better["overall"]["eea"]["difference"]
    assert eea["value"] == 0.0 and eea["low"] == pytest.approx(-eea["high"])
    recall = better["per_class"]["fear"]["rates"]["recall"]
    assert (better["per_class"]["fear"]["num_clips"], recall["baseline"], recall["other"]) == (20, 0.5, 1.0)
    assert recall["test"]["p_holm"] == pytest.approx(3 * 0.001565, abs=1e-5)
    assert result["comparisons"]["worse[1]"]["overall"]["war"]["difference"]["high"] < 0

    shown = capsys.readouterr().out
    assert "cold_start → worse[1]" in shown and "cold_start → erv $x$" in shown
    assert "+16.7 *" in shown and "-16.7 *" in shown and "10/0" in shown and "0/10" in shown
    with Image.open(output / "compare.png") as image:
        assert image.format == "PNG" and image.width > 1000
    assert not [path for path in output.iterdir() if path.name not in ("compare.json", "compare.png")]


def test_the_same_file_twice(write, tmp_path):
    path = write("run", rows("0110100"))
    result = compare({"one": path, "two": path}, str(tmp_path / "out"), **FAST)
    overall = result["comparisons"]["two"]["overall"]
    assert list(overall) == ["war", "uar", "eea", "epc", "fcr"]
    for own in overall.values():
        assert own["difference"]["value"] == 0.0 and own["difference"]["low"] == pytest.approx(
            -own["difference"]["high"]
        )
        assert own["test"] is None or own["test"]["p_value"] == 1.0


def test_other_clips_only_with_intersect(write, tmp_path, capsys):
    files = {"one": write("one", rows("01101")), "two": write("two", rows("011")[::-1])}
    with pytest.raises(ValueError, match="over different clips .*: 5 clips, .*: 3 clips; 3 are in all.*--intersect"):
        compare(files, str(tmp_path / "out"), **FAST)
    assert not (tmp_path / "out").exists()
    result = compare(files, str(tmp_path / "out"), intersect=True, **FAST)
    assert "one: 2 of 5 clips dropped, not in every file." in capsys.readouterr().out
    assert (result["num_clips"], result["runs"]["one"]["dropped"], result["runs"]["two"]["dropped"]) == (3, 2, 0)
    assert result["comparisons"]["two"]["overall"]["war"]["test"]["gained"] == 0


def test_different_judges(write, tmp_path, capsys):
    files = {
        "one": write("one", rows("0110")),
        "two": write("two", rows("0111")),
        "three": write("three", rows("0111", judge="gpt")),
    }
    result = compare(files, str(tmp_path / "out"), **FAST)
    assert list(result["comparisons"]["two"]["overall"]) == ["war", "uar", "eea", "epc", "fcr"]
    assert list(result["comparisons"]["three"]["overall"]) == ["war", "uar"]
    assert list(result["comparisons"]["three"]["per_class"]["fear"]["rates"]) == ["recall"]
    (note,) = result["comparisons"]["three"]["notes"]
    assert "one is judged by 'oracle', three by 'gpt'" in note and "--allow_different_judges" in note
    assert result["comparisons"]["two"]["notes"] == []
    assert "Warning: EEA, EPC and FCR are left out" in capsys.readouterr().out
    result = compare(files, str(tmp_path / "out"), allow_different_judges=True, **FAST)
    assert "fcr" in result["comparisons"]["three"]["overall"]
    assert "may be the judges'" in result["comparisons"]["three"]["notes"][0]
    assert "Warning: Different judges: one is judged by 'oracle'" in capsys.readouterr().out


def test_files_without_judge_or_with_compound_targets(write, tmp_path):
    files = {"one": write("one", rows("01")), "two": write("two", rows("11", judge=None, judged=None))}
    comparison = compare(files, str(tmp_path / "out"), **FAST)["comparisons"]["two"]
    assert list(comparison["overall"]) == ["war", "uar"]
    assert comparison["notes"] == ["EEA, EPC and FCR are left out: two without a judge."]
    files = {name: write(name, rows(right, target="anger_fear")) for name, right in (("one", "01"), ("two", "11"))}
    result = compare(files, str(tmp_path / "out"), **FAST)
    assert result["notes"] == ["2 of 2 clips have several emotions: WAR is the only metric."]
    assert list(result["comparisons"]["two"]["overall"]) == ["war"] and not result["comparisons"]["two"]["per_class"]


def test_clips_without_targets(write, tmp_path):
    files = {name: write(name, rows("011", target=None, accuracy=None)) for name in ("one", "two")}
    result = compare(files, str(tmp_path / "out"), **FAST)
    assert result["notes"] == ["3 of 3 clips have no target: EPC is the only metric."]
    assert list(result["comparisons"]["two"]["overall"]) == ["epc"]
    files["two"] = write("two", rows("011", target=None, accuracy=None, judge=None))
    with pytest.raises(ValueError, match="Nothing can be compared between one and two. 3 of 3 .* without a judge"):
        compare(files, str(tmp_path / "out"), **FAST)


def spoken(phrases: list[str], **changes: Any) -> list[dict[str, Any]]:
    """A right and coherent row of anger per cue phrase."""
    fields = {"target": "anger", "prediction": "anger", "judged": "anger"} | changes
    said = [{"sentences": [{"text": f"He {own}."}], "media": f"a/b/Clip/{i}.mp4"} for i, own in enumerate(phrases)]
    return [row | fields | own for row, own in zip(rows("1" * len(phrases)), said, strict=True)]


@pytest.fixture
def truth(tmp_path):
    """Ten clips of anger; in the last five the face shows fear."""
    path = tmp_path / "synthetic.json"
    faces = ["anger"] * 5 + ["fear"] * 5
    clips = [
        {"media": f"Clip/{i}.mp4", "label": "anger", "face_emotion": face, "voice_emotion": "anger"}
        for i, face in enumerate(faces)
    ]
    path.write_text(json.dumps({"clips": clips}))
    return str(path)


ANGER, FEAR, BODY = "frowns hard with lowered brows", "looks pale with frozen eyes", "points with a stiff finger"


def test_what_is_true_of_generated_clips(write, truth, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    honest = write("honest", spoken([ANGER] * 5 + [FEAR] * 5))
    pleasing = write("pleasing", spoken([ANGER] * 9 + [BODY]))
    files = {"honest": honest, "pleasing": pleasing}
    result = compare(files, str(tmp_path / "out"), truth=truth, **FAST)
    said = {name: own["grounding"] for name, own in result["runs"].items()}
    assert said["honest"]["grounded"] == {"value": 1.0, "numerator": 10, "denominator": 10}
    assert said["pleasing"]["grounded"] == {"value": 5 / 9, "numerator": 5, "denominator": 9}
    assert said["pleasing"]["label_face_contradicting"] == {"value": 1.0, "numerator": 4, "denominator": 4}
    assert said["pleasing"]["unsupported"] == {"value": 0.1, "numerator": 1, "denominator": 10}
    found = result["comparisons"]["pleasing"]["grounding"]
    assert found["grounded"]["difference"]["value"] == 5 / 9 - 1 and found["grounded"]["difference"]["high"] < 0
    assert (found["grounded_fcr"]["other"], found["grounded_fcr"]["test"]["lost"]) == (0.5, 5)
    assert "grounded_voice_contradicting" not in found, "no voice contradicts"
    assert json.loads((tmp_path / "out/compare.json").read_text()) == result
    shown = capsys.readouterr().out
    assert "grounded_fcr" in shown and "100.0  55.6" in shown and "grounded: claims about face and voice" in shown

    without = compare({"one": honest, "two": honest}, str(tmp_path / "plain"), **FAST)
    assert not without["comparisons"]["two"]["grounding"] and "grounding" not in without["runs"]["one"]
    unjudged = write("unjudged", spoken([ANGER] * 10, judge=None, judged=None))
    found = compare({"one": honest, "two": unjudged}, str(tmp_path / "out"), truth=truth, **FAST)
    assert "grounded" in found["comparisons"]["two"]["grounding"]
    assert "grounded_fcr" not in found["comparisons"]["two"]["grounding"]


def test_truth_that_does_not_fit(write, truth, tmp_path):
    own, longer = write("own", spoken([ANGER] * 10)), write("longer", spoken([ANGER] * 12))
    with pytest.raises(ValueError, match=r"own\.jsonl: not valid JSON"):
        compare({"one": own, "two": own}, str(tmp_path / "out"), truth=own, **FAST)
    with pytest.raises(ValueError, match=r"longer\.jsonl: 2 of 12 clips have no truth in .*, the first is '10'"):
        compare({"one": longer, "two": longer}, str(tmp_path / "out"), truth=truth, **FAST)
    scored = write("scored", rows("0111"))
    with pytest.raises(ValueError, match=r"4 of 4 clips have no truth .*no media file is named"):
        compare({"one": scored, "two": scored}, str(tmp_path / "out"), truth=truth, **FAST)
    other = write("other", spoken([ANGER] * 4, target="fear"))
    with pytest.raises(ValueError, match=r"4 of 4 clips have another target .*truth of another corpus"):
        compare({"one": other, "two": other}, str(tmp_path / "out"), truth=truth, **FAST)
    assert not (tmp_path / "out").exists()


def test_files_that_are_refused(write, tmp_path):
    good = write("good", rows("011"))
    cut = Path(write("cut", rows("011")))
    cut.write_text(cut.read_text()[:-30])
    twice = write("twice", rows("011") + rows("0"))
    for path, message in (
        (str(cut), "cut.jsonl:3: not valid JSON"),
        (twice, r"twice.jsonl:4: id '0' is already at .*:1"),
        (write("mafw", rows("011", taxonomy="mafw")), "taxonomy dfew and .* mafw"),
        (write("target", rows("011", target="fear")), "Clip '1' has the target 'anger' .* and 'fear'"),
    ):
        with pytest.raises(ValueError, match=message):
            compare({"one": good, "two": path}, str(tmp_path / "out"), **FAST)
    with pytest.raises(FileNotFoundError, match="none.jsonl"):
        compare({"one": good, "two": str(tmp_path / "none.jsonl")}, str(tmp_path / "out"), **FAST)
    with pytest.raises(ValueError, match="at least two runs, got one. Give --predictions NAME=FILE NAME=FILE"):
        compare({"one": good}, str(tmp_path / "out"), **FAST)
    with pytest.raises(ValueError, match="The baseline 'three' is none of the runs: one, two"):
        compare({"one": good, "two": good}, str(tmp_path / "out"), baseline="three", **FAST)
    with pytest.raises(ValueError, match="is a file. Give a directory"):
        compare({"one": good, "two": good}, good, **FAST)
    assert not (tmp_path / "out").exists()


def test_a_table_per_corpus(write, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    runs = {}
    for name, digits in (("before", "000111" * 10), ("after", "100111" * 10)):
        made = rows(digits)
        for i, row in enumerate(made):
            row["dataset"] = "MAFW" if i < 30 else "DFEW"
        runs[name] = write(name, made)
    result = compare(runs, str(tmp_path), **FAST)
    corpora = result["comparisons"]["after"]["corpora"]
    assert {name: (own["num_clips"], own["overall"]["war"]["other"]) for name, own in corpora.items()} == {
        "MAFW": (30, pytest.approx(2 / 3)),
        "DFEW": (30, pytest.approx(2 / 3)),
    }
    shown = capsys.readouterr().out
    assert "MAFW" in shown and "DFEW" in shown and "all" in shown
    unnamed = write("unnamed", rows("100111" * 10))
    assert "corpora" not in compare({"a": runs["before"], "b": unnamed}, str(tmp_path), **FAST)["comparisons"]["b"]
