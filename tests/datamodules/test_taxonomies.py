"""Taxonomies in YAML, and answers as models word them."""

import pickle
from pathlib import Path

import pytest

from datamodules.emotions import GO_EMOTIONS, bare_word, get_taxonomy, taxonomy_names

pytestmark = pytest.mark.unit

SIZES = {
    "cremad": 6, "dfew": 7, "ekman": 7, "iemocap4": 4, "iemocap6": 6, "mafw": 11, "meld": 7, "mer": 6, "ravdess": 8,
}  # fmt: skip


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(("name", "size"), SIZES.items())
def test_shipped_taxonomies_are_found_from_anywhere(
    name: str, size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    taxonomy = get_taxonomy(name)
    assert len(taxonomy) == size and set(taxonomy.verifier_labels) <= set(GO_EMOTIONS)
    assert taxonomy.unlabelled == (("calm",) if name == "ravdess" else ())
    assert pickle.loads(pickle.dumps(taxonomy)) == taxonomy == get_taxonomy(name, "extended")
    assert hash(taxonomy) == hash(get_taxonomy(name))


def test_no_shipped_taxonomy_is_without_a_test() -> None:
    assert taxonomy_names() == sorted(SIZES)


@pytest.mark.parametrize(
    ("name", "label", "emotion"),
    [
        ("mer", "worried", "worry"),
        ("mer", "anxiety", "worry"),
        ("meld", "joy", "joy"),
        ("iemocap4", "exc", "happiness"),
        ("iemocap6", "exc", "excitement"),
        ("iemocap6", "fru", "frustration"),
        ("cremad", "ANG", "anger"),
        ("ravdess", "fearful", "fear"),
    ],
)
def test_labels_as_the_corpora_write_them(name: str, label: str, emotion: str) -> None:
    assert get_taxonomy(name).target(label, "here") == emotion


def test_ravdess_is_in_the_order_of_its_codes() -> None:
    names = [get_taxonomy("ravdess").from_code(code, "here") for code in range(1, 9)]
    assert names == ["neutral", "calm", "happiness", "sadness", "anger", "fear", "disgust", "surprise"]


@pytest.mark.parametrize(
    ("answer", "emotion"),
    [
        ("surprised", "surprise"),
        ("sad.", "sadness"),
        ("**Happy!**", "happiness"),
        ("“Afraid”", "fear"),
        ("  Angrily\n", "anger"),
        ("生气。", "anger"),
        ("not anger", None),
        ("anger or fear", None),
        ("anxious", None),
        ("...", None),
        ("", None),
    ],
)
def test_extended_reading(answer: str, emotion: str | None) -> None:
    assert get_taxonomy("dfew", "extended").canonical(answer) == emotion
    published = get_taxonomy("dfew").canonical(answer)
    assert published is None, "to the letter, none of these is an answer"


def test_extended_reading_knows_every_published_word() -> None:
    for name in taxonomy_names():
        taxonomy, extended = get_taxonomy(name), get_taxonomy(name, "extended")
        for word in (*taxonomy.classes, *taxonomy.aliases):
            assert extended.canonical(f"{word.upper()}.") == extended.canonical(word) == taxonomy.canonical(word)


def test_bare_word() -> None:
    assert bare_word(" *No  Emotion*. ") == "no emotion"


def test_a_file_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bored = '{aliases: [dull], colour: "#102030", judge: dull}'
    path = write(tmp_path / "own.yaml", f"classes:\n  bored: {bored}\n  glad: {{verifier: joy}}\n")
    monkeypatch.chdir(tmp_path)
    taxonomy = get_taxonomy("own.yaml")
    assert taxonomy == get_taxonomy(path) and taxonomy.name == path, "by which files name it, from wherever it is read"
    assert (taxonomy.classes, taxonomy.unlabelled) == (("bored", "glad"), ("bored",))
    assert taxonomy.canonical(" Dull ") == "bored"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: 1\n", "got 'a'. Expected `classes` alone"),
        ("classes: {joy: {}}\n", "two or more"),
        ("classes: {Joy: {}, fear: {}}\n", "'Joy' must be text in lower case"),
        ("classes: {a_b: {}, fear: {}}\n", "without _"),
        (
            "classes: {joy: {verifer: joy}, fear: {}}\n",
            r"joy has 'verifer'\. Expected some of: .* Did you mean verifier",
        ),
        ("classes: {joy: {aliases: [glad], color: '#fff000'}, fear: {}}\n", "joy has 'color'.*Did you mean colour"),
        ("clases: {joy: {}, fear: {}}\n", "got 'clases'. Expected `classes` alone. Did you mean classes"),
        ("classes: {joy: {verifier: happyness}, fear: {}}\n", "verifier label of joy is 'happyness'"),
        ("classes: {joy: {verifier: suprise}, fear: {}}\n", "Did you mean surprise"),
        ("classes: {joy: {aliases: happy}, fear: {}}\n", "Expected a list of words"),
        ("classes: {joy: {aliases: [fear]}, fear: {}}\n", "'fear' stands for joy and for fear"),
        ("classes: {joy: {aliases: [x]}, fear: {aliases: [x]}}\n", "'x' stands for fear and for joy"),
        ("classes: {joy: {colour: red}, fear: {}}\n", "#rrggbb"),
        ("classes: {joy: {judge: happy}, fear: {}}\n", "'happy' is not read as joy"),
        ("classes: {joy: {}, joy: {}}\n", "twice"),
    ],
)
def test_a_malformed_file_says_what_is_wrong(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        get_taxonomy(write(tmp_path / "own.yaml", text))


def test_unknown_names() -> None:
    with pytest.raises(ValueError, match=r"Unknown taxonomy 'affectnet'. Expected one of: cremad, .*path of a YAML"):
        get_taxonomy("affectnet")
    with pytest.raises(FileNotFoundError, match="There is no taxonomy nowhere.yaml.* cremad, dfew, .* ravdess do"):
        get_taxonomy("nowhere.yaml")
    with pytest.raises(ValueError, match=r"f:2: label 'hapiness' .* Did you mean happiness\?"):
        get_taxonomy("dfew").target("hapiness", "f:2")
