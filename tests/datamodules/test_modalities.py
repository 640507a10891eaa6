"""Sound alone, pictures alone and every container: real files of each, through the decoder, a corpus and its checks."""

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchcodec.encoders import AudioEncoder

from datamodules.batch import ClipBatch
from datamodules.clip_cache import ClipCache
from datamodules.clip_datamodule import ClipDataModule
from datamodules.clips import Clips
from datamodules.containers import (
    MEDIA_SUFFIXES,
    PICTURE_SUFFIXES,
    SOUND_SUFFIXES,
    VIDEO_SUFFIXES,
    MediaError,
    UnreadableError,
    holds_media,
)
from datamodules.dfew import DFEW
from datamodules.inspection.checks import check_clip
from datamodules.inspection.inspect_data import inspect_data
from datamodules.joint import Joint
from datamodules.manifest import Manifest
from datamodules.media import decode_audio, decode_clip
from datamodules.media_settings import MediaSettings
from datamodules.ravdess import RAVDESS
from datamodules.tensor_store import TensorStore
from datamodules.video import decode_video
from tests.media_files import NUM_FRAMES, encode
from tools.report.media import draw_pictures

pytestmark = pytest.mark.unit

TONE = 0.3 * torch.sin(torch.arange(16_000) * 0.2)[None]
CONTAINERS = {
    **{"mp4": ("mp4", "libx264"), "m4v": ("mp4", "mpeg4"), "mov": ("mov", "mpeg4"), "3gp": ("3gp", "mpeg4")},
    **{"3g2": ("3g2", "mpeg4"), "f4v": ("f4v", "libx264"), "flv": ("flv", "flv"), "avi": ("avi", "mpeg4")},
    **{"mkv": ("matroska", "mpeg4"), "webm": ("webm", "libvpx"), "wmv": ("asf", "wmv2"), "asf": ("asf", "mpeg4")},
    **{"mpg": ("mpeg", "mpeg1video"), "mpeg": ("mpeg", "mpeg1video"), "vob": ("vob", "mpeg2video")},
    **{"m2v": ("mpeg2video", "mpeg2video"), "ts": ("mpegts", "mpeg2video"), "mts": ("mpegts", "libx264")},
    **{"m2ts": ("mpegts", "libx264"), "ogv": ("ogg", "libvpx")},
}
"""Suffix → FFmpeg's container and encoder."""


def write_sound(path: Path) -> Path:
    """A second of a tone; FFmpeg takes the container from the suffix."""
    kind = {".wma": ".wav", ".oga": ".ogg", ".aif": ".aiff"}.get(path.suffix, path.suffix)
    AudioEncoder(TONE, sample_rate=16_000).to_file(str(path.with_suffix(kind)))
    return path.with_suffix(kind).rename(path)


def write_picture(path: Path, num_frames: int = 1, milliseconds: int = 100) -> Path:
    """Grey pictures of 64 × 48 pixels, brighter from one to the next."""
    first, *others = (Image.new("RGB", (64, 48), (40 * number,) * 3) for number in range(6 - num_frames, 6))
    moving = {"save_all": True, "append_images": others, "duration": milliseconds} if others else {}
    first.save(path, **({"lossless": True} if path.suffix == ".webp" else {}), **moving)
    return path


@pytest.mark.parametrize("suffix", VIDEO_SUFFIXES)
def test_films_of_every_container(tmp_path: Path, settings: MediaSettings, suffix: str) -> None:
    container, codec = CONTAINERS[suffix[1:]]
    clip = decode_clip(encode(tmp_path / f"a{suffix}", container, codec), settings)
    assert clip.has_video and not clip.has_audio
    early, late = clip.frames[:, :, 16].float().mean(dim=(1, 2))
    assert early < late, "each frame is brighter than the one before"


@pytest.mark.parametrize("suffix", SOUND_SUFFIXES)
def test_sound_alone(tmp_path: Path, settings: MediaSettings, suffix: str) -> None:
    path = write_sound(tmp_path / f"a{suffix}")
    clip = decode_clip(path, settings)
    assert not clip.has_video and clip.has_audio
    assert clip.frames.shape == (2, 3, 32, 32) and not clip.frames.any()
    assert clip.waveform.abs().max().item() == pytest.approx(0.3, abs=0.06)
    check = check_clip(str(path), settings)
    assert (check.failure, check.num_frames, check.video_codec) == (None, None, None)
    assert check.audio_codec is not None and check.duration_seconds == round(clip.duration_seconds, 4)


def test_the_length_of_sound_alone_is_not_cut_where_it_is_heard(tmp_path: Path) -> None:
    path = write_sound(tmp_path / "a.wav")
    clip = decode_clip(path, MediaSettings(max_audio_seconds=0.25))
    assert (len(clip.waveform), clip.duration_seconds) == (4_000, 1.0)


def test_a_segment_of_sound_alone(tmp_path: Path, settings: MediaSettings) -> None:
    path = write_sound(tmp_path / "a.wav")
    whole = decode_clip(path, settings).waveform
    clip = decode_clip(f"{path}#t=0.25,0.5", settings)
    assert clip.duration_seconds == 0.25 and torch.equal(clip.waveform, whole[4_000:8_000])
    assert torch.equal(decode_clip(f"{path}#t=0.25", settings).waveform, whole[4_000:])
    with pytest.raises(MediaError, match=r"the segment 0.5–9 s is not within the file, which lasts 1.00 s"):
        decode_clip(f"{path}#t=0.5,9", settings)


@pytest.mark.parametrize("suffix", PICTURE_SUFFIXES)
def test_a_picture_is_every_frame(tmp_path: Path, settings: MediaSettings, suffix: str) -> None:
    clip = decode_clip(write_picture(tmp_path / f"a{suffix}"), settings)
    assert clip.has_video and not clip.has_audio and not len(clip.waveform) and clip.duration_seconds > 0
    assert torch.equal(clip.frames[0], clip.frames[1])
    assert clip.frames[0, :, 16, 16].tolist() == pytest.approx([200] * 3, abs=2)


@pytest.mark.parametrize("suffix", [".gif", ".png", ".webp"])
def test_a_moving_picture_has_its_frames(tmp_path: Path, suffix: str) -> None:
    path = write_picture(tmp_path / f"a{suffix}", NUM_FRAMES)
    video = decode_video(path, NUM_FRAMES)
    assert [frame[24, 32, 0] for frame in video.frames] == [0, 40, 80, 120, 160, 200]
    assert video.duration_seconds == pytest.approx(0.6)
    assert decode_audio(path, 1.0) is None
    check = check_clip(str(path), MediaSettings())
    assert (check.num_frames, check.frames_per_second, check.video_codec) == (NUM_FRAMES, 10.0, suffix[1:])


def test_a_picture_is_turned_as_viewers_turn_it(tmp_path: Path) -> None:
    pixels = np.zeros((48, 64, 3), np.uint8)
    pixels[:24] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90° clockwise: what is above goes to the right
    Image.fromarray(pixels).save(tmp_path / "a.jpg", exif=exif)
    (frame,) = decode_video(tmp_path / "a.jpg", 1).frames
    assert frame.shape == (64, 48, 3) and frame[:, 30:].min() > 200 and frame[:, :18].max() < 50


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.gif", "a.webp"])
def test_a_picture_that_is_cut_short_is_an_error(tmp_path: Path, settings: MediaSettings, name: str) -> None:
    path = write_picture(tmp_path / name)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])
    with pytest.raises(MediaError, match=f"{path}: (broken picture|the file is cut short)") as caught:
        decode_clip(path, settings)
    assert not isinstance(caught.value, UnreadableError), "another attempt would not help"


def test_a_picture_has_no_segments_and_no_more_than_8k(tmp_path: Path, settings: MediaSettings) -> None:
    path = write_picture(tmp_path / "a.gif", 2)
    with pytest.raises(MediaError, match=r"a picture has no segment 0–1 s. Take its start and end out"):
        decode_clip(f"{path}#t=0,1", settings)
    content = path.read_bytes()
    path.write_bytes(content[:6] + struct.pack("<HH", 9_000, 9_000) + content[10:])
    with pytest.raises(MediaError, match=f"{path}: a picture of 9000 × 9000 pixels"):
        decode_clip(path, settings)


def test_a_picture_that_is_called_a_film_is_an_error(tmp_path: Path, settings: MediaSettings) -> None:
    path = write_picture(tmp_path / "a.jpg").rename(tmp_path / "a.MP4")
    with pytest.raises(MediaError, match=f"{path}: by its first bytes it is a picture, and by its name a film"):
        decode_clip(path, settings)
    assert "by its name a film" in str(check_clip(str(path), settings).failure)


def test_a_name_that_ffmpeg_takes_for_a_series_is_one_picture(tmp_path: Path, settings: MediaSettings) -> None:
    write_picture(tmp_path / "a1.png")
    Image.new("RGB", (64, 48), (90, 0, 0)).save(tmp_path / "a%d.png")
    assert decode_clip(tmp_path / "a%d.png", settings).frames[0, :, 16, 16].tolist() == [90, 0, 0]


def _tagged(content: bytes, tag: bytes = b"") -> bytes:
    """Behind an ID3 tag, which FFmpeg passes over before it looks what a file is."""
    return b"ID3\4\0\0" + bytes([0, 0, len(tag) >> 7, len(tag) & 127]) + tag + content


MP3_FRAME = b"\xff\xfb\x90\xc4"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        pytest.param(MP3_FRAME + bytes(400), True, id="MP3"),
        pytest.param(_tagged(MP3_FRAME + bytes(400), bytes(300)), True, id="MP3 with a tag"),
        pytest.param(_tagged(b"fLaC" + bytes(40)), True, id="FLAC with a tag"),
        pytest.param(b"\xff\xf1\x50\x80" + bytes(40), True, id="AAC"),
        pytest.param(b"FORM\0\0\0\x20AIFF" + bytes(40), True, id="AIFF"),
        pytest.param(_tagged(b"#EXTM3U\nprivate.mp4\n", bytes(30)), False, id="playlist behind a tag"),
        pytest.param(_tagged(b"ffconcat version 1.0\nfile a.mp4\n"), False, id="list behind a tag"),
        pytest.param(_tagged(MP3_FRAME + b"<MPD>"), False, id="manifest behind a tag and a frame"),
        pytest.param(_tagged(_tagged(b"#EXTM3U\n")), False, id="playlist behind two tags"),
        pytest.param(MP3_FRAME + b"\nc=IN IP4 127.0.0.1\n", False, id="SDP that begins as MP3"),
        pytest.param(b"FORM....AIFF\nc=IN IP4 127.0.0.1\n", False, id="SDP that begins as AIFF"),
        pytest.param("a text".encode("utf-16"), False, id="text with a mark that begins as a frame"),
        pytest.param(b"FORM....ILBM", False, id="FORM of another kind"),
    ],
)
def test_sound_is_told_from_lists(tmp_path: Path, content: bytes, expected: bool) -> None:
    path = tmp_path / "a.mp3"
    path.write_bytes(content)
    assert holds_media(path) is expected


@pytest.fixture
def mixed(tmp_path: Path, write_clip: Callable[[Path, int], Path]) -> Path:
    """A table of 16 clips in five containers and more: films, sound alone, pictures."""
    names = [f"film{number}.mp4" for number in range(4)]
    for number, name in enumerate(names):
        write_clip(tmp_path / name, number)
    for suffix in ("mkv", "wmv", "mpg", "flv"):
        names.append(encode(tmp_path / f"{suffix}.{suffix}", *CONTAINERS[suffix]).name)
    names += [write_sound(tmp_path / f"{suffix}.{suffix}").name for suffix in ("wav", "mp3", "flac", "ogg")]
    names += [write_picture(tmp_path / f"{suffix}.{suffix}").name for suffix in ("jpg", "png", "webp")]
    names.append(write_picture(tmp_path / "moving.gif", NUM_FRAMES).name)
    rows = [f"{name},{'anger' if position % 2 else 'happiness'},test" for position, name in enumerate(names)]
    table = tmp_path / "clips.csv"
    table.write_text("\n".join(["media,emotion,split", *rows]))
    return table


def _batch(data: ClipDataModule, stage: str = "test") -> ClipBatch:
    data.setup(stage)
    (batch,) = data.test_dataloader() if stage == "test" else data.predict_dataloader()
    return batch


def test_a_manifest_of_everything(
    mixed: Path, settings: MediaSettings, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    data = Manifest(str(mixed), taxonomy="dfew", media=settings, eval_batch_size=16)
    batch = _batch(ClipDataModule(data))
    assert batch.failures == [None] * 16
    assert batch.has_video.tolist() == [True] * 8 + [False] * 4 + [True] * 4
    assert batch.has_audio.tolist() == [False] * 8 + [True] * 4 + [False] * 4
    assert [bool(frames.any()) for frames in batch.frames] == batch.has_video.tolist()
    assert (batch.durations_seconds > 0).all()

    report = inspect_data(data, str(tmp_path / "out"), num_workers=1)
    assert report["decoding"]["undecodable"] == []
    assert report["decoding"]["without_video"] == ["wav", "mp3", "flac", "ogg"]
    assert len(report["decoding"]["without_audio"]) == 12
    assert "clips without pictures: 4" in capsys.readouterr().out
    assert (tmp_path / "out" / "contact_sheet.png").stat().st_size > 0


def test_what_may_be_missing_is_a_choice(mixed: Path, settings: MediaSettings, tmp_path: Path) -> None:
    data = Manifest(str(mixed), taxonomy="dfew", media=settings, eval_batch_size=16, allow_missing=["pictures"])
    failures = _batch(ClipDataModule(data)).failures
    assert sum(failure is None for failure in failures) == 4
    assert failures[0] is not None and failures[0].startswith("no audio stream. If clips of pictures alone")
    report = inspect_data(data, str(tmp_path / "out"), num_workers=1, clips_per_class=0)
    assert len(report["decoding"]["undecodable"]) == 12
    with pytest.raises(ValueError, match=r"allow_missing has smell. Expected sound, pictures, or both"):
        Manifest(str(mixed), allow_missing=["smell"])  # type: ignore[list-item]


def test_a_corpus_of_films_has_no_sound_alone(official_dfew: Path, settings: MediaSettings, tmp_path: Path) -> None:
    """Nor are sounds and pictures beside its films clips of it."""
    film = official_dfew / "Clip" / "original" / "part_1" / "29.mp4"
    write_sound(film.with_suffix(".wav"))
    write_picture(film.with_suffix(".jpg"))
    encode(film, "mp4", "mjpeg", "aac", cover=True)
    strict = DFEW(str(official_dfew), media=settings, eval_batch_size=7)
    batch = _batch(ClipDataModule(strict))
    failed = batch.ids.index("00029")
    assert batch.failures[failed] is not None and batch.failures[failed].startswith("no video stream")
    assert batch.failures.count(None) == 6 and not batch.has_video[failed]
    (undecodable,) = inspect_data(strict, str(tmp_path / "out"), num_workers=1)["decoding"]["undecodable"]
    assert undecodable["id"] == "00029" and undecodable["reason"].startswith("no video stream")

    film.with_suffix(".wav").unlink()
    lenient = DFEW(str(official_dfew), media=settings, eval_batch_size=7, allow_missing=["sound", "pictures"])
    assert _batch(ClipDataModule(lenient)).failures == [None] * 7


def test_each_corpus_of_several_has_its_own_rule(official_dfew: Path, settings: MediaSettings, tmp_path: Path) -> None:
    film = official_dfew / "Clip" / "original" / "part_1" / "29.mp4"
    encode(film, "mp4", "mjpeg", "aac", cover=True)
    actor = tmp_path / "RAVDESS"
    actor.mkdir()
    write_sound(actor / "03-01-05-01-01-01-01.wav")
    joint = Joint([DFEW(str(official_dfew)), RAVDESS(str(actor))], media=settings, eval_batch_size=8)
    batch = _batch(ClipDataModule(joint))
    failed = dict(zip(batch.ids, batch.failures, strict=True))
    assert failed["RAVDESS/03-01-05-01-01-01-01"] is None
    assert [name for name, failure in failed.items() if failure] == ["DFEW/00029"]


def test_ravdess_as_most_have_it_is_sound_alone(
    tmp_path: Path, settings: MediaSettings, write_clip: Callable[[Path, int], Path]
) -> None:
    root = tmp_path / "RAVDESS"
    for actor in ("01", "02"):
        (root / f"Actor_{actor}").mkdir(parents=True)
        write_sound(root / f"Actor_{actor}" / f"03-01-05-01-01-01-{actor}.wav")
    write_clip(root / "Video_Speech_Actor_02" / "01-01-05-01-01-01-02.mp4", 0)
    batch = _batch(ClipDataModule(RAVDESS(str(root), media=settings)))
    assert batch.ids == ["01-01-05-01-01-01-02", "03-01-05-01-01-01-01"], "the second's sound is in its film"
    assert batch.failures == [None, None] and batch.has_video.tolist() == [True, False]
    films = RAVDESS(str(root), media=settings, allow_missing=["sound"])
    assert [record.id for record in films.records("test")] == ["01-01-05-01-01-01-02"]


def test_a_folder_of_everything(mixed: Path, settings: MediaSettings) -> None:
    data = ClipDataModule(Clips(str(mixed.parent), media=settings, eval_batch_size=16))
    batch = _batch(data, "predict")
    assert len(batch) == 16 and batch.failures == [None] * 16
    assert {"film0", "wav", "png", "moving", "mkv"} <= set(batch.ids)
    films = Clips(str(mixed.parent), allow_missing=[])
    assert {Path(str(record.media)).suffix for record in films.records("predict")} <= set(VIDEO_SUFFIXES)


def test_the_cache_knows_what_is_missing(
    tmp_path: Path, settings: MediaSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = ClipCache(str(tmp_path / "cache"), 1.0)
    path = write_sound(tmp_path / "a.wav")
    cache.store(path, settings, decode_clip(path, settings))
    loaded = cache.load(path, settings)
    assert loaded is not None and not loaded.has_video and loaded.has_audio

    put = TensorStore._put
    monkeypatch.setattr(  # as an earlier version wrote it
        TensorStore,
        "_put",
        lambda store, entry, tensors, metadata: put(
            store, entry, tensors, {name: value for name, value in metadata.items() if name != "has_video"}
        ),
    )
    film = encode(tmp_path / "a.mp4", "mp4", "mpeg4")
    cache.store(film, settings, decode_clip(film, settings))
    earlier = cache.load(film, settings)
    assert earlier is not None and earlier.has_video


def test_a_report_shows_sound_alone_and_pictures_alone(tmp_path: Path) -> None:
    heard = draw_pictures(str(write_sound(tmp_path / "a.wav")), 4)
    assert heard.strip is not None and heard.spectrogram is not None and heard.problems == ()
    seen = draw_pictures(str(write_picture(tmp_path / "a.png")), 4)
    assert seen.strip is not None and seen.spectrogram is None
    assert seen.problems == ("the file has no audio track",)


def test_suffixes_are_told_apart() -> None:
    assert len(set(MEDIA_SUFFIXES)) == len(MEDIA_SUFFIXES)
    assert all(suffix == suffix.lower() for suffix in MEDIA_SUFFIXES)
