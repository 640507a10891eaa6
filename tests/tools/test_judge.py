"""`python main.py judge` and `score --judge CLASS`, through the command line and a real server."""

import json
from pathlib import Path

import pytest

import main
from datamodules.emotions import DFEW_TAXONOMY
from datamodules.synthetic.grammar import OracleJudge
from lightning_modules.endpoint.errors import EndpointError
from lightning_modules.judges import EndpointJudge, VerifierJudge
from lightning_modules.judges.prompt import judge_prompt
from lightning_modules.metrics.predictions import read_predictions
from tests.chat_server import Answer, ChatServer, Request
from tests.tools.report.conftest import GOLDEN_CLIP
from tools.judge import judge_predictions, rationale_of

pytestmark = [pytest.mark.e2e, pytest.mark.filterwarnings("ignore:UAR leaves out classes")]

TINY = str(Path(__file__).parents[1] / "golden" / "tiny_verifier")
RATIONALES = ["He smiles.\n\nShe laughs!", "She cries.", "", "Nothing \ud83d happens.", "She cries."]


def row(i: int, rationale: str, **changes) -> dict:
    completion = f"<think>{rationale}</think><answer>happy</answer>"
    return {
        "id": f"clip{i}",
        "target": "happiness",
        "prediction": "happiness",
        "format": 1,
        "accuracy": 1,
        "explanation": None,
        "sentences": [{"text": text, "emotions": None, "probabilities": None} for text in rationale.split("\n\n")],
        "judged": None,
        "judge": None,
        "taxonomy": "dfew",
        "completion": completion,
        **changes,
    }


@pytest.fixture
def predictions(tmp_path):
    path = tmp_path / "predictions.jsonl"
    path.write_text("".join(json.dumps(row(i, rationale)) + "\n" for i, rationale in enumerate(RATIONALES)))
    return path


@pytest.fixture
def output(tmp_path):
    return tmp_path / "out" / "verdicts.jsonl"


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def by_words(number: int, request: Request) -> Answer:
    words = {"smiles": "Happy.", "cries": "sad", "Nothing": "I cannot say"}
    return Answer(next(reply for word, reply in words.items() if word in request.prompt))


def endpoint(server: ChatServer, tmp_path: Path, **options) -> EndpointJudge:
    return EndpointJudge(server.url, "m", backoff=0.001, retries=1, cache=str(tmp_path / "replies.jsonl"), **options)


def test_verdicts_on_another_protocols_question_are_not_taken_for_these(predictions, output, tmp_path):
    with ChatServer(by_words) as server:
        judge = endpoint(server, tmp_path)
        judge_predictions(str(predictions), judge, str(output))
        with pytest.raises(
            ValueError, match=r"holds a verdict with .*endpoint:m'}; expected .*endpoint:m \(released\)"
        ):
            judge_predictions(str(predictions), endpoint(server, tmp_path), str(output), "released")
        other = tmp_path / "released.jsonl"
        result = judge_predictions(str(predictions), judge, str(other), "released")
        assert result["kept"] == 0 and result["judge"] == "endpoint:m (released)"
        assert judge_predictions(str(predictions), judge, str(output))["kept"] == 4, "the paper's are still there"


def test_an_endpoint_on_the_command_line(predictions, output, tmp_path, capsys):
    options = ["--judge", "EndpointJudge", "--judge.model", "m", "--judge.cache", str(tmp_path / "replies.jsonl")]
    with ChatServer(by_words) as server:
        options += [f"--judge.base_url={server.url}"]
        assert main.main(["judge", f"--predictions={predictions}", f"--output={output}", *options]) == 0
    rows = lines(output)
    assert [own["emotion"] for own in rows] == ["happiness", "sadness", None, None, "sadness"]
    assert [own["reply"] for own in rows] == ["Happy.", "sad", None, "I cannot say", "sad"]
    assert rows[3]["rationale"] == "Nothing \N{REPLACEMENT CHARACTER} happens."
    assert {(own["judge"], own["taxonomy"]) for own in rows} == {("endpoint:m", "dfew")}
    assert len(server.requests) == 3
    printed = capsys.readouterr().out
    assert "5 rationales judged, 2 invalid" in printed
    assert "0 verdicts were there before" in printed
    # The verdicts, and the same judge itself, which now finds its replies in the cache, give the same metrics.
    scored = ["score", f"--completions={predictions}", "--taxonomy=dfew", f"--verifier={TINY}"]
    assert main.main([*scored, f"--judge={output}", f"--output={tmp_path}/file"]) == 0
    assert main.main([*scored, f"--output={tmp_path}/judge", *options]) == 0
    metrics = json.loads((tmp_path / "file/metrics.json").read_text())
    assert metrics == json.loads((tmp_path / "judge/metrics.json").read_text())
    assert (metrics["judge"], metrics["eea"], metrics["judge_failures"]) == ("endpoint:m", 0.2, 2)


def test_a_verifier_on_the_command_line(predictions, output, tmp_path):
    options = ["--judge", "VerifierJudge", "--judge.verifier", TINY]
    assert main.main(["judge", f"--predictions={predictions}", f"--output={output}", *options]) == 0
    rows = lines(output)
    expected = VerifierJudge(TINY).judge([own["rationale"] for own in rows], DFEW_TAXONOMY)
    assert [own["emotion"] for own in rows] == expected
    assert {own["reply"] for own in rows} == {None}
    score = ["score", f"--completions={predictions}", "--taxonomy=dfew", f"--verifier={TINY}"]
    assert main.main([*score, f"--output={tmp_path}/default"]) == 0
    assert main.main([*score, f"--output={tmp_path}/named", *options]) == 0
    named, default = ((tmp_path / name / "metrics.json").read_text() for name in ("named", "default"))
    assert named == default
    assert main.main([*score[:-1], f"--output={tmp_path}/alone", *options]) == 0
    assert (tmp_path / "alone/metrics.json").read_text() == named, "a judge needs no verifier beside it"
    assert {own["explanation"] for own in lines(tmp_path / "alone/rows.jsonl")} == {None}


def test_a_language_model_on_the_command_line(predictions, output, tiny_models):
    options = ["--judge", "LanguageModelJudge", "--judge.path", str(tiny_models / "language_model")]
    assert main.main(["judge", f"--predictions={predictions}", f"--output={output}", *options]) == 0
    rows = lines(output)
    assert [own["reply"] is None for own in rows] == [False, False, True, False, False]
    assert rows[1]["reply"] == rows[4]["reply"]


def test_a_judge_that_dies_half_way_goes_on_where_it_stopped(predictions, output, tmp_path):
    with (
        ChatServer(lambda n, request: by_words(n, request) if n < 2 else Answer(fault="reset")) as server,
        pytest.raises(EndpointError, match="2 of 3 replies are kept"),
    ):
        judge_predictions(str(predictions), endpoint(server, tmp_path, concurrency=1), str(output))
    asked = server.prompts()[:2]
    assert not output.exists()
    partial = output.with_name("verdicts.jsonl.partial")
    assert len(lines(partial)) >= 3  # the empty rationale, and at least those of the two replies
    partial.write_bytes(partial.read_bytes()[:-9])  # killed while writing
    with ChatServer(by_words) as second:
        result = judge_predictions(str(predictions), endpoint(second, tmp_path), str(output))
    assert [own["emotion"] for own in lines(output)] == ["happiness", "sadness", None, None, "sadness"]
    expected = sorted(judge_prompt(lines(output)[i]["rationale"], DFEW_TAXONOMY) for i in (0, 1, 3))
    assert sorted(asked + second.prompts()) == expected
    assert (result["num_clips"], result["invalid"]) == (5, 2)
    assert [path.name for path in output.parent.iterdir()] == ["verdicts.jsonl"]


def test_only_what_is_new_or_has_no_reply_is_judged_again(predictions, output, tmp_path):
    faulty = True

    def answer(number: int, request: Request) -> Answer:
        return Answer(status=500) if faulty and "smiles" in request.prompt else by_words(number, request)

    with ChatServer(answer) as server:
        first = judge_predictions(str(predictions), endpoint(server, tmp_path, max_failures=1), str(output))
        assert (first["kept"], first["invalid"]) == (0, 3)
        faulty = False
        server.requests.clear()
        rows = [row(i, rationale) for i, rationale in enumerate(RATIONALES)]
        rows[1] = row(1, "He smiles a lot.")
        predictions.write_text("".join(json.dumps(own) + "\n" for own in rows[:4]))
        (tmp_path / "replies.jsonl").unlink()  # the verdicts alone must do
        second = judge_predictions(str(predictions), endpoint(server, tmp_path), str(output))
    assert sorted(server.prompts()) == sorted(
        judge_prompt(text, DFEW_TAXONOMY) for text in (RATIONALES[0], "He smiles a lot.")
    )
    assert (second["kept"], second["num_clips"], second["invalid"]) == (1, 4, 2)
    assert [own["emotion"] for own in lines(output)] == ["happiness", "happiness", None, None]


def test_nothing_to_do_asks_nothing_and_leaves_the_file_as_it_is(predictions, output):
    judge_predictions(str(predictions), OracleJudge(), str(output))
    before = output.read_bytes()
    judge_predictions(str(predictions), OracleJudge(), str(output))
    assert output.read_bytes() == before


def test_an_output_that_holds_something_else_is_not_overwritten(predictions, output, tmp_path):
    before = predictions.read_bytes()
    with pytest.raises(ValueError, match="emotion, reply, rationale missing"):
        judge_predictions(str(predictions), OracleJudge(), str(predictions))
    assert predictions.read_bytes() == before
    judge_predictions(str(predictions), OracleJudge(), str(output))
    with pytest.raises(ValueError, match="'judge': 'oracle-grammar'}; expected {'judge': 'verifier:"):
        judge_predictions(str(predictions), VerifierJudge(TINY), str(output))
    with pytest.raises(ValueError, match="is a directory. Give a file"):
        judge_predictions(str(predictions), OracleJudge(), str(tmp_path))


def test_the_rationale_of_rows_without_completion_is_their_sentences(predictions):
    rows = [row(0, RATIONALES[0], completion=None), row(1, RATIONALES[0])]
    predictions.write_text("".join(json.dumps(own) + "\n" for own in rows))
    without, with_completion = read_predictions(predictions).predictions
    assert rationale_of(without, DFEW_TAXONOMY) == "He smiles. She laughs!"
    assert rationale_of(with_completion, DFEW_TAXONOMY) == "He smiles.\n\nShe laughs!"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--judge=NoJudge"], "NoJudge"),
        (["--judge=EndpointJudge"], "base_url"),
        (["--judge=EndpointJudge", "--judge.base_url=x", "--judge.model=m"], "Expected base_url such as"),
    ],
)
def test_a_judge_that_cannot_be_made_is_an_error(predictions, output, options, message, capsys):
    assert main.main(["judge", f"--predictions={predictions}", f"--output={output}", *options]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_no_key_in_a_printed_configuration(predictions, output, monkeypatch, capsys):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    options = ["--judge=EndpointJudge", "--judge.base_url=https://a/v1", "--judge.model=m", "--print_config"]
    with pytest.raises(SystemExit):
        main.run(["judge", f"--predictions={predictions}", f"--output={output}", *options])
    printed = capsys.readouterr().out
    assert "key_variable: OPENAI_API_KEY" in printed and "sk-secret" not in printed


@pytest.mark.parametrize("form", ["options", "yaml"])
def test_judges_of_a_model_are_named_like_those_of_a_tool(tiny_models, tmp_path, form):
    if form == "options":
        judge = ["--model.judge=EndpointJudge", "--model.judge.base_url=http://localhost/v1", "--model.judge.model=m"]
    else:
        file = tmp_path / "judge.yaml"
        file.write_text(
            "model:\n  init_args:\n    judge:\n      class_path: lightning_modules.judges.EndpointJudge\n"
            "      init_args: {base_url: 'http://localhost/v1', model: m}\n"
        )
        judge = ["-c", str(file)]
    configs = [f"--config=configs/{name}.yaml" for name in ("trainer/default", "data/clips", "backbone/composed")]
    parts = [f"--model.backbone.{part}={tiny_models}/{part}" for part in ("vision", "audio", "language_model")]
    run = ["--trainer.accelerator=cpu", f"--trainer.default_root_dir={tmp_path}", f"--data.path={GOLDEN_CLIP}"]
    cli = main.build_stage("test", [*configs, *parts, *run, *judge])
    assert isinstance(cli.model.judge, EndpointJudge)
    assert cli.model.judge_name == "endpoint:m"
