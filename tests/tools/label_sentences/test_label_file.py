"""The file of labelled sentences: what is appended, mended, refused, chosen."""

import json

import pytest

from datamodules.labelled_sentences import LabelledSentence, read_sentences
from tools.label_sentences.label_file import LabelFile, balanced, count_labels

pytestmark = pytest.mark.unit

LINE = '{"text": "He smiles.", "emotions": ["joy"], "labeller": "t"}\n'


def test_what_is_written_is_read_by_stage_2(tmp_path):
    file = LabelFile(tmp_path / "new" / "s.jsonl", "t")
    sentences = [
        LabelledSentence("He said “no”\u2028and left.", ("anger",)),
        LabelledSentence("她笑了。", ("joy", "love")),
    ]
    for i, sentence in enumerate(sentences, start=1):
        file.add(sentence)
        assert read_sentences(file.path) == sentences[:i]  # at once
    assert LabelFile(file.path, "t").sentences == sentences
    assert len(file.path.read_text(encoding="utf-8").splitlines()) == 2


@pytest.mark.parametrize("cut", ['{"text": "She cr', '{"text": "She cries.", "emotions": ["sad', "{"])
def test_a_cut_last_line_is_taken_away(tmp_path, cut, caplog):
    path = tmp_path / "s.jsonl"
    path.write_text(LINE + cut)
    assert [sentence.text for sentence in LabelFile(path, "t").sentences] == ["He smiles."]
    assert path.read_text() == LINE
    assert "cut short" in caplog.text


def test_a_whole_last_line_without_its_end_is_kept(tmp_path):
    path = tmp_path / "s.jsonl"
    path.write_text(LINE + '{"text": "She cries.", "emotions": ["sadness"]}')
    file = LabelFile(path, "t")
    file.add(LabelledSentence("He nods.", ("approval",)))
    assert [json.loads(line)["text"] for line in path.open()] == ["He smiles.", "She cries.", "He nods."]


def test_what_is_refused(tmp_path):
    with pytest.raises(ValueError, match="must end in .jsonl"):
        LabelFile(tmp_path / "s.txt", "t")
    path = tmp_path / "s.jsonl"
    path.write_text(LINE + "{broken\n" + LINE)
    with pytest.raises(ValueError, match=r"s\.jsonl:2: not valid JSON"):
        LabelFile(path, "t")
    path.write_text('{"text": "By hand.", "emotions": ["joy"]}\n' + LINE)
    with pytest.raises(ValueError, match=r"s\.jsonl:2 was labelled by 't', not by 'u'"):
        LabelFile(path, "u")


def test_balanced_by_hand():
    sentences = [LabelledSentence(f"j{i}", ("joy",)) for i in range(5)]
    sentences += [LabelledSentence("jl", ("joy", "love")), LabelledSentence("f", ("fear",))]
    chosen = balanced(sentences, 2, seed=0)
    # The rare ones first; then one of the five, as `jl` has taken one place of joy.
    assert count_labels(chosen) == {"joy": 2, "love": 1, "fear": 1}
    assert [sentence.text for sentence in chosen[-2:]] == ["jl", "f"]
    assert balanced(sentences, 2, seed=0) == chosen
    assert {balanced(sentences, 2, seed)[0].text for seed in range(20)} > {chosen[0].text}
    assert balanced(sentences, 6, seed=0) == sentences
