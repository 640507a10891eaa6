"""Sentences of stage 2: both file forms, the split by text, and bad rows."""

import json
from pathlib import Path

import pytest
import torch

from datamodules.emotions import GO_EMOTIONS
from datamodules.labelled_sentences import LabelledSentence, read_sentences, split_by_text
from datamodules.rationale_text import RationaleText, collate_sentences

pytestmark = pytest.mark.unit


def write_jsonl(path: Path, rows: list[tuple[str, list[str]]]) -> str:
    path.write_text("".join(json.dumps({"text": text, "emotions": labels}) + "\n" for text, labels in rows))
    return str(path)


@pytest.fixture
def train(tmp_path: Path) -> str:
    """40 sentences of 20 distinct texts."""
    return write_jsonl(tmp_path / "train.jsonl", [(f"Sentence {i % 20}.", [GO_EMOTIONS[i % 20]]) for i in range(40)])


def test_jsonl_and_tsv_read_alike(tmp_path: Path) -> None:
    jsonl = tmp_path / "a.jsonl"
    jsonl.write_text(
        '{"text": "He smiles \\"so\\".", "emotions": ["joy", "amusement"]}\n\n{"text": "é", "emotions": ["neutral"]}\n'
    )
    tsv = tmp_path / "a.tsv"
    tsv.write_text('He smiles "so".\t17,1\teebbqej\r\né\t27\ted00q6i\n', encoding="utf-8")
    expected = [LabelledSentence('He smiles "so".', ("amusement", "joy")), LabelledSentence("é", ("neutral",))]
    assert read_sentences(jsonl) == expected
    assert read_sentences(tsv) == expected


def test_batch_is_multi_hot_in_the_order_of_goemotions() -> None:
    batch = collate_sentences([LabelledSentence("a", ("admiration", "neutral")), LabelledSentence("b", ("joy",))])
    assert batch.texts == ["a", "b"]
    assert batch.labels.dtype == torch.float32
    assert batch.labels.shape == (2, 28)
    assert batch.labels.nonzero().tolist() == [[0, 0], [0, 27], [1, 17]]


def test_batch_moves_its_labels() -> None:
    batch = collate_sentences([LabelledSentence("a", ("joy",))])
    moved = batch.to("meta")
    assert moved.labels.device.type == "meta"
    assert moved.texts == ["a"]
    assert batch.labels.device.type == "cpu"


def test_equal_texts_stay_on_one_side(train: str) -> None:
    sentences = read_sentences(train)
    training, validation = split_by_text(sentences, 0.25, seed=0)
    assert len({sentence.text for sentence in validation}) == 5
    assert len(validation) == 10
    assert not {s.text for s in training} & {s.text for s in validation}
    assert len(training) + len(validation) == 40
    assert split_by_text(sentences, 0.25, seed=0) == (training, validation)
    assert split_by_text(sentences, 0.25, seed=1)[1] != validation


def test_loaders_give_every_sentence(train: str, tmp_path: Path) -> None:
    test = write_jsonl(tmp_path / "test.jsonl", [("Unseen.", ["fear"])])
    data = RationaleText(train, test=test, batch_size=16, validation_fraction=0.1)
    for stage in ("fit", "test"):
        data.setup(stage)
    assert [len(batch) for batch in data.train_dataloader()] == [16, 16, 4]
    assert [len(batch) for batch in data.val_dataloader()] == [4]
    (batch,) = data.test_dataloader()
    assert batch.texts == ["Unseen."]
    assert data.labels == GO_EMOTIONS


def test_training_order_depends_on_seed_and_epoch(train: str) -> None:
    def order(seed: int, epoch: int) -> list[str]:
        data = RationaleText(train, seed=seed, validation_fraction=0.0)
        data.setup("fit")
        assert data.val_dataloader() == []
        loader = data.train_dataloader()
        loader.sampler.set_epoch(epoch)
        return [text for batch in loader for text in batch.texts]

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 1)
    assert order(0, 0) != order(1, 0)


def test_worker_processes_give_the_same_batches(train: str) -> None:
    def texts(num_workers: int) -> list[list[str]]:
        data = RationaleText(train, num_workers=num_workers, batch_size=8)
        data.setup("fit")
        return [batch.texts for batch in data.train_dataloader()]

    assert texts(2) == texts(0)


def test_validation_file_is_used_and_shared_sentences_are_counted(train: str, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "val.jsonl", [("Sentence 1.", ["joy"]), ("New.", ["joy"])])
    data = RationaleText(train, validation=path)
    with pytest.warns(UserWarning, match=r"1 of 2 sentences are also in .*train.jsonl"):
        data.setup("fit")
    assert len(data.sentences["train"]) == 40
    assert len(data.sentences["validation"]) == 2


def test_limit_draws_the_same_sentences_each_time(train: str) -> None:
    data, again = RationaleText(train, limit=3), RationaleText(train, limit=3)
    for module in (data, again):
        module.setup("fit")
    assert data.sentences == again.sentences
    assert len(data.sentences["train"]) == 3


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{", "bad.jsonl:2: not valid JSON"),
        ('["text"]', "bad.jsonl:2: got"),
        ('{"text": "a"}', "bad.jsonl:2: got"),
        ('{"text": 1, "emotions": ["joy"]}', "bad.jsonl:2: got"),
        ('{"text": "a", "emotions": "joy"}', "bad.jsonl:2: got"),
        ('{"text": " ", "emotions": ["joy"]}', "bad.jsonl:2: the text is empty"),
        ('{"text": "a", "emotions": []}', "bad.jsonl:2: no label.*'neutral'"),
        ('{"text": "a", "emotions": ["joy", "happiness"]}', "bad.jsonl:2: 'happiness' is not a GoEmotions label"),
        ('{"text": "a", "emotions": [17]}', "bad.jsonl:2: 17 is not a GoEmotions label"),
    ],
)
def test_bad_jsonl_row_is_named(tmp_path: Path, row: str, message: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text('{"text": "a", "emotions": ["joy"]}\n' + row + "\n")
    with pytest.raises(ValueError, match=message):
        RationaleText(str(path)).setup("fit")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("text only", "bad.tsv:2: got 'text only'. Expected"),
        ("text\tjoy\tid", "bad.tsv:2: got"),
        ("text\t\tid", "bad.tsv:2: got"),
        ("text\t1,28\tid", "bad.tsv:2: label id 28 is not one of GoEmotions' 0 to 27"),
        ("\t1\tid", "bad.tsv:2: the text is empty"),
    ],
)
def test_bad_tsv_row_is_named(tmp_path: Path, row: str, message: str) -> None:
    path = tmp_path / "bad.tsv"
    path.write_text("fine\t0\tid\n" + row + "\n")
    with pytest.raises(ValueError, match=message):
        RationaleText(str(path)).setup("fit")


def test_file_that_is_absent_empty_or_of_another_form_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"No such file: .*none.jsonl. Expected labelled sentences"):
        read_sentences(tmp_path / "none.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(ValueError, match=r"empty.jsonl has no sentences"):
        read_sentences(tmp_path / "empty.jsonl")
    (tmp_path / "a.csv").touch()
    with pytest.raises(ValueError, match=r"a.csv: cannot tell its form. Expected an ending among .jsonl, .tsv"):
        read_sentences(tmp_path / "a.csv")


def test_testing_without_test_sentences_says_what_to_set(train: str) -> None:
    with pytest.raises(ValueError, match="set `test`"):
        RationaleText(train).setup("test")


def test_validating_without_validation_sentences_says_what_to_set(train: str) -> None:
    with pytest.raises(ValueError, match="a larger `validation_fraction` than 0"):
        RationaleText(train, validation_fraction=0.0).setup("validate")


@pytest.mark.parametrize("wrong", [{"validation_fraction": 1.0}, {"limit": 0}])
def test_impossible_arguments_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        RationaleText("x.jsonl", **wrong)
