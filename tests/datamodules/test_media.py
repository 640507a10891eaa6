"""Frames and audio against the reference's preprocessing, and every way a file can be bad."""

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from datamodules import media
from datamodules.media import MediaError, decode_audio, decode_clip, decode_frames, fit_frame
from datamodules.media_settings import MediaSettings
from datamodules.video import frame_indices

pytestmark = pytest.mark.numerics


@pytest.fixture(scope="module")
def golden(golden_media: Path) -> dict[str, Tensor]:
    return load_file(golden_media / "frames_and_audio.safetensors")


def test_frame_indices_equal_the_reference_table(golden_media: Path) -> None:
    table = json.loads((golden_media / "frame_indices.json").read_text())["num_frames"]
    cases = [(int(n), int(t), row) for t, rows in table.items() for n, row in rows.items()]
    assert len(cases) > 50
    for num_available, num_frames, expected in cases:
        assert frame_indices(num_available, num_frames) == expected, (num_available, num_frames)


def test_frame_indices_round_halves_to_even_before_the_epsilon_tips_them_up() -> None:
    # N=5, T=4: exact positions 0.5, 1.5, 2.5, 3.5. The 1e-6 lifts each above its half; without it: 0, 2, 2, 4.
    assert frame_indices(5, 4) == [1, 2, 3, 4]


@pytest.mark.parametrize(("available", "wanted"), [(0, 8), (5, 0)])
def test_frame_indices_need_frames(available: int, wanted: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        frame_indices(available, wanted)


def _fitted(frames: Tensor, image_size: int, frame_fit: str) -> Tensor:
    """`[T, 3, H, W]` → `[T, 3, I, I]`."""
    fitted = [fit_frame(pixels, image_size, frame_fit) for pixels in frames.permute(0, 2, 3, 1).numpy()]
    return torch.from_numpy(np.stack(fitted)).permute(0, 3, 1, 2)


@pytest.mark.parametrize("shape", ["wide", "tall", "square"])
@pytest.mark.parametrize("frame_fit", ["pad", "stretch"])
def test_fitted_frames_equal_the_reference_bit_for_bit(golden: dict[str, Tensor], shape: str, frame_fit: str) -> None:
    fitted = _fitted(golden[f"{shape}/frames"], 48, frame_fit)
    assert fitted.dtype == torch.uint8
    torch.testing.assert_close(fitted, golden[f"{shape}/48/{frame_fit}"], atol=0, rtol=0)


def test_enlarged_frame_equals_the_reference_bit_for_bit(golden: dict[str, Tensor]) -> None:
    torch.testing.assert_close(_fitted(golden["wide/frames"][:1], 224, "pad"), golden["wide/224/pad"], atol=0, rtol=0)


def test_pad_puts_grey_bars_with_the_odd_pixel_below() -> None:
    rows = fit_frame(np.zeros((1, 4, 3), np.uint8), 4, "pad")[:, 0, 0].tolist()
    assert rows == [127, 0, 127, 127]


def test_decoded_frames_equal_the_reference_bit_for_bit(golden: dict[str, Tensor], golden_media: Path) -> None:
    frames = decode_frames(golden_media / "av_stereo44k.mp4", 8)
    torch.testing.assert_close(frames, golden["mp4/frames"], atol=0, rtol=0)


def test_decoded_clip_equals_the_reference_end_to_end(golden: dict[str, Tensor], golden_media: Path) -> None:
    clip = decode_clip(golden_media / "av_stereo44k.mp4", MediaSettings(image_size=48))
    torch.testing.assert_close(clip.frames, golden["mp4/48/pad"], atol=0, rtol=0)
    assert clip.has_audio


def test_audio_starts_as_the_reference_decoder(golden: dict[str, Tensor], golden_media: Path) -> None:
    # decord flushes its resampler after the first AAC packet, which inserts about 17 samples near sample 361; up to
    # there the two agree, and the test of the downmix shows that the gain is the same throughout.
    waveform = decode_audio(golden_media / "av_stereo44k.mp4", 30.0)
    torch.testing.assert_close(waveform[:350], golden["mp4/audio_start"][:350], atol=1e-6, rtol=0)
    assert waveform.shape == (29_350,)


def _amplitude(waveform: Tensor, hertz: float) -> float:
    """Amplitude of a sine in a waveform at 16 kHz, by projection on the complex exponential."""
    middle = waveform[1600:-1600].double()
    phase = 2 * math.pi * hertz * torch.arange(len(middle)) / 16_000
    return 2 * math.hypot((middle * phase.cos()).mean(), (middle * phase.sin()).mean())


@pytest.mark.parametrize(("downmix", "divisor"), [("sqrt2", math.sqrt(2)), ("mean", 2.0)])
def test_downmix_gain(golden_media: Path, downmix: str, divisor: float) -> None:
    waveform = decode_audio(golden_media / "av_stereo44k.mp4", 30.0, downmix)
    assert _amplitude(waveform, 300) == pytest.approx(0.4 / divisor, rel=0.01)  # left
    assert _amplitude(waveform, 700) == pytest.approx(0.2 / divisor, rel=0.01)  # right


def test_downmix_of_constant_channels(audio_only: Path) -> None:
    assert decode_audio(audio_only, 30.0)[4000].item() == pytest.approx(0.6 / math.sqrt(2), abs=1e-4)
    assert decode_audio(audio_only, 30.0, "mean")[4000].item() == pytest.approx(0.3, abs=1e-4)


def test_audio_beyond_the_limit_is_not_read(golden_media: Path) -> None:
    path = golden_media / "av_stereo44k.mp4"
    short = decode_audio(path, 0.5)
    assert short.shape == (8000,)
    torch.testing.assert_close(short, decode_audio(path, 30.0)[:8000], atol=0, rtol=0)


def test_file_without_audio_is_no_error(golden_media: Path) -> None:
    clip = decode_clip(golden_media / "no_audio.mp4", MediaSettings())
    assert not clip.has_audio
    assert clip.waveform.shape == (0,)
    assert clip.frames.shape == (8, 3, 224, 224)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("missing", "no such file"),
        ("zero bytes", "the file has zero bytes"),
        ("truncated", "the file is cut short .60000 bytes of 159265.; copy or download it again"),
        ("not a video", "cannot open the file: by its first bytes it is no MP4.*Playlists"),
        ("corrupt streams", "broken (video|audio) stream .*Invalid data"),
    ],
)
def test_bad_file_is_named_with_the_reason(bad_files: dict[str, Path], kind: str, reason: str) -> None:
    path = bad_files[kind]
    for decode in (lambda: decode_frames(path, 8), lambda: decode_audio(path, 30.0)):
        with pytest.raises(MediaError, match=f"{path}: {reason}") as caught:
            decode()
        assert ".cpp" not in str(caught.value)


def test_corrupt_audio_is_never_taken_for_silence(bad_files: dict[str, Path]) -> None:
    with pytest.raises(MediaError):
        decode_audio(bad_files["corrupt streams"], 30.0)


def test_file_without_video_stream_is_named(audio_only: Path) -> None:
    with pytest.raises(MediaError, match=f"{audio_only}: no video stream"):
        decode_frames(audio_only, 8)


@pytest.mark.parametrize("wrong", [{"num_frames": 0}, {"image_size": 0}, {"max_audio_seconds": 0.0}])
def test_impossible_settings_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="Expected num_frames >= 1"):
        MediaSettings(**wrong)


def test_missing_ffmpeg_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, golden_media: Path
) -> None:
    # A stand-in that fails as torchcodec does when it finds no FFmpeg libraries.
    (tmp_path / "torchcodec").mkdir()
    (tmp_path / "torchcodec" / "__init__.py").write_text("raise RuntimeError('Could not load libtorchcodec.')")
    for name in [name for name in sys.modules if name.split(".")[0] == "torchcodec"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    media._decoders.cache_clear()
    try:
        with pytest.raises(ImportError, match="apt-get install ffmpeg") as caught:
            decode_clip(golden_media / "no_audio.mp4", MediaSettings())
    finally:
        media._decoders.cache_clear()
    assert not isinstance(caught.value, MediaError)  # else every clip would be skipped, one by one
