"""The `score` tool and its rows: golden metrics, schema, bad input."""

import json
from pathlib import Path

import pytest

from datamodules.emotions import GO_EMOTIONS
from datamodules.files.writing import write_json, write_rows
from tools.score import score

pytestmark = [pytest.mark.e2e, pytest.mark.filterwarnings("ignore:UAR leaves out classes")]

GOLDEN = Path(__file__).parents[1] / "golden"
TINY = str(GOLDEN / "tiny_verifier")
LINE = '{"id": "1", "completion": "<think>He smiles. Why?</think><answer>Happy</answer>", "target": "happy"}\n'


def read_rows(directory: Path) -> list[dict]:
    # As text: the rows have no Unicode line separator that would cut a line in two.
    return [json.loads(line) for line in (directory / "rows.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def source(tmp_path):
    return tmp_path / "completions.jsonl"


@pytest.mark.parametrize("case", ["dfew_clean", "mafw_alias"])
def test_golden_metrics(case, tmp_path):
    folder = GOLDEN / "metrics" / case
    expected = json.loads((folder / "expected.json").read_text())
    taxonomy = expected.pop("dataset")
    judge = str(folder / "judge.jsonl")
    score(str(folder / "completions.jsonl"), taxonomy, str(tmp_path / "out"), TINY, judge=judge)
    metrics = json.loads((tmp_path / "out/metrics.json").read_text())
    assert metrics["absent_classes"] == expected.pop("absent_classes")
    assert {name: metrics[name] for name in expected} == pytest.approx(expected, abs=1e-12)
    assert metrics["judge"] == f"file:{judge}"
    given = [json.loads(line) for line in (folder / "completions.jsonl").read_bytes().splitlines()]
    assert [row["id"] for row in read_rows(tmp_path / "out")] == [row["id"] for row in given]


@pytest.mark.parametrize("taxonomy", ["dfew", "mafw"])
def test_golden_rewards(taxonomy, source, tmp_path):
    lines = (GOLDEN / "rewards/cases.jsonl").read_bytes().splitlines()
    cases = [case for line in lines if (case := json.loads(line))["dataset"] == taxonomy]
    source.write_text("".join(json.dumps(case) + "\n" for case in cases), encoding="utf-8")
    score(str(source), taxonomy, str(tmp_path / "out"), TINY)
    for row, case in zip(read_rows(tmp_path / "out"), cases, strict=True):
        for name in ("format", "accuracy", "explanation"):
            assert row[name] == pytest.approx(case[name], abs=1e-6), case["id"]
        assert [sentence["text"] for sentence in row["sentences"]] == case["sentences"]
        label_sets = [{GO_EMOTIONS.index(e) for e in sentence["emotions"]} for sentence in row["sentences"]]
        assert label_sets == [set(label_set) for label_set in case["label_sets"]]
        assert row["target"] == case["canonical_target"]


def test_the_released_protocol(tmp_path):
    folder = GOLDEN / "metrics/dfew_clean"
    paper, released = (
        score(
            str(folder / "completions.jsonl"),
            "dfew",
            str(tmp_path / protocol),
            TINY,
            judge=str(folder / "judge.jsonl"),
            protocol=protocol,
        )
        for protocol in ("paper", "released")
    )
    unanswered = [row for row in read_rows(tmp_path / "paper") if row["prediction"] is None]
    lost = sum(row["judged"] == row["target"] for row in unanswered)
    assert released["eea"] == pytest.approx(paper["eea"] - lost / paper["num_samples"])
    assert released["uar"] == pytest.approx(paper["uar"] * (7 - len(paper["absent_classes"])) / 7)
    assert (released["war"], released["fcr"]) == (paper["war"], paper["fcr"])


def test_row_schema(source, tmp_path):
    source.write_text(LINE + '{"id": 2, "completion": "", "target": "ANGRY"}\n')
    metrics = score(str(source), "dfew", str(tmp_path / "out"), TINY)
    first, second = read_rows(tmp_path / "out")
    keys = ["id", "target", "prediction", "format", "accuracy", "explanation", "sentences"]
    keys += ["judged", "judge", "taxonomy"]
    assert list(first) == list(second) == keys
    assert list(first["sentences"][0]) == ["text", "emotions", "probabilities"]
    assert list(first["sentences"][0]["probabilities"]) == list(GO_EMOTIONS)
    assert (first["prediction"], first["accuracy"]) == ("happiness", 1)
    # A completion without answer and without sentence: unknown, no reward, and the judge fails.
    assert second == dict(zip(keys, ["2", "anger", None, 0, 0, 0, [], None, f"verifier:{TINY}", "dfew"], strict=True))
    assert metrics["judge"] == f"verifier:{TINY}"
    assert (metrics["num_samples"], metrics["unknown_answers"], metrics["judge_failures"]) == (2, 1, 1)
    assert metrics["absent_classes"] == ["sadness", "neutral", "surprise", "disgust", "fear"]


def test_missing_verdicts_are_counted(source, tmp_path):
    source.write_text(LINE + LINE.replace('"1"', '"2"'))
    judge = tmp_path / "judge.jsonl"
    judge.write_text('{"id": "2", "emotion": "happy"}\n')
    metrics = score(str(source), "dfew", str(tmp_path / "out"), TINY, judge=str(judge))
    assert (metrics["eea"], metrics["epc"], metrics["fcr"], metrics["judge_failures"]) == (0.5, 0.5, 0.5, 1)


def test_bare_answers(source, tmp_path):
    source.write_text('{"id": "1", "completion": "Happy\\n", "target": "happy"}\n')
    assert score(str(source), "dfew", str(tmp_path / "tags"), TINY)["unknown_answers"] == 1
    assert score(str(source), "dfew", str(tmp_path / "bare"), TINY, bare=True)["war"] == 1


def test_half_a_surrogate_pair_is_replaced(source, tmp_path):
    source.write_text(LINE.replace("Why?", "\\ud83d Why?"))
    score(str(source), "dfew", str(tmp_path / "out"), TINY)
    assert read_rows(tmp_path / "out")[0]["sentences"][1]["text"] == "\N{REPLACEMENT CHARACTER} Why?"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "completions.jsonl is empty"),
        (LINE + LINE, r"completions.jsonl:2: id '1' is already at .*:1"),
        (LINE.replace('"happy"', '"joyful"'), "completions.jsonl:1: label 'joyful' is not a dfew emotion"),
        (LINE.replace('"happy"', "null"), "completions.jsonl:1: target must be text; got None"),
        ("\n" + LINE[:40] + "\n", "completions.jsonl:2: not valid JSON"),
        ('{"id": "1", "target": "happy"}\n', "completions.jsonl:1: completion missing; got"),
    ],
)
def test_bad_input_names_file_and_line_and_writes_nothing(source, tmp_path, content, message):
    source.write_text(content)
    with pytest.raises(ValueError, match=message):
        score(str(source), "dfew", str(tmp_path / "out"), TINY)
    assert not (tmp_path / "out").exists()


def test_bytes_that_are_not_utf8(source, tmp_path):
    source.write_bytes(LINE.encode() + b'{"id": "2", "completion": "caf\xe9", "target": "happy"}\n')
    with pytest.raises(ValueError, match="completions.jsonl:2: not UTF-8"):
        score(str(source), "dfew", str(tmp_path / "out"), TINY)


def test_missing_files(source, tmp_path):
    with pytest.raises(FileNotFoundError, match="completions.jsonl. Expected JSONL with id, completion, target"):
        score(str(source), "dfew", str(tmp_path / "out"), TINY)
    source.write_text(LINE)
    with pytest.raises(ValueError, match="Expected a Hugging Face directory"):
        score(str(source), "dfew", str(tmp_path / "out"), str(tmp_path / "none"))
    with pytest.raises(ValueError, match="is a file. Give a directory"):
        score(str(source), "dfew", str(source), TINY)


def test_a_failed_write_leaves_the_old_file(tmp_path):
    write_rows(tmp_path / "rows.jsonl", [{"id": "1"}])
    with pytest.raises(ValueError, match="Out of range float values"):
        write_rows(tmp_path / "rows.jsonl", [{"id": "2"}, {"id": float("nan")}])
    with pytest.raises(TypeError):
        write_json(tmp_path / "rows.jsonl", {"metric": object()})
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]
    assert read_rows(tmp_path) == [{"id": "1"}]


def test_answers_as_models_word_them(tmp_path):
    rows = [("a", "surprised", "surprise"), ("b", "Sad.", "sadness"), ("c", "mirth", "happiness")]
    lines = [json.dumps({"id": i, "completion": f"<answer>{a}</answer>", "target": t}) for i, a, t in rows]
    (tmp_path / "said.jsonl").write_text("\n".join(lines))
    published = score(str(tmp_path / "said.jsonl"), "dfew", str(tmp_path / "a"))
    assert published["war"] == 0 and published["judge"] is None and published["eea"] is None
    assert [own["answer"] for own in published["unread_answers"]] == ["Sad.", "mirth", "surprised"]
    extended = score(str(tmp_path / "said.jsonl"), "dfew", str(tmp_path / "b"), aliases="extended")
    assert extended["war"] == pytest.approx(2 / 3)
    assert extended["unread_answers"] == [{"answer": "mirth", "count": 1}]
    row = json.loads((tmp_path / "b/rows.jsonl").read_text().splitlines()[0])
    assert (row["prediction"], row["accuracy"], row["explanation"]) == ("surprise", 1.0, None)


def test_answers_of_another_language_are_refused_before_anything_is_read(tmp_path):
    lines = [json.dumps({"id": i, "completion": f"<answer>{i}</answer>", "target": "anger"}) for i in ("生气", "愤怒")]
    (tmp_path / "said.jsonl").write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(ValueError, match=r"said.jsonl: 100 % of the answers \(such as 生气\) .* taxonomy dfew has"):
        score(str(tmp_path / "said.jsonl"), "dfew", str(tmp_path / "a"), "no verifier here")
    assert score(str(tmp_path / "said.jsonl"), "dfew", str(tmp_path / "b"), aliases="extended")["war"] == 1.0


def test_a_class_without_a_verifier_label(tmp_path):
    (tmp_path / "said.jsonl").write_text('{"id": "a", "completion": "<answer>calm</answer>", "target": "calm"}\n')
    with pytest.raises(ValueError, match="ravdess has no verifier label for calm: neither the explanation reward"):
        score(str(tmp_path / "said.jsonl"), "ravdess", str(tmp_path / "a"), TINY)
    assert score(str(tmp_path / "said.jsonl"), "ravdess", str(tmp_path / "b"))["war"] == 1.0


def test_figures_of_each_corpus(tmp_path, capsys):
    rows = [("a", "angry", "DFEW"), ("b", "fear", "MAFW"), ("c", "angry", "MAFW")]
    lines = [
        json.dumps({"id": i, "completion": f"<answer>{a}</answer>", "target": "anger", "dataset": d})
        for i, a, d in rows
    ]
    (tmp_path / "said.jsonl").write_text("\n".join(lines))
    metrics = score(str(tmp_path / "said.jsonl"), "dfew", str(tmp_path / "a"))
    assert {name: own["war"] for name, own in metrics["corpora"].items()} == {"DFEW": 1.0, "MAFW": 0.5}
    assert "MAFW: 2 completions, WAR 50.00" in capsys.readouterr().out


def test_compound_clips_have_figures_over_sets(source, tmp_path):
    answers = {"1": "anger, disgust", "2": "angry"}
    lines = [
        {"id": own, "completion": f"<think>He.</think><answer>{answer}</answer>", "target": "anger_disgust"}
        for own, answer in answers.items()
    ]
    write_rows(source, lines)
    metrics = score(str(source), "mafw", str(tmp_path / "out"), TINY)
    assert metrics["war"] == 0.5, "as published: an answer is one emotion"
    assert metrics["emotion_sets"]["f1"] == pytest.approx((1 + 2 / 3) / 2)
    assert metrics["emotion_sets"]["exact_match"] == 0.5
