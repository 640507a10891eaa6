"""Files that are sound but unlike others, and files that no decoder knows: the right clip, or a named error."""

import struct
from collections.abc import Callable
from pathlib import Path

import av
import pytest
import torch

from datamodules import demuxing, media
from datamodules.clip_dataset import ClipDataset
from datamodules.clip_source import ClipRecord
from datamodules.containers import MediaError, UnreadableError, one_clip
from datamodules.inspection.checks import check_clip
from datamodules.media import decode_audio, decode_clip
from datamodules.media_settings import MediaSettings
from datamodules.video import decode_video
from tests.media_files import NUM_FRAMES, encode
from tools.report.media import draw_pictures

pytestmark = pytest.mark.unit

CONTAINERS = {"mp4": "mp4", "mov": "mov", "mkv": "matroska", "avi": "avi", "flv": "flv", "wmv": "asf"}
TITLE = "abcdefgh"


def _replace(path: Path, old: bytes, new: bytes) -> Path:
    content = path.read_bytes()
    assert old in content and len(old) == len(new)
    path.write_bytes(content.replace(old, new))
    return path


@pytest.mark.parametrize("container", ["mp4", "mov", "mkv", "avi", "flv"])
@pytest.mark.parametrize("encoding", ["gbk", "latin-1"])
def test_texts_of_any_encoding_do_not_matter(tmp_path: Path, container: str, encoding: str) -> None:
    path = encode(
        tmp_path / f"a.{container}", CONTAINERS[container], "mpeg4" if container != "flv" else "flv", title=TITLE
    )
    expected = decode_clip(path, MediaSettings())
    title = ("情感测试" if encoding == "gbk" else "été déjà").encode(encoding)
    _replace(path, TITLE.encode(), title)
    assert torch.equal(decode_clip(path, MediaSettings()).frames, expected.frames)
    assert check_clip(str(path), MediaSettings()).failure is None
    assert draw_pictures(str(path), 2).strip is not None


def test_a_handler_of_any_encoding_does_not_matter(tmp_path: Path) -> None:
    path = _replace(encode(tmp_path / "a.mp4", "mp4", "mpeg4"), b"VideoHandler", "Vidéo été ou".encode("latin-1"))
    assert check_clip(str(path), MediaSettings()).num_frames == NUM_FRAMES


def _one_after_another(path: Path, *parts: Path) -> Path:
    """Packets of several films in one stream, as a recorder writes them when the picture changes its size."""
    with av.open(str(path), "w") as output:
        stream, number = None, 0
        for part in parts:
            with av.open(str(part)) as film:
                stream = stream or output.add_stream_from_template(film.streams.video[0])
                for packet in film.demux(video=0):
                    if packet.size:
                        packet.pts = packet.dts = number * packet.duration
                        packet.stream, number = stream, number + 1
                        output.mux(packet)
    return path


@pytest.mark.parametrize("container", ["mkv", "avi", "h264"])  # found by their times; no times; no container
def test_each_frame_is_fitted_by_itself_where_the_picture_changes_its_size(tmp_path: Path, container: str) -> None:
    codec, kind = ("libx264", "h264") if container == "h264" else ("mjpeg", "avi")
    wide = encode(tmp_path / f"wide.{kind}", kind, codec, width=64, height=32)
    tall = encode(tmp_path / f"tall.{kind}", kind, codec, width=32, height=64)
    path = tmp_path / f"both.{container}"
    if container == "h264":
        path.write_bytes(wide.read_bytes() + tall.read_bytes())
    else:
        _one_after_another(path, wide, tall)
    frames = decode_clip(path, MediaSettings(num_frames=4, image_size=64)).frames
    expected = [decode_clip(part, MediaSettings(num_frames=6, image_size=64)).frames for part in (wide, tall)]
    indices = [1, 4, 7, 10]  # of the twelve frames
    assert torch.equal(frames, torch.cat(expected)[indices])
    assert (frames[:2, :, :16] == media.PAD_GREY).all() and (frames[2:, :, :, :16] == media.PAD_GREY).all()
    assert check_clip(str(path), MediaSettings()).failure is None
    assert draw_pictures(str(path), 4).strip is not None


@pytest.mark.parametrize(
    ("container", "codec", "tag"),
    [("mp4", "libx264", b"avc1"), ("mov", "mjpeg", b"jpeg"), ("avi", "mpeg4", b"FMP4"), ("mkv", "libvpx", b"V_VP8")],
)
def test_a_video_codec_that_ffmpeg_does_not_know_is_named(
    tmp_path: Path, container: str, codec: str, tag: bytes
) -> None:
    path = encode(tmp_path / f"a.{container}", CONTAINERS[container], codec, "ac3")
    _replace(path, tag, b"V_XY9" if container == "mkv" else b"xyz9")
    named = "none" if container == "mkv" else "none .xyz9 / 0x397A7978."  # in Matroska a codec has a name and no tag
    with pytest.raises(MediaError, match=rf"{path}: FFmpeg has no decoder for the video \({named}"):
        decode_clip(path, MediaSettings())
    assert "no decoder for the video" in str(check_clip(str(path), MediaSettings()).failure)


@pytest.mark.parametrize(
    ("container", "audio", "tag", "unknown"),
    [
        ("mp4", "ac3", b"ac-3", b"ac-9"),
        ("mov", "pcm_s16be", b"twos", b"twoz"),
        ("mkv", "ac3", b"A_AC3", b"A_AC9"),
        ("avi", "ac3", struct.pack("<HHI", 0x2000, 1, 44_100), struct.pack("<HHI", 0x2999, 1, 44_100)),
    ],
)
def test_sound_that_nothing_decodes_is_an_error_and_no_silence(
    tmp_path: Path, container: str, audio: str, tag: bytes, unknown: bytes
) -> None:
    path = encode(tmp_path / f"a.{container}", CONTAINERS[container], "mpeg4", audio)
    assert decode_clip(path, MediaSettings()).waveform.any()
    _replace(path, tag, unknown)
    for decode in (lambda: decode_clip(path, MediaSettings()), lambda: decode_audio(path, 30.0)):
        with pytest.raises(MediaError, match=rf"{path}: FFmpeg has no decoder for the audio \(none"):
            decode()
    assert "no decoder for the audio" in str(check_clip(str(path), MediaSettings()).failure)
    drawn = draw_pictures(str(path), 2)
    assert drawn.strip is not None and "no decoder for the audio" in drawn.problems[0]


def test_sound_with_a_cover_picture_is_no_video(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mp4", "mp4", "mjpeg", "aac", cover=True)
    with pytest.raises(MediaError, match=f"{path}: no video stream, only a cover picture"):
        decode_video(path, 2)
    clip = decode_clip(path, MediaSettings())
    assert not clip.has_video and clip.waveform.any()
    assert check_clip(str(path), MediaSettings()).num_frames is None


def test_a_film_is_found_beside_a_cover_picture(tmp_path: Path) -> None:
    parts = [
        encode(tmp_path / f"{codec}.mp4", "mp4", codec, width=size, height=48)
        for codec, size in (("mjpeg", 96), ("mpeg4", 64))
    ]
    path = tmp_path / "both.mp4"
    with av.open(str(parts[0])) as cover, av.open(str(parts[1])) as film, av.open(str(path), "w") as output:
        streams = [output.add_stream_from_template(part.streams.video[0]) for part in (cover, film)]
        streams[0].disposition = av.stream.Disposition.attached_pic
        for part, stream in zip((cover, film), streams, strict=True):
            for packet in part.demux(video=0):
                if packet.size:
                    packet.stream = stream
                    output.mux(packet)
    assert check_clip(str(path), MediaSettings()).width == 64
    expected = decode_clip(parts[1], MediaSettings()).frames
    assert torch.equal(decode_clip(path, MediaSettings()).frames, expected)


def test_a_very_wide_picture_is_drawn(tmp_path: Path) -> None:
    drawn = draw_pictures(str(encode(tmp_path / "a.mp4", "mp4", "mpeg4", width=2048, height=32)), 12)
    assert drawn.strip is not None


def test_a_file_whose_box_is_larger_than_files_can_be_is_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(struct.pack(">I4sQ4s", 1, b"ftyp", 2**64 - 1, b"isom"))
    assert check_clip(str(path), MediaSettings()).failure == (
        "the file is cut short (20 bytes of 18446744073709551615); copy or download it again"
    )


def test_pictures_larger_than_8k_are_refused_before_they_are_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = encode(tmp_path / "a.mp4", "mp4", "libx264", width=8208, height=32)
    monkeypatch.delattr(demuxing, "Packet")
    with pytest.raises(MediaError, match=f"{path}: a picture of 8208 × 32 pixels; expected at most 8192 on a side"):
        decode_clip(path, MediaSettings())


def test_pictures_that_grow_beyond_8k_are_refused_too(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.avi", "avi", "mjpeg")  # the size in each JPEG counts, not the container's
    size = struct.pack(">BHH", 8, 48, 64)
    _replace(path, b"\xff\xc0\x00\x11" + size, b"\xff\xc0\x00\x11" + struct.pack(">BHH", 8, 16_000, 16_000))
    with pytest.raises(MediaError, match=f"{path}: "):
        decode_video(path, 2)


@pytest.mark.parametrize(
    ("width", "height", "is_allowed"),
    [(7680, 4320, True), (4320, 7680, True), (8192, 4320, True), (8193, 16, False), (8192, 8192, False)],
)
def test_8k_films_pass_and_larger_pictures_do_not(width: int, height: int, is_allowed: bool) -> None:
    if is_allowed:
        demuxing.check_size("a.mp4", width, height)
    else:
        with pytest.raises(MediaError, match=f"a.mp4: a picture of {width} × {height} pixels"):
            demuxing.check_size("a.mp4", width, height)


ANYTHING = [
    MemoryError("9 GiB"),
    RecursionError("too deep"),
    OverflowError("cannot fit 'int'"),
    AssertionError("never"),
    struct.error("unpack requires 4 bytes"),
    UnicodeDecodeError("utf-8", b"\xe9", 0, 1, "invalid"),
    AttributeError("'NoneType' object\nhas no attribute"),
    EOFError(),
    PermissionError(13, "denied"),
]


@pytest.mark.parametrize("error", ANYTHING, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("timeout_seconds", [None, 60.0])
def test_whatever_a_decoder_raises_is_one_bad_clip(
    write_clip: Callable[[Path, int], Path],
    tmp_path: Path,
    settings: MediaSettings,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    timeout_seconds: float | None,
) -> None:
    paths = [write_clip(tmp_path / name, 0) for name in ("bad.mp4", "good.mp4")]
    find = demuxing.open_film

    def fail(container: av.container.InputContainer, path: Path) -> av.VideoStream:
        if Path(path).name == "bad.mp4":
            raise error
        return find(container, path)

    monkeypatch.setattr(demuxing, "open_film", fail)
    monkeypatch.setattr("datamodules.clip_dataset.RETRY_PAUSE_SECONDS", 0.0)
    records = [ClipRecord(path.stem, str(path), "anger", None, "train.csv:1") for path in paths]
    data = ClipDataset(records, settings, "Which?", "skip", cache_in_memory=False, timeout_seconds=timeout_seconds)
    named = f"cannot be decoded ({type(error).__name__}"
    bad, good = data[0], data[1]
    assert bad.failure is not None and bad.failure.startswith(named) and "\n" not in bad.failure
    assert good.failure is None and good.frames.any()
    assert str(check_clip(str(paths[0]), settings).failure).startswith(named)
    assert draw_pictures(str(paths[0]), 2).problems[0].startswith(named)


def test_what_may_pass_is_told_from_what_is_broken() -> None:
    @one_clip
    def decode(path: str, error: BaseException) -> None:
        raise error

    for error in (OSError(5, "Input/output error"), MemoryError()):
        with pytest.raises(UnreadableError, match="a.mp4: cannot be decoded"):
            decode("a.mp4", error)
    with pytest.raises(MediaError) as caught:
        decode("a.mp4", ValueError("x"))
    assert not isinstance(caught.value, UnreadableError)


@pytest.mark.parametrize("error", [ImportError("no FFmpeg"), KeyboardInterrupt(), SystemExit(3)])
def test_what_no_file_can_cause_ends_the_run(error: BaseException) -> None:
    @one_clip
    def decode(path: str) -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        decode("a.mp4")
    assert caught.value is error
