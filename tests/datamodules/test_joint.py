"""Several corpora as one."""

import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from datamodules import emotions
from datamodules.clip_datamodule import ClipDataModule
from datamodules.clips import Clips
from datamodules.dfew import DFEW
from datamodules.joint import Joint
from datamodules.mafw import MAFW
from datamodules.media_settings import MediaSettings

pytestmark = pytest.mark.unit


@pytest.fixture
def mafw(tmp_path: Path, write_clip: Callable[[Path, int], Path]) -> Path:
    """MAFW's layout with 12 training and 4 test clips; `00012.mp4` has the number of a DFEW clip."""
    root = tmp_path / "MAFW"
    labels = {"train": [("fear", 4), ("contempt", 8)], "test": [("fear", 2), ("contempt", 2)]}
    number = 12
    for split, counts in labels.items():
        rows = []
        for emotion, count in counts:
            for _ in range(count):
                write_clip(root / "data" / "clips" / f"{number:05d}.mp4", number)
                rows.append(f"{number:05d}.mp4 {emotion}\r\n")
                number += 1
        path = root / "Train & Test Set" / "single" / "no_caption" / "set_5" / f"{split}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes("".join(rows).encode())
    return root


@pytest.fixture
def joint(official_dfew: Path, mafw: Path, settings: MediaSettings) -> Callable[..., ClipDataModule]:
    """MAFW (12 training clips) and DFEW (28)."""

    def make(**kwargs) -> ClipDataModule:
        options = {"validation_fraction": 0.0, "batch_size": 1, "media": settings, **kwargs}
        return ClipDataModule(Joint([MAFW(str(mafw)), DFEW(str(official_dfew))], **options))

    return make


def set_up(data: ClipDataModule, *stages: str) -> ClipDataModule:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for stage in stages:
            data.setup(stage)
    return data


def drawn(data: ClipDataModule, epoch: int = 0) -> Counter[str]:
    """Training clips of an epoch, by corpus."""
    loader = data.train_dataloader()
    loader.sampler.set_epoch(epoch)
    return Counter(data.datasets["train"].records[position].dataset for position in loader.sampler)


def test_clips_of_all_corpora_are_there_under_their_corpus_name(joint: Callable[..., ClipDataModule]) -> None:
    data = set_up(joint(), "fit", "test")
    assert len(data.datasets["train"]) == 40
    assert len(data.datasets["test"]) == 11
    ids = [record.id for record in data.datasets["train"].records]
    assert "MAFW/00012.mp4" in ids
    assert "DFEW/00012" in ids
    batch = next(iter(data.test_dataloader()))
    assert batch.ids[0].startswith("MAFW/")
    assert set(batch.datasets) == {"MAFW", "DFEW"}


def test_taxonomy_is_the_smallest_that_holds_every_class(joint: Callable[..., ClipDataModule]) -> None:
    assert joint().taxonomy is emotions.MAFW_TAXONOMY


def test_known_overlap_is_a_warning_before_training(joint: Callable[..., ClipDataModule]) -> None:
    with pytest.warns(UserWarning, match="Joint training on MAFW and DFEW: .*1,097 DFEW clips"):
        joint().setup("fit")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        joint().setup("test")


def test_without_weights_each_clip_is_drawn_once(joint: Callable[..., ClipDataModule]) -> None:
    assert drawn(set_up(joint(), "fit")) == {"MAFW": 12, "DFEW": 28}


@pytest.mark.parametrize(("weights", "expected"), [([1.0, 1.0], 20), ([3.0, 1.0], 30)])
def test_weights_set_the_share_of_each_corpus(
    joint: Callable[..., ClipDataModule], weights: list[float], expected: int
) -> None:
    data = set_up(joint(weights=weights), "fit")
    for epoch in (0, 1):
        assert drawn(data, epoch) == {"MAFW": expected, "DFEW": 40 - expected}


def test_balance_is_inside_each_corpus(joint: Callable[..., ClipDataModule]) -> None:
    data = set_up(joint(weights=[1.0, 1.0], balance_classes=True), "fit")
    records = data.datasets["train"].records
    counts = Counter((records[i].dataset, records[i].target) for i in data.train_dataloader().sampler)
    assert counts["MAFW", "fear"] == counts["MAFW", "contempt"] == 10
    # Seven classes share DFEW's 20 draws.
    assert {counts["DFEW", emotion] for emotion in emotions.DFEW_TAXONOMY.classes} <= {2, 3}


def test_validation_is_stratified_in_each_corpus(joint: Callable[..., ClipDataModule]) -> None:
    data = set_up(joint(validation_fraction=0.25), "fit")
    held_out = Counter((record.dataset, record.target) for record in data.datasets["validation"].records)
    assert held_out["MAFW", "fear"] == 1
    assert held_out["MAFW", "contempt"] == 2
    assert held_out["DFEW", "fear"] == 1


def test_clip_in_train_and_test_of_one_corpus_is_refused(
    joint: Callable[..., ClipDataModule], official_dfew: Path
) -> None:
    path = official_dfew / "EmoLabel_DataSplit" / "test(single-labeled)" / "set_5.csv"
    path.write_text(path.read_text() + "7,1\n")
    with pytest.raises(ValueError, match="in both train and test, e.g. '7'"):
        joint().setup("fit")


def test_impossible_concatenations_are_refused(official_dfew: Path, mafw: Path, tmp_path: Path) -> None:
    dfew = DFEW(str(official_dfew))
    with pytest.raises(ValueError, match=r"two or more different corpora, got \['DFEW'\]"):
        Joint([dfew])
    with pytest.raises(ValueError, match=r"different corpora, got \['DFEW', 'DFEW'\]"):
        Joint([dfew, DFEW(str(official_dfew))])
    for weights in ([1.0], [1.0, 0.0]):
        with pytest.raises(ValueError, match=r"positive weight for each of \['DFEW', 'MAFW'\]"):
            Joint([dfew, MAFW(str(mafw))], weights=weights)
    with pytest.raises(ValueError, match="Clips has no labels"):
        Joint([dfew, Clips(str(mafw))])
