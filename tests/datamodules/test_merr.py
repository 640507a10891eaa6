"""MERR's fine and coarse JSON: labels, explanations, what is left out, and bad entries."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torchcodec.encoders import VideoEncoder

from datamodules.clip_datamodule import ClipDataModule
from datamodules.inspection.inspect_data import inspect_data
from datamodules.media_settings import MediaSettings
from datamodules.merr import MERR

pytestmark = pytest.mark.unit

LABELS = ("neutral", "angry", "happy", "sad", "worried", "surprise", "fear", "contempt", "doubt")


def annotation(label: str, **fields: Any) -> dict[str, Any]:
    """An entry with the fields that both files share."""
    return {
        "AU_list": ["AU04", "AU07"],
        "visual_prior_list": ["Eyebrows drawn together"],
        "audio_prior_list": "A raised voice.",
        "peak_index": "31",
        "peak_AU_list": ["AU04: 1.2"],
        "pseu_emotion": label,
        **fields,
    }


def fine(label: str) -> dict[str, Any]:
    return annotation(label, text="Come here.", smp_reason_caption=f"The voice sounds {label}.")


@pytest.fixture
def merr(tmp_path: Path, write_clip: Callable[[Path, int], Path]) -> Path:
    """MERR with nine samples, one of each label, in both files; clips as MER2023 has them."""
    root = tmp_path / "MERR"
    root.mkdir()
    for number, _ in enumerate(LABELS):
        write_clip(root / "test3" / f"samplenew_{number:08d}.mp4", number)
    write_annotations(root, "fine", {f"samplenew_{n:08d}": fine(label) for n, label in enumerate(LABELS)})
    coarse = {
        f"samplenew_{n:08d}": annotation(label, caption=f"A face that is {label}.") for n, label in enumerate(LABELS)
    }
    write_annotations(root, "coarse", coarse)
    return root


def write_annotations(root: Path, grain: str, entries: Any) -> None:
    (root / f"MERR_{grain}_grained.json").write_text(json.dumps(entries))


@pytest.mark.parametrize(
    ("grain", "response"),
    [
        ("fine", "<think>The voice sounds worried.</think>\n<answer>anxiety</answer>"),
        ("coarse", "<think>A face that is worried.</think>\n<answer>anxiety</answer>"),
    ],
)
def test_grain_chooses_file_and_explanation(merr: Path, settings: MediaSettings, grain: Any, response: str) -> None:
    data = ClipDataModule(MERR(str(merr), grain=grain, media=settings, batch_size=8))
    with pytest.warns(UserWarning, match=r"MERR train: 1 clips are left out, .* mafw .*\(doubt 1\)"):
        data.setup("fit")
    (batch,) = data.train_dataloader()
    assert batch.failures == [None] * 8
    targets = dict(zip(batch.ids, batch.targets, strict=True))
    assert [targets[f"samplenew_{number:08d}"] for number in range(8)] == [
        "neutral",
        "anger",
        "happiness",
        "sadness",
        "anxiety",
        "surprise",
        "fear",
        "contempt",
    ]
    worried = batch.ids.index("samplenew_00000004")
    assert batch.responses[worried] == response
    # Clip 4 is written with the first of four grey levels.
    assert batch.frames[worried].float().mean().item() == pytest.approx(40, abs=4)


def test_dfews_taxonomy_leaves_three_labels_out(merr: Path) -> None:
    with pytest.warns(UserWarning, match=r"3 clips are left out, .* dfew .*\(worried 1, contempt 1, doubt 1\)"):
        records = MERR(str(merr), taxonomy="dfew").records("train")
    assert [record.target for record in records] == ["neutral", "anger", "happiness", "sadness", "surprise", "fear"]


def test_avi_clips_are_found_in_any_folder(tmp_path: Path, settings: MediaSettings) -> None:
    write_annotations(tmp_path, "fine", {"samplenew_00000001": fine("sad"), "samplenew_00000002": fine("sad")})
    clip = tmp_path / "part_1" / "samplenew_00000002.avi"
    clip.parent.mkdir()
    VideoEncoder(frames=torch.full((10, 3, 64, 64), 200, dtype=torch.uint8), frame_rate=25).to_file(str(clip))
    data = ClipDataModule(MERR(str(tmp_path), media=settings, validation_fraction=0))
    with pytest.warns(
        UserWarning, match=r"1 listed clips have no file .*samplenew_00000001 \(.*json:samplenew_00000001"
    ):
        data.setup("fit")
    (batch,) = data.train_dataloader()
    assert batch.failures == [None]
    assert batch.frames.float().mean().item() == pytest.approx(200, abs=4)


def test_there_is_only_a_train_split(merr: Path) -> None:
    with pytest.raises(ValueError, match="has no test split"):
        ClipDataModule(MERR(str(merr))).setup("test")


def test_annotations_may_lie_elsewhere(merr: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"samplenew_00000002": fine("happy")}))
    (record,) = MERR(str(merr), annotations=str(path)).records("train")
    assert record.media == str(merr / "test3" / "samplenew_00000002.mp4")
    with pytest.raises(FileNotFoundError, match=f"No such MERR file. Looked for: gone.json, {merr}/gone.json"):
        MERR(str(merr), annotations="gone.json").records("train")


def test_missing_annotations_name_every_place(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        ClipDataModule(MERR(str(tmp_path), grain="coarse")).setup("fit")
    assert f"{tmp_path}/MERR_coarse_grained.json, {tmp_path}/MERR/MERR_coarse_grained.json" in str(caught.value)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (fine("joyful"), r"json:bad: label 'joyful' is not a mafw emotion"),
        (fine(""), r"json:bad: expected an object with texts `pseu_emotion` and `smp_reason_caption`"),
        (annotation("sad", caption="A coarse one."), r"json:bad: expected .*`smp_reason_caption` \(grain fine\)"),
        (annotation("sad", smp_reason_caption=" "), r"json:bad: expected"),
        (annotation("sad", smp_reason_caption=["a"]), r"json:bad: expected"),
        ("sad", r'json:bad: expected an object .* got "sad"'),
    ],
)
def test_bad_entry_is_named(merr: Path, entry: Any, message: str) -> None:
    write_annotations(merr, "fine", {"samplenew_00000000": fine("sad"), "bad": entry})
    with pytest.raises(ValueError, match=message):
        ClipDataModule(MERR(str(merr))).setup("fit")
    data = MERR(str(merr))
    data.problems = []
    assert [record.id for record in data.records("train")] == ["samplenew_00000000"]
    assert len(data.problems) == 1


@pytest.mark.parametrize(("entries", "message"), [([], "got .*. Expected a JSON object"), ({}, "lists no clips")])
def test_other_json_is_refused(merr: Path, entries: Any, message: str) -> None:
    write_annotations(merr, "fine", entries)
    with pytest.raises(ValueError, match=f"MERR_fine_grained.json.* {message}"):
        ClipDataModule(MERR(str(merr))).setup("fit")


@pytest.mark.parametrize(
    ("taxonomy", "left_out"),
    [("mafw", {"doubt": 45}), ("dfew", {"worried": 310, "doubt": 45, "contempt": 41})],
)
def test_the_fine_file_as_published_is_without_a_fault(tmp_path: Path, taxonomy: Any, left_out: dict[str, int]) -> None:
    counts = dict(zip(LABELS, (1352, 874, 475, 1091, 310, 213, 86, 41, 45), strict=True))
    labels = [label for label, count in counts.items() for _ in range(count)]
    write_annotations(tmp_path, "fine", {f"samplenew_{n:08d}": fine(label) for n, label in enumerate(labels)})
    for number in range(len(labels)):
        (tmp_path / f"samplenew_{number:08d}.avi").touch()
    data = MERR(str(tmp_path), taxonomy=taxonomy)
    with pytest.warns(UserWarning, match=f"{sum(left_out.values())} clips are left out"):
        report = inspect_data(data, output=str(tmp_path / "out"), decode=False, strict=True)
    assert report["splits"]["train"]["left_out"] == left_out
    assert [finding["kind"] for finding in report["findings"]] == ["left_out"]
    assert report["surplus"] == []


def test_of_the_coarse_file_only_the_size_is_published() -> None:
    published = MERR("x", grain="coarse").published("train")
    assert (published.num_clips, published.classes) == (28618, {})


def test_a_label_listed_twice_is_refused(merr: Path) -> None:
    entries = json.dumps({"samplenew_00000000": fine("sad")})[1:-1]
    (merr / "MERR_fine_grained.json").write_text(f"{{{entries}, {entries}}}")
    with pytest.raises(ValueError, match=r'MERR_fine_grained.json: .*the key "samplenew_00000000" is there twice'):
        ClipDataModule(MERR(str(merr))).setup("fit")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("He shouts. <answer>happy</answer> All laugh.", "json:bad: the response to learn has <answer> 2 times"),
        ("He shouts.</think>He frowns.", "json:bad: the response to learn has </think> 2 times"),
    ],
)
def test_an_explanation_with_tags_is_refused(merr: Path, text: str, message: str) -> None:
    write_annotations(merr, "fine", {"bad": annotation("angry", smp_reason_caption=text)})
    with pytest.raises(ValueError, match=message):
        ClipDataModule(MERR(str(merr))).setup("fit")


def test_grain_must_exist() -> None:
    with pytest.raises(ValueError, match="grains are fine, coarse; got 'medium'"):
        MERR("x", grain="medium")  # type: ignore[arg-type]
