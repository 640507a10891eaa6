"""Real files of many kinds, made with FFmpeg: the right tensor or a named error, never other frames than asked for.

The grey of a frame tells its number, so that a decoded frame can be told from its neighbours after lossy coding; a red
block in the first corner tells how it is turned.
"""

import math
import random
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from datamodules.media import MediaError, decode_audio, decode_clip, decode_frames
from datamodules.media_settings import MediaSettings
from datamodules.video import DecodedVideo, decode_video, frame_indices, video_info

pytestmark = [
    pytest.mark.numerics,
    pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="makes its clips with the ffmpeg command"),
]

NUM_FRAMES = 40
FRAMES_PER_SECOND = 25
SECONDS = NUM_FRAMES / FRAMES_PER_SECOND
H264 = "-c:v libx264 -pix_fmt yuv420p"
CODECS = {
    "h264": H264,
    "hevc": "-c:v libx265 -pix_fmt yuv420p -x265-params log-level=none:pools=1",
    "vp9": "-c:v libvpx-vp9 -pix_fmt yuv420p -deadline realtime -cpu-used 8",
    "mjpeg": "-c:v mjpeg -pix_fmt yuvj420p -q:v 3",
    "mpeg4": "-c:v mpeg4 -pix_fmt yuv420p -bf 2 -q:v 3",
}
AUDIO = {"webm": "-c:a libopus", "avi": "-c:a libmp3lame"}
TONE_HERTZ = 440
MILLISECOND = 1e-3  # the unit of times in Matroska and FLV

Make = Callable[..., Path]


def _ffmpeg(arguments: str, source: bytes = b"") -> None:
    done = subprocess.run(["ffmpeg", "-v", "error", "-y", *arguments.split()], input=source, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


def _numbered_frames(num_frames: int, height: int, width: int) -> bytes:
    frames = np.empty((num_frames, height, width, 3), np.uint8)
    frames[:] = (20 + 5 * np.arange(num_frames))[:, None, None, None]
    frames[:, : height // 4, : width // 4] = (250, 0, 0)
    return frames.tobytes()


def _numbers(frames: Tensor) -> list[int]:
    """Numbers of decoded frames, read in their middle."""
    height, width = frames.shape[-2:]
    middle = frames[:, 1, height * 3 // 8 : height * 5 // 8, width * 3 // 8 : width * 5 // 8]
    return ((middle.float().mean(dim=(1, 2)) - 20) / 5).round().int().tolist()


def _tensor(decoded: DecodedVideo) -> Tensor:
    return torch.from_numpy(np.stack(decoded.frames)).permute(0, 3, 1, 2)


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Encode numbered frames and a tone; the same arguments give the same file."""
    directory = tmp_path_factory.mktemp("formats")

    def make(
        container: str,
        video: str = H264,
        *,
        num_frames: int = NUM_FRAMES,
        height: int = 48,
        width: int = 64,
        audio_seconds: float | None = SECONDS,
        audio_delay_seconds: float = 0.0,
        output: str = "",
    ) -> Path:
        name = f"{video}{num_frames}{height}{width}{audio_seconds}{audio_delay_seconds}{output}"
        path = directory / f"{''.join(filter(str.isalnum, name))}.{container}"
        if not path.exists():
            picture = f"-f rawvideo -pix_fmt rgb24 -s {width}x{height} -r {FRAMES_PER_SECOND} -i - "
            sound = f"-itsoffset {audio_delay_seconds} -f lavfi -i sine=f={TONE_HERTZ}:r=44100:d={audio_seconds} "
            sound_codec = AUDIO.get(container, "-c:a aac")
            if audio_seconds is None:
                sound, sound_codec = "", ""
            _ffmpeg(
                f"{picture}{sound}{video} {sound_codec} {output} {path}", _numbered_frames(num_frames, height, width)
            )
        return path

    return make


@pytest.mark.parametrize(
    ("codec", "container"),
    [("h264", name) for name in ("mp4", "avi", "mov", "mkv", "ts", "flv")]
    + [("hevc", name) for name in ("mp4", "mov", "mkv")]
    + [("vp9", name) for name in ("mp4", "mkv", "webm")]
    + [("mjpeg", name) for name in ("avi", "mov", "mkv", "mp4")]
    + [("mpeg4", name) for name in ("avi", "mp4")],
)
def test_uniform_frames_and_sound_of_every_codec_and_container(make: Make, codec: str, container: str) -> None:
    path = make(container, CODECS[codec])
    frames = decode_frames(path, 8)
    assert frames.shape == (8, 3, 48, 64)
    assert _numbers(frames) == frame_indices(NUM_FRAMES, 8)
    clip = decode_clip(path, MediaSettings(image_size=64))
    assert _numbers(clip.frames) == frame_indices(NUM_FRAMES, 8)
    # FFmpeg makes room in an AVI for what the sound's encoder puts in front, by showing the first picture once more.
    tolerance = 1 / FRAMES_PER_SECOND + MILLISECOND if container == "avi" else MILLISECOND
    assert clip.duration_seconds == pytest.approx(SECONDS, abs=tolerance)
    assert clip.has_audio and len(clip.waveform) / 16_000 == pytest.approx(
        SECONDS, abs=0.06
    )  # two coded frames of sound


@pytest.mark.parametrize("container", ["mp4", "mkv", "mov"])
def test_variable_frame_rate_counts_frames_and_not_time(make: Make, tmp_path: Path, container: str) -> None:
    gaps = "-vf setpts=(N+10*floor(N/10))/(25*TB)"  # after every tenth frame 0.4 s without one
    path = tmp_path / f"variable.{container}"
    _ffmpeg(f"-i {make('mkv', output=gaps, audio_seconds=2.8)} -c copy {path}")
    decoded = decode_video(path, 8)
    assert _numbers(_tensor(decoded)) == frame_indices(NUM_FRAMES, 8)
    assert decoded.duration_seconds == pytest.approx(SECONDS + 3 * 0.4, abs=MILLISECOND)


@pytest.mark.parametrize("codec", ["h264", "mjpeg", "mpeg4"])  # mjpeg is the one without B-frames
def test_duration_of_an_avi_counts_the_frames_that_are_shown_for_longer(make: Make, codec: str) -> None:
    gaps = "-vf setpts=(N+10*floor(N/10))/(25*TB) -fps_mode passthrough"
    path = make("avi", CODECS[codec], output=gaps, audio_seconds=None)
    decoded = decode_video(path, 8)
    assert _numbers(_tensor(decoded)) == frame_indices(NUM_FRAMES, 8)
    assert decoded.duration_seconds == video_info(path).duration_seconds == pytest.approx(SECONDS + 3 * 0.4)


@pytest.mark.parametrize("container", ["mp4", "mkv", "ts"])
def test_duration_counts_from_the_first_frame_wherever_the_clock_begins(
    make: Make, tmp_path: Path, container: str
) -> None:
    path = tmp_path / f"late.{container}"
    _ffmpeg(f"-i {make('mp4')} -c copy -output_ts_offset 3 {path}")
    decoded = decode_video(path, 8)
    assert decoded.begin_seconds > 2.9
    assert decoded.duration_seconds == pytest.approx(SECONDS, abs=MILLISECOND)


def test_duration_where_neither_packets_nor_frames_have_one(make: Make) -> None:
    wmv = make("wmv", "-c:v wmv2", audio_seconds=None)
    assert decode_video(wmv, 8).duration_seconds == pytest.approx(SECONDS, abs=MILLISECOND)
    without_times = make("h264", audio_seconds=None)
    assert decode_video(without_times, 8).duration_seconds == pytest.approx(SECONDS)


@pytest.mark.parametrize("options", ["-g 10 -bf 0", "-g 10", "-g 10 -x264-params open-gop=1"])
@pytest.mark.parametrize("container", ["mp4", "mkv", "avi", "ts"])
def test_uniform_frames_across_groups_of_pictures(make: Make, container: str, options: str) -> None:
    path = make(container, f"{H264} {options}")
    assert _numbers(decode_frames(path, 8)) == frame_indices(NUM_FRAMES, 8)


@pytest.mark.parametrize(
    ("container", "gop", "first", "num_available"),
    [
        ("mp4", "closed", 13, 27),  # the edit list hides what lies between the key frame and the cut
        ("mp4", "open", 13, 27),
        ("mkv", "closed", 10, 30),
        ("mkv", "open", 10, 30),  # and one frame that nobody can decode, because it refers to what was cut off
    ],
)
def test_cut_without_encoding_starts_where_players_start(
    make: Make, tmp_path: Path, container: str, gop: str, first: int, num_available: int
) -> None:
    source = make("mp4", f"{H264} -g 10" + (" -x264-params open-gop=1" if gop == "open" else ""))
    path = tmp_path / f"cut.{container}"
    _ffmpeg(f"-ss 0.5 -i {source} -c copy {path}")
    expected = [first + index for index in frame_indices(num_available, 8)]
    decoded = decode_video(path, 8)
    assert _numbers(_tensor(decoded)) == expected
    assert decoded.duration_seconds == pytest.approx(num_available / FRAMES_PER_SECOND, abs=MILLISECOND)


@pytest.mark.parametrize(("height", "width"), [(37, 53), (53, 37)])
@pytest.mark.parametrize(
    ("container", "video"),
    [("mp4", "-c:v libx264 -pix_fmt yuv444p"), ("webm", CODECS["vp9"]), ("avi", CODECS["mjpeg"])],
)
def test_odd_sizes(make: Make, container: str, video: str, height: int, width: int) -> None:
    frames = decode_frames(make(container, video, height=height, width=width), 8)
    assert frames.shape == (8, 3, height, width)
    assert _numbers(frames) == frame_indices(NUM_FRAMES, 8)


def test_portrait_gets_its_bars_on_the_sides(make: Make) -> None:
    clip = decode_clip(make("mp4", height=64, width=48), MediaSettings(image_size=64))
    assert (clip.frames[..., :8] == 127).all() and (clip.frames[..., 56:] == 127).all()
    assert _numbers(clip.frames) == frame_indices(NUM_FRAMES, 8)


ROTATIONS = {  # degrees clockwise: a, b, c, d of the display matrix; where the first corner goes
    90: ((0, 1, -1, 0), "top right"),
    180: ((-1, 0, 0, -1), "bottom right"),
    270: ((0, -1, 1, 0), "bottom left"),
}


@pytest.mark.parametrize("degrees", ROTATIONS)
def test_rotation_metadata_turns_frames_as_players_do(make: Make, tmp_path: Path, degrees: int) -> None:
    (a, b, c, d), corner = ROTATIONS[degrees]
    matrix = np.array([a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30], ">i4").tobytes()
    content = bytearray(make("mp4").read_bytes())
    start = content.index(b"tkhd") + 44  # ISO 14496-12 §8.3.2: the matrix of the first track
    content[start : start + 36] = matrix
    path = tmp_path / "turned.mp4"
    path.write_bytes(content)

    frames = decode_frames(path, 8)
    assert frames.shape == ((8, 3, 48, 64) if degrees == 180 else (8, 3, 64, 48))
    redness = frames[0, 0].float() - frames[0, 2].float()
    corners = {
        "top left": redness[:8, :8],
        "top right": redness[:8, -8:],
        "bottom left": redness[-8:, :8],
        "bottom right": redness[-8:, -8:],
    }
    assert {name for name, values in corners.items() if values.mean() > 100} == {corner}
    assert _numbers(frames) == frame_indices(NUM_FRAMES, 8)


@pytest.mark.parametrize("container", ["mp4", "avi", "mkv", "mov"])
@pytest.mark.parametrize("num_frames", [1, 5])
def test_clips_shorter_than_the_frames_asked_for(make: Make, container: str, num_frames: int) -> None:
    path = make(container, num_frames=num_frames, audio_seconds=0.01)  # less than one coded frame of sound
    clip = decode_clip(path, MediaSettings(image_size=64))
    assert _numbers(clip.frames) == frame_indices(num_frames, 8)
    assert clip.duration_seconds == pytest.approx(num_frames / FRAMES_PER_SECOND, abs=MILLISECOND)
    assert 160 <= len(clip.waveform) < 0.15 * 16_000


@pytest.mark.parametrize("container", ["mp4", "avi", "mkv", "webm"])
@pytest.mark.parametrize("audio_seconds", [SECONDS - 1, SECONDS + 1])
def test_sound_and_picture_of_different_length(make: Make, container: str, audio_seconds: float) -> None:
    path = make(container, CODECS["vp9" if container == "webm" else "mjpeg"], audio_seconds=audio_seconds)
    clip = decode_clip(path, MediaSettings(image_size=64))
    assert _numbers(clip.frames) == frame_indices(NUM_FRAMES, 8)
    assert len(clip.waveform) / 16_000 == pytest.approx(audio_seconds, abs=0.06)


@pytest.mark.parametrize("container", ["mp4", "avi", "mkv"])
def test_without_audio_track(make: Make, container: str) -> None:
    clip = decode_clip(make(container, audio_seconds=None), MediaSettings(image_size=64))
    assert not clip.has_audio and len(clip.waveform) == 0
    assert _numbers(clip.frames) == frame_indices(NUM_FRAMES, 8)


@pytest.mark.parametrize("container", ["m4a", "mka", "wav"])
def test_without_video_track(make: Make, tmp_path: Path, container: str) -> None:
    path = tmp_path / f"sound.{container}"
    _ffmpeg(f"-i {make('mp4')} -vn {path}")
    clip = decode_clip(path, MediaSettings(image_size=64))
    assert not clip.has_video and not clip.frames.any() and clip.frames.shape == (8, 3, 64, 64)
    assert clip.has_audio and _amplitude(clip.waveform, TONE_HERTZ) > 0.05
    assert clip.duration_seconds == len(clip.waveform) / 16_000 == pytest.approx(SECONDS, abs=0.06)
    with pytest.raises(MediaError, match=f"{path}: no video stream"):
        decode_frames(path, 8)


def _whole_files(make: Make) -> dict[str, Path]:
    return {
        "mp4": make("mp4"),
        "mp4 with its index in front": make("mp4", output="-movflags +faststart"),
        "fragmented mp4": make("mp4", output="-movflags +frag_keyframe+empty_moov"),
        "mov": make("mov", CODECS["mjpeg"], output="-movflags +faststart"),
        "avi": make("avi", CODECS["mjpeg"]),
        "mkv": make("mkv"),
        "webm": make("webm", CODECS["vp9"]),
    }


@pytest.mark.parametrize("kind", ["mp4", "mp4 with its index in front", "fragmented mp4", "mov", "avi", "mkv", "webm"])
def test_file_cut_short_is_named_wherever_it_is_cut(make: Make, tmp_path: Path, kind: str) -> None:
    whole = _whole_files(make)[kind]
    assert _numbers(decode_frames(whole, 8)) == frame_indices(NUM_FRAMES, 8)
    content = whole.read_bytes()
    path = tmp_path / whole.name
    for num_bytes in (len(content) // 3, len(content) // 2, len(content) * 9 // 10, len(content) - 1):
        path.write_bytes(content[:num_bytes])
        with pytest.raises(MediaError, match=rf"{path}: the file is cut short \({num_bytes} bytes of \d+\)"):
            decode_clip(path, MediaSettings())


def _avi_pictures(content: bytes) -> list[slice]:
    """Where the packets of the video stream lie in an AVI."""
    pictures, chunk = [], content.find(b"00dc")
    while chunk != -1 and chunk < content.index(b"idx1"):
        stop = chunk + 8 + int.from_bytes(content[chunk + 4 : chunk + 8], "little")
        pictures.append(slice(chunk + 8, stop))
        chunk = content.find(b"00dc", stop)
    return pictures


@pytest.mark.parametrize("codec", ["h264", "mjpeg"])
def test_packet_that_does_not_decode_is_an_error(make: Make, tmp_path: Path, codec: str) -> None:
    content = bytearray(make("avi", CODECS[codec]).read_bytes())
    packet = _avi_pictures(content)[20]
    content[packet] = bytes(packet.stop - packet.start)
    path = tmp_path / "zeros.avi"
    path.write_bytes(content)
    with pytest.raises(MediaError, match=f"{path}: broken video stream .*Invalid data"):
        decode_frames(path, 8)


@pytest.mark.parametrize("num_lost", [1, 2])
@pytest.mark.parametrize("num_b_frames", [0, 2])
def test_packets_without_a_frame_are_an_error(make: Make, tmp_path: Path, num_b_frames: int, num_lost: int) -> None:
    content = bytearray(make("avi", f"-c:v mpeg4 -pix_fmt yuv420p -bf {num_b_frames} -q:v 3").read_bytes())
    for packet in _avi_pictures(content)[20 : 20 + num_lost]:
        # ISO 14496-2 §6.2.5: after the start code two bits of type, one of seconds, a marker, five of time, a marker.
        byte = packet.start + bytes(content[packet]).index(b"\x00\x00\x01\xb6") + 5
        assert content[byte - 1] & 0b0011_0000 == 0b0001_0000  # no new second: the layout is as stated
        content[byte] &= 0b1101_1111  # vop_coded
    path = tmp_path / "not_coded.avi"
    path.write_bytes(content)
    with pytest.raises(
        MediaError, match=rf"{path}: broken video stream \({NUM_FRAMES - num_lost} of {NUM_FRAMES} frames"
    ):
        decode_frames(path, 8)


@pytest.mark.parametrize("codec", ["h264", "mpeg4"])
def test_damage_that_the_decoder_conceals_is_an_error(make: Make, tmp_path: Path, codec: str) -> None:
    # The decoder gives a frame for every packet, and makes up what it could not read.
    content = bytearray(make("mkv", CODECS[codec]).read_bytes())
    noise = random.Random(0)
    for _ in range(60):
        content[noise.randrange(len(content) // 4, len(content) * 3 // 4)] = noise.randrange(256)
    path = tmp_path / "damaged.mkv"
    path.write_bytes(content)
    with pytest.raises(MediaError, match=f"{path}: broken video stream .*(is damaged|Invalid data)"):
        decode_frames(path, 8)


def _amplitude(waveform: Tensor, hertz: float) -> float:
    """Amplitude of a sine in a waveform at 16 kHz, by projection on the complex exponential."""
    middle = waveform[1600:-1600].double()
    phase = 2 * math.pi * hertz * torch.arange(len(middle)) / 16_000
    return 2 * math.hypot((middle * phase.cos()).mean(), (middle * phase.sin()).mean())


@pytest.mark.parametrize(
    ("codec", "container"), [("ac3 -b:a 448k", "mkv"), ("aac -b:a 384k", "mp4"), ("pcm_s16le", "wav")]
)
def test_downmix_of_surround_sound(tmp_path: Path, codec: str, container: str) -> None:
    hertz = {"left": 300, "right": 500, "centre": 700, "bass": 60, "back left": 1100, "back right": 1300}
    tones = "|".join(f"0.1*sin(2*PI*{value}*t)" for value in hertz.values())
    path = tmp_path / f"surround.{container}"
    _ffmpeg(f"-f lavfi -i aevalsrc={tones}:c=5.1:s=48000:d=1 -c:a {codec} {path}")

    def gains(downmix: str) -> list[float]:
        waveform = decode_audio(path, 30.0, downmix)
        return [_amplitude(waveform, value) / 0.1 for value in hertz.values()]

    half = math.sqrt(0.5)
    assert gains("sqrt2") == pytest.approx([half, half, 1.0, 0.0, 0.5, 0.5], abs=0.01)
    assert gains("mean") == pytest.approx([1 / 6] * 6, abs=0.01)


@pytest.mark.parametrize("rate", [8_000, 22_050, 48_000])
@pytest.mark.parametrize("container", ["mp4", "wav"])
def test_other_sample_rates_keep_pitch_length_and_level(tmp_path: Path, container: str, rate: int) -> None:
    path = tmp_path / f"mono.{container}"
    _ffmpeg(f"-f lavfi -i aevalsrc=0.3*sin(2*PI*1000*t):s={rate}:d=1.5 -ac 1 -b:a 64k {path}")
    for downmix in ("sqrt2", "mean"):  # one channel: nothing to mix
        waveform = decode_audio(path, 30.0, downmix)
        assert len(waveform) / 16_000 == pytest.approx(1.5, abs=2 * 1024 / rate)
        assert _amplitude(waveform, 1000) == pytest.approx(0.3, rel=0.02)


def _onset_seconds(waveform: Tensor) -> float:
    return (waveform.abs() > 0.02).int().argmax().item() / 16_000


@pytest.mark.parametrize("container", ["mp4", "mkv", "ts"])
def test_sound_that_starts_late_stays_with_the_picture(make: Make, container: str) -> None:
    early = decode_clip(make(container), MediaSettings()).waveform
    late = decode_clip(make(container, audio_delay_seconds=0.5), MediaSettings()).waveform
    assert _onset_seconds(early) < 0.05
    assert _onset_seconds(late) == pytest.approx(0.5, abs=0.03)
    assert (len(late) - len(early)) / 16_000 == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("container", ["mp4", "ts"])  # the times of an MPEG-TS start at 1.4 s
def test_late_sound_counts_within_the_limit(make: Make, container: str) -> None:
    path = make(container, audio_delay_seconds=0.5)
    whole = decode_clip(path, MediaSettings()).waveform
    torch.testing.assert_close(
        decode_clip(path, MediaSettings(max_audio_seconds=1.0)).waveform, whole[:16_000], atol=0, rtol=0
    )
    none_yet = decode_clip(path, MediaSettings(max_audio_seconds=0.25))
    assert none_yet.has_audio and none_yet.waveform.shape == (4_000,) and not none_yet.waveform.any()
