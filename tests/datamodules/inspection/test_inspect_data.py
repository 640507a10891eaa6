"""`inspect_data` on a DFEW that has one of every fault, and on corpora without any."""

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.clips import Clips
from datamodules.dfew import DFEW
from datamodules.inspection.checks import ClipCheck
from datamodules.inspection.contact_sheet import choose_clips, draw_contact_sheet, frame_strip
from datamodules.inspection.corpus_report import build_report
from datamodules.inspection.inspect_data import inspect_data
from datamodules.media_settings import MediaSettings
from datamodules.published import Published

pytestmark = pytest.mark.e2e

# Clip 1 has sound; 2 to 13 are grey clips without, but for 3, 4 and 5, which are broken, and 6, which has no file.
# Clip 9 is in both splits, and twice in train.
TRAIN = "video_name,label\n1,1\n2,1\n3,2\n4,2\n5,3\n6,3\n7,4\n8,9\nx,1\n9,5\n9,5\n"
TEST = "video_name,label\n00010,1\n11,7\n00009,5\n12,0\n"


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory, sample_clips: list[bytes], golden_media: Path) -> Path:
    """A DFEW root with one of every fault."""
    root = tmp_path_factory.mktemp("faulty") / "DFEW"
    clips = root / "Clip" / "original"
    clips.mkdir(parents=True)
    for split, rows in (("train", TRAIN), ("test", TEST)):
        directory = root / "EmoLabel_DataSplit" / f"{split}(single-labeled)"
        directory.mkdir(parents=True)
        (directory / "set_5.csv").write_text(rows)
    good = (golden_media / "av_stereo44k.mp4").read_bytes()
    for number in range(1, 14):
        (clips / f"{number}.mp4").write_bytes(sample_clips[number % 4])
    (clips / "1.mp4").write_bytes(good)
    (clips / "3.mp4").write_bytes(b"")
    (clips / "4.mp4").write_bytes(good[:60_000])
    (clips / "5.mp4").write_bytes(b"these are words")
    (clips / "6.mp4").unlink()
    return root


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the first inspection of `faulty` writes."""
    return tmp_path_factory.mktemp("output")


@pytest.fixture(scope="module")
def report(faulty: Path, output: Path, settings: MediaSettings) -> dict[str, Any]:
    """The report of the first inspection."""
    return inspect_data(DFEW(str(faulty), media=settings), output=str(output), num_workers=1)


def labels(root: Path, split: str) -> Path:
    return root / "EmoLabel_DataSplit" / f"{split}(single-labeled)" / "set_5.csv"


def test_counts_stand_beside_the_published_ones(report: dict[str, Any]) -> None:
    train, test = report["splits"]["train"], report["splits"]["test"]
    # Valid rows: 1 2 | 3 4 | 5 6 | 7 | 9.
    assert train["num_clips"] == 8
    assert train["classes"] == {
        "happiness": 2, "sadness": 2, "neutral": 2, "anger": 1, "surprise": 1, "disgust": 0, "fear": 0,
    }  # fmt: skip
    assert (train["published"]["num_clips"], train["published"]["classes"]["disgust"]) == (9361, 116)
    assert (test["num_clips"], test["classes"]["fear"], test["classes"]["surprise"]) == (3, 1, 1)
    # The test split is what DFEW predicts on; it is not shown twice.
    assert list(report["splits"]) == ["train", "test"]


def test_every_bad_row_is_named_once(report: dict[str, Any], faulty: Path) -> None:
    train, test = labels(faulty, "train"), labels(faulty, "test")
    assert [problem for problem in report["label_problems"] if problem.startswith(f"{train}:9: label code 9")]
    assert [problem for problem in report["label_problems"] if problem.startswith(f"{train}:10: got x,1.")]
    assert [problem for problem in report["label_problems"] if f"{train}:11 and {train}:12" in problem]
    assert [problem for problem in report["label_problems"] if problem.startswith(f"{test}:5: label code 0")]
    assert len(report["label_problems"]) == 4  # the overlap has an entry of its own


def test_overlap_names_both_rows(report: dict[str, Any], faulty: Path) -> None:
    assert report["overlap"] == [
        {"id": "00009", "train": f"{labels(faulty, 'train')}:11", "test": f"{labels(faulty, 'test')}:4"}
    ]


def test_missing_and_surplus_files(report: dict[str, Any], faulty: Path) -> None:
    assert report["missing"] == [{"split": "train", "id": "6", "source": f"{labels(faulty, 'train')}:7"}]
    # 8 and 12 have refused rows, 13 has none.
    assert sorted(Path(path).name for path in report["surplus"]) == ["12.mp4", "13.mp4", "8.mp4"]


def test_undecodable_clips_are_named_with_the_reason(report: dict[str, Any], faulty: Path) -> None:
    undecodable = {row["id"]: row for row in report["decoding"]["undecodable"]}
    assert list(undecodable) == ["3", "4", "5"]
    assert undecodable["3"]["reason"] == "the file has zero bytes"
    assert "cut short" in undecodable["4"]["reason"]
    assert "cannot open" in undecodable["5"]["reason"]
    assert undecodable["4"]["path"] == str(faulty / "Clip" / "original" / "4.mp4")
    assert (undecodable["4"]["split"], undecodable["4"]["source"]) == ("train", f"{labels(faulty, 'train')}:5")


def test_facts_of_the_clips(report: dict[str, Any]) -> None:
    decoding = report["decoding"]
    # Listed with a file: 1 2 3 4 5 7 9 10 11. Decodable: 1 (1.8 s, 45 frames), 2 7 9 10 11 (0.4 s, 10 frames).
    assert (decoding["num_checked"], decoding["num_checked_earlier"]) == (9, 0)
    assert sorted(decoding["without_audio"]) == ["00010", "11", "2", "7", "9"]
    assert decoding["silent"] == []
    assert decoding["too_few_frames"] == []
    assert decoding["too_long"] == ["1"]  # max_audio_seconds is 1
    assert decoding["duration_seconds"] == {"min": 0.4, "median": 0.4, "max": 1.8}
    assert decoding["duration_buckets"] == {"0–2 s": 6, "2–5 s": 0, "5 s+": 0}
    assert decoding["num_frames"] == {"min": 10, "median": 10, "max": 45}
    assert decoding["picture_sizes"] == {"64×64": 5, "96×64": 1}
    assert (decoding["video_codecs"], decoding["audio_codecs"]) == ({"h264": 6}, {"aac": 1})
    assert (decoding["frame_rates"], decoding["sample_rates"]) == ({"25": 6}, {"44100": 1})


def test_findings_are_ordered_by_gravity(report: dict[str, Any]) -> None:
    assert [(finding["severity"], finding["kind"], finding["count"]) for finding in report["findings"]] == [
        ("error", "overlap", 1),
        ("error", "label_problems", 4),
        ("error", "missing", 1),
        ("error", "undecodable", 3),
        ("warning", "counts", 2),
        ("note", "surplus", 3),
        ("note", "without_audio", 5),
        ("note", "too_long", 1),
    ]


def test_contact_sheet_shows_the_chosen_clips(
    report: dict[str, Any], output: Path, faulty: Path, settings: MediaSettings
) -> None:
    sheet = np.asarray(Image.open(output / "contact_sheet.png").convert("RGB")).astype(int)
    data = DFEW(str(faulty), media=settings)
    data.problems = []
    rows = {split: data.read_splits()[split] for split in ("train", "test")}
    paths = {record.media for records in rows.values() for record in records if record.media}
    broken = {row["path"] for row in report["decoding"]["undecodable"]}
    checks = {path: ClipCheck("broken" if path in broken else None) for path in paths}
    chosen = choose_clips(data, rows, checks, clips_per_class=3, seed=0)
    assert {name: len(clips) for name, clips in chosen.items()} == {
        "happiness": 3, "sadness": 0, "neutral": 0, "anger": 1, "surprise": 2, "disgust": 0, "fear": 1,
    }  # fmt: skip
    # Clip n is grey 40, 80, 120 or 160 by n modulo 4; each shows two frames of 410 × 410 pixels, less the gap.
    greys = Counter(
        40 * (int(record.id) % 4 + 1) for clips in chosen.values() for _, record in clips if record.id != "1"
    )
    for grey in (40, 80, 120, 160):
        num_pixels = (np.abs(sheet - grey).max(axis=2) <= 3).sum()
        assert num_pixels == pytest.approx(greys[grey] * 2 * 410 * 410, rel=0.06, abs=2000)


def test_clips_that_are_gone_since_they_were_checked_leave_their_place_empty(
    official_dfew: Path, settings: MediaSettings, tmp_path: Path
) -> None:
    data = DFEW(str(official_dfew), media=settings)
    rows = data.read_splits()
    checks = {row.media: ClipCheck(None, 0.4, num_frames=10) for records in rows.values() for row in records}
    for path in list(checks)[::2]:
        Path(path).unlink()
    sheet = draw_contact_sheet(tmp_path / "sheet.png", data, rows, checks, clips_per_class=2, seed=0)
    assert Image.open(sheet).width > 800


def test_frame_strip_keeps_frames_upright_and_in_order() -> None:
    frames = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    frames[0, 0, 1, 2] = 10  # red at row 1, column 2
    frames[1, 2, 3, 0] = 20  # blue at row 3, column 0
    strip = frame_strip(frames)
    assert strip.shape == (4, 10, 3)
    assert (strip[:, [4, 9]] == 255).all()
    strip[:, [4, 9]] = 0
    assert [(*map(int, place), int(strip[tuple(place)])) for place in np.argwhere(strip)] == [
        (1, 2, 0, 10),
        (3, 5, 2, 20),
    ]


def test_second_run_decodes_only_what_changed(
    report: dict[str, Any], output: Path, faulty: Path, settings: MediaSettings, tmp_path: Path
) -> None:
    shutil.copy(output / "checks.jsonl", tmp_path)
    changed = faulty / "Clip" / "original" / "7.mp4"
    before = (tmp_path / "checks.jsonl").read_text().splitlines()
    assert len(before) == 9
    arguments = {"output": str(tmp_path), "num_workers": 1, "clips_per_class": 0}
    again = inspect_data(DFEW(str(faulty), media=settings), **arguments)
    assert (tmp_path / "checks.jsonl").read_text().splitlines() == before
    assert again["decoding"] == {**report["decoding"], "num_checked_earlier": 9}
    assert not (tmp_path / "contact_sheet.png").exists()

    os.utime(changed, ns=(1, 1))
    once_more = inspect_data(DFEW(str(faulty), media=settings), **arguments)
    assert once_more["decoding"]["num_checked_earlier"] == 8
    (line,) = (tmp_path / "checks.jsonl").read_text().splitlines()[9:]
    assert (json.loads(line)["path"], json.loads(line)["mtime_ns"]) == (str(changed), 1)


def test_json_is_all_that_is_printed_and_equals_the_file(
    faulty: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    returned = inspect_data(DFEW(str(faulty)), output=str(tmp_path), json=True, decode=False)
    printed = json.loads(capsys.readouterr().out)
    assert printed == returned == json.loads((tmp_path / "report.json").read_text())
    assert printed["decoding"] is None
    assert not (tmp_path / "checks.jsonl").exists()


def test_screen_shows_counts_and_findings(
    faulty: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    inspect_data(DFEW(str(faulty)), output=str(tmp_path), decode=False)
    screen = capsys.readouterr().out
    (row,) = (line for line in screen.splitlines() if line.startswith("│ happiness"))
    assert [cell.strip() for cell in row.strip("│").split("│")] == ["happiness", "2", "1,956", "1", "489"]
    assert "✗ clips in both train and test: 1\n" in screen
    assert "✗ problems in the label files: 4\n" in screen
    assert "... and 1 more" in screen
    assert "train: 8 clips are listed, 9,361 are published" in screen
    assert "no problem found" not in screen


@pytest.mark.parametrize("decode", [True, False])
def test_unlabelled_clips_without_a_fault(
    decode: bool,
    tmp_path: Path,
    write_clip: Callable[[Path, int], Path],
    settings: MediaSettings,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_clip(tmp_path / "clips" / "a [red] one.mp4", 1)
    data = Clips(str(tmp_path / "clips"), media=settings)
    report = inspect_data(data, output=str(tmp_path / "out"), decode=decode, num_workers=1, strict=True)
    assert report["splits"] == {
        "predict": {
            "num_clips": 1,
            "left_out": {},
            "classes": {"(no label)": 1},
            "validation": {},
            "published": None,
        },
    }
    assert report["surplus"] is None
    assert [finding["kind"] for finding in report["findings"]] == (["without_audio"] if decode else [])
    screen = capsys.readouterr().out
    assert "✓ no problem found" in screen
    assert ("a [red] one" in screen) == decode
    assert (tmp_path / "out" / "contact_sheet.png").exists() == decode


def test_strict_fails_after_writing_the_report(faulty: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as exit_:
        inspect_data(DFEW(str(faulty)), output=str(tmp_path), decode=False, strict=True)
    assert exit_.value.code == 1
    assert (tmp_path / "report.json").exists()


def test_no_corpus_at_all_ends_with_every_place_looked_at(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="No DFEW train labels under .*EmoLabel_.*label/single_trainset_5.csv"):
        inspect_data(DFEW(str(tmp_path)), output=str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


class SmallDFEW(DFEW):
    """DFEW, had other counts of its training split been published."""

    def __init__(self, root: str, published: Published) -> None:
        super().__init__(root)
        self._published = published

    def published(self, split: str) -> Published | None:
        return self._published if split == "train" else None


FOUR_EACH = dict.fromkeys(DFEW.taxonomy.classes, 4)


@pytest.mark.parametrize(
    ("published", "examples"),
    [
        (Published(28, FOUR_EACH, exact=True), []),
        (Published(28, {**FOUR_EACH, "anger": 5, "fear": 3}, exact=True), ["anger -1, fear +1"]),
        (Published(28, {**FOUR_EACH, "anger": 5, "fear": 3}, exact=False), []),
        (Published(28, {}, exact=True), []),
        (Published(64, {**FOUR_EACH, "anger": 40}, exact=False), ["train: 28 clips are listed, 64 are published"]),
    ],
)
def test_counts_that_differ_from_the_published_are_findings(
    published: Published, examples: list[str], official_dfew: Path
) -> None:
    data = SmallDFEW(str(official_dfew), published)
    report = build_report(data, data.read_splits(), [], None, 0)
    found = [example for finding in report["findings"] for example in finding["examples"]]
    assert len(found) == len(examples)
    assert all(expected in example for expected, example in zip(examples, found, strict=True))


@pytest.mark.parametrize("argument", [{"num_workers": 0}, {"clips_per_class": -1}, {"timeout_seconds": 0.0}])
def test_arguments_out_of_range_are_refused(argument: dict[str, Any], official_dfew: Path) -> None:
    with pytest.raises(ValueError, match=next(iter(argument))):
        inspect_data(DFEW(str(official_dfew)), **argument)
