"""Published counts of the folds, and label files that the counts give away."""

from collections import Counter

import pytest

from datamodules.dfew import DFEW
from datamodules.mafw import MAFW
from datamodules.published import Coding, Published, published_fold, wrong_coding

pytestmark = pytest.mark.unit

# Clips in train and test of folds 1 to 5, as published.
DFEW_SIZES = [(9356, 2341), (9356, 2341), (9357, 2340), (9358, 2339), (9361, 2336)]
SINGLE_SIZES = [(7333, 1839), (7335, 1837), (7339, 1833), (7340, 1832), (7341, 1831)]
COMPOUND_SIZES = [(7178, 1818), (7187, 1809), (7198, 1798), (7208, 1788), (7213, 1783)]


@pytest.mark.parametrize(
    ("corpus", "options", "sizes"),
    [(DFEW, {}, DFEW_SIZES), (MAFW, {}, SINGLE_SIZES), (MAFW, {"label_set": "compound"}, COMPOUND_SIZES)],
)
def test_sizes_of_all_folds_are_the_published_ones(corpus: type, options: dict, sizes: list[tuple[int, int]]) -> None:
    for fold, (train, test) in enumerate(sizes, 1):
        data = corpus("x", fold=fold, **options)
        assert (data.published("train").num_clips, data.published("test").num_clips) == (train, test)


@pytest.mark.parametrize(
    ("corpus", "totals", "test_of_fold_5"),
    [
        (DFEW, (2445, 1894, 2669, 2173, 1469, 145, 902), (489, 378, 533, 434, 293, 29, 180)),
        (
            MAFW,
            (1390, 639, 625, 1242, 1138, 1470, 1072, 236, 916, 262, 182),
            (278, 127, 125, 248, 227, 294, 214, 47, 183, 52, 36),
        ),
    ],
)
def test_classes_of_fold_5_are_the_published_ones(corpus: type, totals: tuple, test_of_fold_5: tuple) -> None:
    data = corpus("x")
    train, test = data.published("train"), data.published("test")
    assert tuple(test.classes[name] for name in data.taxonomy.classes) == test_of_fold_5
    assert tuple(train.classes[n] + test.classes[n] for n in data.taxonomy.classes) == totals
    assert train.exact and test.exact


def test_test_splits_partition_the_corpus() -> None:
    tested = Counter[str]()
    for fold in range(1, 6):
        tested.update(published_fold({"a": 13, "b": 5, "c": 4}, fold, "test", exact=False).classes)
    assert tested == {"a": 13, "b": 5, "c": 4}


def test_class_counts_that_are_not_published_are_not_called_exact() -> None:
    assert DFEW("x", fold=4).published("test").exact, "all five folds are known"
    assert not MAFW("x", label_set="compound").published("test").exact


def test_compound_set_has_43_classes() -> None:
    train = MAFW("x", label_set="compound").published("train").classes
    test = MAFW("x", label_set="compound").published("test").classes
    assert len(train) == len(test) == 43
    assert all(test.values())  # all of them are in every test split
    assert train["anger_disgust"] + test["anger_disgust"] == 883
    assert sum(train[name] + test[name] for name in train if "_" in name) == 4058


def test_captioned_splits_lack_the_neutral_clips() -> None:
    tests = [MAFW("x", fold=fold, captions="english").published("test") for fold in range(1, 6)]
    assert sum(test.num_clips for test in tests) == 8034
    assert tests[4].num_clips == 1831 - 227
    assert all("neutral" not in test.classes for test in tests)


OWN = Coding("the corpus", ("anger", "disgust", "fear"), 1)
OTHERS = (Coding("the zero-based", OWN.classes, 0), Coding("the reversed", ("fear", "disgust", "anger"), 5))
SINGLE = Published(100, {"anger": 60, "disgust": 30, "fear": 10}, exact=True)
COMPOUND = Published(100, {"anger": 50, "anger_disgust": 30, "disgust_fear": 15, "fear": 5}, exact=True)


def repeated(counts: dict) -> list:
    return [label for label, count in counts.items() for _ in range(count)]


@pytest.mark.parametrize(
    "counts",
    [
        {1: 60, 2: 30, 3: 10},
        {"anger": 60, "disgust": 30, "fear": 10},
        {1: 59, 2: 31, 3: 10},  # a label was corrected
        {1: 55, 2: 27, 3: 9},  # some clips are gone
    ],
)
def test_own_coding_is_accepted(counts: dict) -> None:
    assert wrong_coding(repeated(counts), OWN, OTHERS, SINGLE) is None


@pytest.mark.parametrize(
    ("counts", "cause"),
    [
        ({0: 60, 1: 30, 2: 10}, "if its codes are read as those of the zero-based (0=anger, 1=disgust, ...)"),
        ({0: 59, 1: 31, 2: 10}, "if its codes are read as those of the zero-based"),  # and a label was corrected
        ({7: 60, 6: 30, 5: 10}, "if its codes are read as those of the reversed (5=fear, 6=disgust, ...)"),
        (
            {"fear": 60, "disgust": 30, "anger": 10},
            "if the codes behind its names are read as those of the reversed (5=fear, 6=disgust, ...)",
        ),
        (
            {1: 30, 2: 60, 3: 10},
            "published sizes, but in another order: anger 30 (published: 60), disgust 60 (published: 30), fear 10 (",
        ),
    ],
)
def test_other_codings_are_recognised(counts: dict, cause: str) -> None:
    found = wrong_coding(repeated(counts), OWN, OTHERS, SINGLE)
    assert found is not None
    assert cause in found


@pytest.mark.parametrize(
    ("counts", "cause"),
    [
        ({(0,): 50, (0, 1): 30, (1, 2): 15, (2,): 5}, "the zero-based"),
        ({(7,): 50, (6, 7): 30, (5, 6): 15, (5,): 5}, "the reversed"),
        ({"fear": 50, "disgust_fear": 30, "anger_disgust": 15, "anger": 5}, "the reversed"),
    ],
)
def test_other_codings_of_compound_labels_are_recognised(counts: dict, cause: str) -> None:
    found = wrong_coding(repeated(counts), OWN, OTHERS, COMPOUND)
    assert found is not None
    assert f"read as those of {cause}" in found


def test_own_compound_labels_are_accepted_in_any_order() -> None:
    counts = {"anger": 50, "disgust_anger": 30, "disgust_fear": 15, "fear": 5}
    assert wrong_coding(repeated(counts), OWN, OTHERS, COMPOUND) is None


@pytest.mark.parametrize(
    ("counts", "published"),
    [
        ({0: 53, 1: 27, 2: 9}, SINGLE),  # less than nine tenths of the split: shares tell nothing
        ({0: 60, 1: 30, 2: 10}, None),
        ({0: 60, 1: 30, 2: 10}, Published(100, {}, exact=True)),
        ({1: 34, 2: 33, 3: 33}, SINGLE),  # in nobody's shares
        ({1: 60, 2: 30, 9: 10}, SINGLE),  # in nobody's range; the rows are refused one by one
        ({"anger": 60, "disgust": 30, "frustration": 10}, SINGLE),
    ],
)
def test_nothing_is_concluded_without_grounds(counts: dict, published: Published | None) -> None:
    assert wrong_coding(repeated(counts), OWN, OTHERS, published) is None


def test_clips_missing_from_one_class_are_no_other_order() -> None:
    # 30 of 900 clips are gone from one class: the classes' sizes are those of no other order.
    published = Published(900, {"anger": 300, "disgust": 290, "fear": 310}, exact=True)
    labels = ["anger"] * 270 + ["disgust"] * 290 + ["fear"] * 310
    own = Coding("own", ("anger", "disgust", "fear"), 1)
    assert wrong_coding(labels, own, (), published) is None
