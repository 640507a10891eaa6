"""Verdicts from a file."""

import json

import pytest

from datamodules.emotions import DFEW_TAXONOMY, MAFW_TAXONOMY
from lightning_modules.judges import FileJudge, Judge

pytestmark = pytest.mark.unit


@pytest.fixture
def file(tmp_path):
    return tmp_path / "judge.jsonl"


def test_file_judge_reads_replies_by_id(file):
    file.write_text(
        '{"id": "b", "emotion": " Happy\\n"}\n\n{"id": 7, "emotion": "sad."}\n{"id": "c", "emotion": null}\n'
    )
    judge = FileJudge(file)
    assert judge.name == f"file:{file}"
    # canonical; not a class; null; no such line
    assert judge.verdicts(["b", "7", "c", "d"], DFEW_TAXONOMY) == ["happiness", None, None, None]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"id": "a", "emotion": "sad"}\n{"id": "a", "emotion": "sad"}\n', r"judge.jsonl:2: id 'a' is already at .*:1"),
        ('{"id": "a", "emotion": "sad"}\nsad\n', "judge.jsonl:2: not valid JSON"),
        ('{"id": "a"}\n', r'judge.jsonl:1: emotion missing; got \["id"\]'),
        ('{"id": null, "emotion": "sad"}\n', "judge.jsonl:1: id must be text or a whole number; got null"),
        ('{"id": "a", "emotion": 3}\n', "judge.jsonl:1: emotion must be text or null; got 3"),
        ('["a", "sad"]\n', r'judge.jsonl:1: got \["a", "sad"\]; expected an object'),
        ("\n", "judge.jsonl is empty"),
    ],
)
def test_malformed_judge_files(file, content, message):
    file.write_text(content)
    with pytest.raises(ValueError, match=message):
        FileJudge(file)


def test_a_file_for_other_clips_is_an_error(file):
    file.write_text('{"id": "x", "emotion": "sad"}\n')
    with pytest.raises(ValueError, match="no verdict for any of the 2 clips"):
        FileJudge(file).verdicts(["a", "b"], DFEW_TAXONOMY)


def test_missing_judge_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="none.jsonl. Expected JSONL with id, emotion"):
        FileJudge(tmp_path / "none.jsonl")


ROW = {"id": "a", "emotion": "sadness", "judge": "endpoint:m", "taxonomy": "dfew", "rationale": "He cries.\n He weeps."}


def write(file, *changes):
    file.write_text("".join(json.dumps({**ROW, **change}) + "\n" for change in changes))


def test_a_file_that_says_who_judged_what(file):
    write(file, {}, {"id": "b", "emotion": None, "rationale": None})
    judge = FileJudge(file)
    assert not isinstance(judge, Judge)  # it judges clips, not rationales
    assert (judge.name, judge.taxonomy) == ("endpoint:m", "dfew")
    assert judge.verdicts(["a", "b"], DFEW_TAXONOMY, ["He cries. He weeps.", "any"]) == ["sadness", None]


def test_verdicts_on_another_rationale_or_in_another_taxonomy_are_refused(file):
    write(file, {})
    with pytest.raises(ValueError, match="the verdict on 'a' is on another rationale"):
        FileJudge(file).verdicts(["a"], DFEW_TAXONOMY, ["He laughs."])
    with pytest.raises(ValueError, match="verdicts in the taxonomy dfew; expected mafw"):
        FileJudge(file).verdicts(["a"], MAFW_TAXONOMY)


def test_names_in_a_file_do_not_steer_a_terminal(file):
    write(file, {"judge": "m\x1b[2J\u202e", "taxonomy": "df\x9bew"})
    judge = FileJudge(file)
    assert (judge.name, judge.taxonomy) == (r"m\x1b[2J\u202e", r"df\x9bew")


@pytest.mark.parametrize("change", [{"judge": "other"}, {"taxonomy": "mafw"}, {"judge": 3}])
def test_mixed_files_are_refused(file, change):
    write(file, {}, {"id": "b", **change})
    with pytest.raises(ValueError, match=r"judge.jsonl:2: (judge|taxonomy) (is '(other|mafw)', and|must be text)"):
        FileJudge(file)
