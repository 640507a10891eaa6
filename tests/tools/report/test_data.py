"""What the page shows, computed from prediction files."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from datamodules.emotions import DFEW_TAXONOMY
from datamodules.synthetic.truth import ClipTruth
from lightning_modules.metrics.predictions import read_predictions
from tools.report.data import Run, check_runs, confusions, page_data, run_names
from tools.report.media import ClipMedia

pytestmark = pytest.mark.unit

NOTHING = ClipMedia(None, None, None, ("no file",))
Rows = Callable[..., dict[str, Any]]
Write = Callable[[str, list[dict[str, Any]]], str]


def run(name: str, path: str) -> Run:
    return Run(name, read_predictions(path))


def page(runs: list[Run]) -> dict[str, Any]:
    ids = {prediction.id for own in runs for prediction in own.file.predictions}
    return page_data("title", runs, dict.fromkeys(ids, NOTHING))


def test_runs_are_named_by_what_tells_their_paths_apart() -> None:
    paths = [Path(f"/x/runs/{name}/test/predictions.jsonl") for name in ("cold", "erv")]
    assert run_names(paths) == ["cold", "erv"]
    assert run_names([Path("/x/a.jsonl"), Path("/x/b.jsonl")]) == ["a", "b"]
    assert run_names([Path("/x/a/b/test/rows.jsonl"), Path("/x/c/b/rows.jsonl")]) == ["a/b/test", "c/b"]
    assert run_names(paths[:1]) == ["cold/test"]


def test_a_path_within_another_still_has_a_name() -> None:
    assert run_names([Path("/x/a/a/p.jsonl"), Path("/x/a/p.jsonl")]) == ["a", "p"]


def test_clips_hold_what_each_run_said_and_how_it_agrees(row: Rows, write: Write) -> None:
    first = write("a", [row("1"), row("2", prediction=None, judged="fear", accuracy=0.0)])
    second = write("b", [row("3", target=None, accuracy=None, explanation=None), row("1", judged=None)])
    data = page([run("a", first), run("b", second)])
    assert [clip["id"] for clip in data["clips"]] == ["1", "2", "3"]
    one, two, three = (clip["runs"] for clip in data["clips"])
    facts = ("right", "judged_is_answer", "judged_is_target")
    assert [one[0][fact] for fact in facts] == [True, True, True]
    assert [one[1][fact] for fact in facts] == [True, False, False], "an invalid verdict equals nothing"
    assert [two[0][fact] for fact in facts] == [False, False, False] and two[1] is None
    assert three[0] is None and [three[1][fact] for fact in facts] == [None, True, None]
    assert [own["relation"] for own in one[0]["sentences"]] == ["matching", "neutral"]
    assert [own["relation"] for own in three[1]["sentences"]] == [None, "neutral"], "no target to match"


def test_sections_stand_beside_the_rationale(row: Rows, write: Write) -> None:
    said = "<context>A party.</context>\n<think>She grins. She sits.</think><answer>happiness</answer>"
    data = page([run("a", write("a", [row("1", completion=said), row("2"), row("3", completion=None)]))])
    assert [clip["runs"][0]["sections"] for clip in data["clips"]] == [{"context": "A party."}, {}, {}]


def test_a_compound_target_is_met_by_any_of_its_emotions(row: Rows, write: Write) -> None:
    rows = [row("1", target="happiness_fear", judged="fear"), row("2")]
    data = page([run("a", write("a", rows))])
    assert data["clips"][0]["targets"] == ["happiness", "fear"]
    assert data["clips"][0]["runs"][0]["right"] and data["clips"][0]["runs"][0]["judged_is_target"]
    assert not data["clips"][0]["runs"][0]["judged_is_answer"]
    assert data["runs"][0]["rates"]["war"]["value"] == 1.0 and data["runs"][0]["rates"]["fcr"] is None


def test_figures_are_those_of_the_metrics(row: Rows, write: Write) -> None:
    rows = [row("1"), row("2", prediction="fear", accuracy=0.0), row("3", judged=None), row("4", prediction=None)]
    own = page([run("a", write("a", rows))])["runs"][0]
    values = {name: interval["value"] for name, interval in own["rates"].items()}
    assert values == {"war": 0.5, "uar": 0.5, "eea": 0.75, "epc": 0.25, "fcr": 0.25}
    assert all(interval["low"] <= interval["value"] <= interval["high"] for interval in own["rates"].values())
    assert (own["num_clips"], own["unknown_answers"], own["judge_failures"]) == (4, 1, 1)
    assert {alarm["name"] for alarm in own["alarms"]} >= {"label_named", "neutral_sentences"}


def test_sentences_are_marked_by_the_truth_of_their_clip(row: Rows, write: Write, sentence: Rows) -> None:
    joy, fear = "She smiles with raised cheeks.", "She looks pale with frozen eyes."
    texts = (joy, fear, "She claps and bounces on both feet.", "A plain wall fills the background.")
    path = write("a", [row("1", sentences=[sentence(text, "joy") for text in texts]), row("2", sentences=[])])
    truth = ClipTruth("happiness", face_emotion="fear", voice_emotion="happiness")
    data = page_data("title", [run("a", path)], dict.fromkeys("12", NOTHING), dict.fromkeys("12", truth))
    first = data["clips"][0]
    assert first["truth"] == {"label": "happiness", "face_emotion": "fear", "voice_emotion": "happiness"}
    assert [own["support"] for own in first["runs"][0]["sentences"]] == ["untrue", "true", "unsupported", None]
    figures = data["runs"][0]["grounding"]
    assert set(figures) == set(data["grounding"])
    assert figures["label_face_contradicting"] == {"value": 0.5, "numerator": 1, "denominator": 2}
    assert figures["grounded_fcr"] == {"value": 0.5, "numerator": 1, "denominator": 2}, "the second claims nothing"
    plain = page([run("a", path)])
    assert plain["clips"][0]["truth"] is None and plain["runs"][0]["grounding"] is None
    assert {own["support"] for own in plain["clips"][0]["runs"][0]["sentences"]} == {None}


def test_sentences_show_what_they_rest_on_where_that_was_measured(row: Rows, write: Write, sentence: Rows) -> None:
    rests = {"pictures": 0.5, "sound": None, "both": -1.0}
    said = [sentence("She grins.", "joy") | {"reliance": rests}, sentence("She sits.", "neutral")]
    data = page([run("a", write("a", [row("1", sentences=said)]))])
    assert [own["reliance"] for own in data["clips"][0]["runs"][0]["sentences"]] == [rests, None]


def test_confusions_count_pairs_by_hand(row: Rows, write: Write) -> None:
    rows = [row("1"), row("2", prediction="fear", judged=None), row("3", prediction=None), row("4", target="anger")]
    file = read_predictions(write("a", rows))
    found = confusions(file.predictions, DFEW_TAXONOMY, judged=True)

    def cell(name: str, line: str, column: str) -> int:
        matrix = found[name]
        return matrix["counts"][matrix["rows"].index(line)][matrix["columns"].index(column)]

    assert cell("answer_target", "happiness", "happiness") == 1 and cell("answer_target", "happiness", "fear") == 1
    assert cell("answer_target", "happiness", "unknown") == 1 and cell("answer_target", "anger", "happiness") == 1
    assert cell("explanation_target", "happiness", "happiness") == 2
    assert cell("explanation_target", "happiness", "invalid") == 1
    assert (
        cell("explanation_answer", "unknown", "happiness") == 1 and cell("explanation_answer", "fear", "invalid") == 1
    )
    assert all(sum(map(sum, matrix["counts"])) == 4 for matrix in found.values())


def test_a_file_without_targets_or_judge_has_no_figures(row: Rows, write: Write) -> None:
    none = {"target": None, "accuracy": None, "explanation": None, "judged": None, "judge": None}
    data = page([run("a", write("a", [row("1", **none), row("2", **none)]))])
    own = data["runs"][0]
    assert set(own["rates"].values()) == {None} and set(own["confusions"].values()) == {None}
    assert own["judge_failures"] is None and own["num_labelled"] == 0
    assert data["clips"][0]["runs"][0]["judged_is_answer"] is None


def test_the_answer_as_written_and_the_labels_worth_showing(row: Rows, write: Write, sentence: Rows) -> None:
    said = sentence("Well.", "joy", "love")
    said["probabilities"]["fear"] = 0.001
    text = "<think>Well.</think><answer>Happy!</answer>"
    rows = [row("1", target="fear", prediction=None, sentences=[said], completion=text)]
    shown = page([run("a", write("a", rows))])["clips"][0]["runs"][0]
    assert shown["answer"] == "Happy!" and shown["prediction"] is None
    probabilities = shown["sentences"][0]["probabilities"]
    assert probabilities[:2] == [("joy", 0.7), ("love", 0.3)] and probabilities[-1] == ("fear", 0.001)
    assert len(probabilities) == 7, "six, and the target's"


def test_runs_that_cannot_stand_on_one_page_are_refused(row: Rows, write: Write) -> None:
    first = run("a", write("a", [row("1")]))
    with pytest.raises(ValueError, match=r"a/test/predictions.jsonl has the taxonomy dfew and .* mafw"):
        check_runs([first, run("b", write("b", [row("1", taxonomy="mafw")]))])
    with pytest.raises(ValueError, match="Clip '1' has the target 'happiness' in a and 'fear' in c"):
        check_runs([first, run("c", write("c", [row("1", target="fear", accuracy=0.0)]))])
    with pytest.raises(ValueError, match="a name of its own; got a, a"):
        check_runs([first, first])
    check_runs([first, run("d", write("d", [row("1", target=None, accuracy=None, explanation=None)]))])


def test_what_is_missing_is_counted(row: Rows, write: Write) -> None:
    own = run("a", write("a", [row("1"), row("2"), row("3"), row("4")]))
    broken = ClipMedia("./x.mp4", None, None, ("Not shown: broken.",))
    fine = ClipMedia("./y.mp4", "data:,", "data:,", ())
    silent = ClipMedia("./z.mp4", "data:,", None, ("Not shown: no sound.",))
    notes = page_data("title", [own], {"1": NOTHING, "2": broken, "3": fine, "4": silent})["notes"]
    assert [note.split(":")[0] for note in notes] == [
        "1 of 4 clips have no media file at hand",
        "1 of 4 clips do not decode",
        "1 of 4 clips have no sound that decodes",
    ]


def test_rates_of_each_corpus(row: Rows, write: Write) -> None:
    rows = [row("1"), row("2", dataset="mafw", prediction="fear"), row("3", dataset="mafw")]
    (own,) = page([run("a", write("a", rows))])["runs"]
    assert {name: (its["num_clips"], its["rates"]["war"]["value"]) for name, its in own["corpora"].items()} == {
        "dfew": (1, 1.0),
        "mafw": (2, 0.5),
    }
    assert page([run("a", write("a", rows[:1]))])["runs"][0]["corpora"] == {}


def test_a_taxonomy_of_ones_own(row: Rows, write: Write, tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text('classes: {bored: {colour: "#102030"}, glad: {verifier: joy}}\n')
    own = {"taxonomy": str(file), "judged": None, "judge": None}
    rows = [row("1", target="bored", prediction="bored", **own), row("2", target="glad", prediction="bored", **own)]
    data = page([run("a", write("a", rows))])
    assert data["taxonomy"]["classes"] == ["bored", "glad"]
    assert data["colours"]["emotions"]["bored"] == "#102030"
    assert data["colours"]["emotions"]["glad"] == data["colours"]["emotions"]["joy"]
    relations = [[sentence["relation"] for sentence in clip["runs"][0]["sentences"]] for clip in data["clips"]]
    assert relations == [[None, "neutral"], ["matching", "neutral"]], "nothing expresses bored"
    path = write("b", rows)
    file.unlink()
    with pytest.raises(ValueError, match=r"predictions.jsonl:1: the taxonomy: There is no taxonomy .*own.yaml"):
        read_predictions(path)
