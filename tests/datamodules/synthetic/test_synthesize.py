"""`synthesize`: real files that decode again, determinism whatever the workers, refusals."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from torchcodec.decoders import AudioDecoder, VideoDecoder

from datamodules.emotions import DFEW_TAXONOMY, GO_EMOTIONS
from datamodules.synthetic.face import draw_face
from datamodules.synthetic.layouts import media_path
from datamodules.synthetic.performance import draw_performance
from datamodules.synthetic.synthesize import encode_clip, synthesize, write_rationale_sentences
from datamodules.synthetic.voice import speak

pytestmark = pytest.mark.e2e


def _digests(root: Path) -> dict[str, str]:
    """Digest of every file but the workbooks, which carry the time of writing."""
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.suffix != ".xlsx"
    }


def test_clip_decodes_to_what_was_drawn(tmp_path: Path):
    performance = draw_performance(np.random.default_rng(0), DFEW_TAXONOMY, "happiness")
    frames, waveform = draw_face(performance, 30), speak(performance, 19_200)
    path = tmp_path / "clip.mp4"
    encode_clip(path, frames, waveform, frame_rate=25.0, sample_rate=16_000)
    assert [file.name for file in tmp_path.iterdir()] == ["clip.mp4"]
    video, audio = VideoDecoder(path), AudioDecoder(path)
    assert (video.metadata.codec, audio.metadata.codec) == ("h264", "aac")
    assert video.metadata.average_fps == 25.0 and audio.metadata.sample_rate == 16_000
    decoded = video.get_frames_at(list(range(30))).data
    assert len(video) == 30 and decoded.shape == (30, 3, 96, 96)
    # Lossy, and the noise is what the codec drops first: grey levels within the noise of 6 and a little more.
    assert np.abs(decoded.numpy().astype(int) - frames).mean() < 8
    samples = audio.get_all_samples().data[0].numpy()
    # AAC pads to whole packets of 1024 samples.
    assert 0 <= len(samples) - 19_200 < 2048
    assert np.corrcoef(samples[:19_200], waveform)[0, 1] > 0.8


@pytest.mark.parametrize("layout", ["dfew", "emer"])
def test_a_clip_depends_on_seed_and_position_alone(tmp_path: Path, layout: str):
    small = {"image_size": 48, "duration_seconds": 0.2, "sample_rate": 8000}
    for name, num_clips, seed, workers in (
        ("one", 12, 5, 1),
        ("two", 12, 5, 2),
        ("long", 14, 5, 1),
        ("other", 12, 6, 1),
    ):
        synthesize(layout, str(tmp_path / name), num_clips, seed=seed, num_workers=workers, **small)
    one = _digests(tmp_path / "one")
    assert one == _digests(tmp_path / "two")
    clips = [media_path(layout, i) for i in range(12)]
    long, other = _digests(tmp_path / "long"), _digests(tmp_path / "other")
    assert all(one[clip] == long[clip] and one[clip] != other[clip] for clip in clips)
    assert len({one[clip] for clip in clips}) == 12


def test_layouts_of_one_seed_share_no_clip(make_corpus):
    emer, dfew = (
        json.loads((make_corpus(layout) / "synthetic.json").read_text())["clips"] for layout in ("emer", "dfew")
    )
    emer, dfew = ({(clip["face_intensity"], clip["voice_intensity"]) for clip in clips} for clips in (emer, dfew))
    assert len(emer) == len(dfew) == 66 and not emer & dfew


def test_emer_takes_the_taxonomy_that_is_asked_for(tmp_path: Path):
    synthesize("emer", str(tmp_path), 11, taxonomy="mafw", image_size=32, duration_seconds=0.1, num_workers=1)
    text = (tmp_path / "EMER_cold_start.json").read_text()
    assert all(f"<answer>{word}</answer>" in text for word in ("contemptuous", "anxious", "helpless", "disappointed"))


def test_sentences_are_written_in_three_disjoint_files(tmp_path: Path):
    synthesize("sentences", str(tmp_path / "a"), 1000, seed=1)
    synthesize("sentences", str(tmp_path / "b"), 1000, seed=1)
    assert _digests(tmp_path / "a") == _digests(tmp_path / "b")
    texts = {}
    for split, count in (("train", 800), ("val", 100), ("test", 100)):
        rows = [json.loads(line) for line in (tmp_path / "a" / f"{split}.jsonl").read_text().splitlines()]
        assert len(rows) == count and all(set(row) == {"text", "emotions"} for row in rows)
        assert all(row["emotions"] and set(row["emotions"]) <= set(GO_EMOTIONS) for row in rows)
        texts[split] = {row["text"] for row in rows}
    assert not texts["train"] & texts["test"] and not texts["train"] & texts["val"] and not texts["val"] & texts["test"]


def test_sentence_file_must_name_a_split(tmp_path: Path):
    with pytest.raises(ValueError, match="one of train, val, test; got 'sentences'"):
        write_rationale_sentences(tmp_path / "sentences.jsonl", 10, 0, DFEW_TAXONOMY)


def test_non_empty_directory_is_refused_unless_overwritten(tmp_path: Path):
    (tmp_path / "mine.txt").write_text("keep me")
    with pytest.raises(ValueError, match="is not empty"):
        synthesize("sentences", str(tmp_path), 20)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    synthesize("sentences", str(tmp_path), 20, overwrite=True)
    assert (tmp_path / "mine.txt").read_text() == "keep me" and (tmp_path / "train.jsonl").is_file()
    with pytest.raises(ValueError, match="is a file"):
        synthesize("sentences", str(tmp_path / "mine.txt"), 20)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_clips": 9}, "at least 10"),
        ({"image_size": 95}, "even"),
        ({"image_size": 16}, "at least 32"),
        ({"duration_seconds": 0.01}, "less than two frames"),
        ({"sample_rate": 12_345}, "AAC takes one of 8000"),
        ({"face_only_rate": 1.5}, "from 0 to 1"),
        ({"face_disagreement": 0.95}, "at most 1"),
    ],
)
def test_arguments_out_of_range_leave_nothing_behind(tmp_path: Path, arguments: dict, message: str):
    with pytest.raises(ValueError, match=message):
        synthesize(**{"layout": "dfew", "output": str(tmp_path / "new"), "num_clips": 10, **arguments})
    assert not (tmp_path / "new").exists()


def test_a_share_of_the_training_sentences_has_another_classs_label(tmp_path: Path):
    taught = {}
    for share in (0.0, 0.3):
        synthesize("sentences", str(tmp_path / str(share)), 500, seed=1, wrong_labels=share)
        for split in ("train", "val", "test"):
            lines = (tmp_path / str(share) / f"{split}.jsonl").read_text().splitlines()
            taught[share, split] = [json.loads(line) for line in lines]
    right, wrong = taught[0.0, "train"], taught[0.3, "train"]
    assert [one["text"] for one in right] == [one["text"] for one in wrong]
    changed = [(a["emotions"], b["emotions"]) for a, b in zip(right, wrong, strict=True) if a != b]
    assert len(changed) == 120, "three tenths of 400"
    assert all(not set(before) & set(after) for before, after in changed)
    assert len({tuple(after) for _, after in changed}) == 7, "any class may be the wrong one"
    for split in ("val", "test"):
        assert taught[0.0, split] == taught[0.3, split]
