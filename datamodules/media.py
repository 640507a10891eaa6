"""From a media file to what a model takes in: T uniformly spaced square frames and a mono 16 kHz waveform.

Follows the preprocessing of HumanOmni, the paper's backbone, decoded with PyAV (pictures) and torchcodec (sound).
Frames get grey bars in every stage (decision 9); sound that does not decode is never taken for silence (decision 8).

Shape legend: T frames per clip, H × W pixels of the file, I × I pixels of the model, S audio samples.
"""

import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from math import inf, isfinite
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from datamodules.batch import SAMPLE_RATE
from datamodules.containers import MediaError, NoVideoError, check_file, decoder_source, one_clip, picture_format
from datamodules.demuxing import segment_seconds as length_of_segment
from datamodules.demuxing import undecodable_sound
from datamodules.media_settings import Downmix, FrameFit, MediaSettings
from datamodules.mel import log_mel
from datamodules.segments import Segment, split_media
from datamodules.video import decode_video

PAD_GREY = 127
"""Grey of the bars that make a frame square: int(0.5 · 255), close to 0 after SigLIP's normalisation."""

_KEPT_BYTES = 24 << 20
"""A block that is freed at once: from then on glibc keeps this much memory for the next picture (mallopt(3),
M_MMAP_THRESHOLD), which it would else give back and fault in again for each, a tenth of the time at 1280 × 720."""

_TORCHCODEC_SOURCE_LOCATION = re.compile(r"^.*?\.cpp:\d+, ")


@dataclass
class DecodedClip:
    """What was read from a media file.

    Args:
        frames: uint8 RGB `[T, 3, I, I]`; black where there are no pictures.
        waveform: float32 mono 16 kHz `[S]`; empty when the file has no audio track.
        has_audio: False when the file has no audio track.
        duration_seconds: of the video track, or of the sound where there is none, above 0; 0 where nothing was
            decoded. Frame i is at about duration_seconds · (i + 0.5) / T after the first frame of the file, see
            `video.frame_indices`.
        mel: float32 `[M, F]` log-mel features of the waveform, or None when `MediaSettings.mel` is None.
        has_video: False when the file is sound alone.
    """

    frames: Tensor
    waveform: Tensor
    has_audio: bool
    duration_seconds: float
    mel: Tensor | None = None
    has_video: bool = True


def fit_frame(pixels: np.ndarray, image_size: int, frame_fit: FrameFit) -> np.ndarray:
    """Make a frame square with PIL's bicubic filter, so that /255 and SigLIP's normalisation equal its HF processor.

    Args:
        pixels: uint8 `[H, W, 3]`.
        image_size: I, in pixels.
        frame_fit: `pad` or `stretch`, see `MediaSettings`.

    Returns:
        uint8 `[I, I, 3]`.
    """
    if pixels.shape[:2] == (image_size, image_size):
        return pixels
    image = Image.fromarray(pixels)
    if frame_fit == "pad":
        image = _pad_to_square(image, image_size)
    # Which way is resized first shows in the last bit: Pillow 13 decides so, earlier versions begin with the rows.
    if image.height - image_size > 2 * max(image.width - image_size, 0):
        image = image.resize((image.width, image_size), Image.Resampling.BICUBIC)
    return np.asarray(image.resize((image_size, image_size), Image.Resampling.BICUBIC))


def _pad_to_square(image: Image.Image, image_size: int) -> Image.Image:
    """Centre an image on a grey square; an odd pixel goes to the right or bottom.

    A wide image comes back with its final width: PIL resizes the rows first, and on the grey ones that is wasted.
    """
    side = max(image.size)
    if image.width > image.height:
        image = image.resize((image_size, image.height), Image.Resampling.BICUBIC)
        square = Image.new("RGB", (image_size, side), (PAD_GREY,) * 3)
    else:
        square = Image.new("RGB", (side, side), (PAD_GREY,) * 3)
    square.paste(image, ((square.width - image.width) // 2, (side - image.height) // 2))
    return square


def why_no_decoders(error: Exception) -> str:
    """What to install, by the error with which torchcodec's import ended."""
    python = "libpython{}.{}".format(*sys.version_info)
    if python in str(error):  # Debian's and Ubuntu's own Python has it in a package of its own
        return f"torchcodec, which decodes the clips, cannot load {python}.so. Install it: `apt-get install {python}`."
    return (
        "torchcodec cannot load FFmpeg's shared libraries (versions 4 to 8), which decode the clips. Install them: "
        "`apt-get install ffmpeg` (Debian, Ubuntu), `dnf install ffmpeg-free` (Fedora), `brew install ffmpeg` (macOS) "
        "or `conda install -c conda-forge ffmpeg`. torchcodec's version must also match torch's (see constraints.txt)."
    )


@cache
def _decoders() -> ModuleType:
    """torchcodec's decoders, imported at the first decode so that `--help` and scoring work without FFmpeg."""
    try:
        from torchcodec import decoders
    except (ImportError, OSError, RuntimeError) as error:  # what torchcodec raises when it finds no FFmpeg libraries
        raise ImportError(why_no_decoders(error)) from error
    np.empty(_KEPT_BYTES, np.uint8)
    return decoders


def import_decoders() -> None:
    """Import what decoding needs, so that the first clip takes no longer than the others; nothing where it is missing,
    which decoding says itself.
    """
    with suppress(ImportError):
        _decoders()


def _reason(error: Exception) -> str:
    """First line of a torchcodec message, without the C++ source location in front of it."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return _TORCHCODEC_SOURCE_LOCATION.sub("", lines[0]).strip()


@one_clip
def decode_frames(path: str | Path, num_frames: int) -> Tensor:
    """Uniformly spaced frames by exact index, uint8 RGB `[T, 3, H, W]`; they must be of one size. See
    `video.decode_video`.
    """
    return _stack(decode_video(path, num_frames).frames)


def _stack(frames: Sequence[np.ndarray]) -> Tensor:
    """`[H, W, 3]` each → `[T, 3, H, W]`."""
    return torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2).contiguous()


@one_clip
def decode_audio(
    path: str | Path,
    max_seconds: float,
    downmix: Downmix = "sqrt2",
    video_start_seconds: float | None = None,
    segment_seconds: float | None = None,
) -> Tensor | None:
    """Decode the audio track to mono 16 kHz.

    Args:
        path: a media file.
        max_seconds: longest stretch read from the start, in seconds.
        downmix: see `MediaSettings`.
        video_start_seconds: time of the first frame; audio that starts later is preceded by silence, so that sound and
            picture stay together (the paper's decoder drops the gap). None: the waveform begins with the audio.
        segment_seconds: length of the segment that begins at `video_start_seconds`, and nothing before or after it is
            heard; silence where the audio ends earlier. None: the whole file.

    Returns:
        float32 `[S]`, or None when the file has no audio stream.

    Raises:
        MediaError: no such file, an empty or cut file, or a stream that does not decode (never taken for silence).
        ImportError: FFmpeg's libraries are missing.
    """
    check_file(path)
    if picture_format(path) is not None:
        return None
    # One output channel lets FFmpeg downmix, which is (L+R)/√2 for stereo and its standard matrix for surround.
    num_channels = 1 if downmix == "sqrt2" else None
    decoder = _audio_decoder(path, sample_rate=SAMPLE_RATE, num_channels=num_channels)
    if decoder is None:
        return None
    audio_start = max(decoder.metadata.begin_stream_seconds or 0.0, 0.0)  # what lies before 0 is an encoder's priming
    start = audio_start if video_start_seconds is None else min(audio_start, video_start_seconds)
    first = 0.0
    if segment_seconds is not None and video_start_seconds is not None:
        first = start = max(video_start_seconds, 0.0)
        max_seconds = min(max_seconds, segment_seconds)
    audio_end = audio_start + (decoder.metadata.duration_seconds or inf)
    if audio_start >= start + max_seconds or first >= audio_end:
        return torch.zeros(round(max_seconds * SAMPLE_RATE))
    try:
        samples = decoder.get_samples_played_in_range(first, start + max_seconds)
    except RuntimeError as error:  # a packet that does not decode, or a track without any
        raise MediaError(f"{path}: broken audio stream ({_reason(error)})") from error
    if not samples.data.isfinite().all():
        raise MediaError(f"{path}: broken audio stream (samples are not finite numbers)")
    num_silent = max(round((samples.pts_seconds - start) * SAMPLE_RATE), 0)
    return torch.nn.functional.pad(samples.data.mean(dim=0), (num_silent, 0))


def _audio_decoder(path: str | Path, **options: Any) -> Any:
    """torchcodec's decoder of a file's sound; None where it has none.

    Raises:
        MediaError: the sound does not open.
    """
    try:
        return _decoders().AudioDecoder(decoder_source(path), **options)
    except ValueError:  # torchcodec found no audio stream that it can decode
        codec = undecodable_sound(path)
        if codec is not None:
            raise MediaError(f"{path}: FFmpeg has no decoder for the audio ({codec})") from None
        return None
    except RuntimeError as error:
        raise MediaError(f"{path}: cannot open the audio ({_reason(error)})") from error


@one_clip
def decode_sound_alone(
    path: str | Path, max_seconds: float, downmix: Downmix = "sqrt2", segment: Segment | None = None
) -> tuple[Tensor, float]:
    """The waveform of a file without pictures, float32 `[S]`, and how long its sound lasts, in seconds.

    Args:
        path: a media file without a video track.
        max_seconds: longest stretch read, in seconds; the length that is returned is not cut.
        downmix: see `MediaSettings`.
        segment: which part of the file; None: all of it.

    Raises:
        MediaError: there is no sound, or none that decodes, or the segment is outside it.
    """
    decoder = _audio_decoder(path)
    if decoder is None:
        raise NoVideoError(f"{path}: no video stream and no audio stream")
    begin, whole = max(decoder.metadata.begin_stream_seconds or 0.0, 0.0), decoder.metadata.duration_seconds or inf
    if segment is None:
        waveform = decode_audio(path, max_seconds, downmix)
        length = len(waveform) / SAMPLE_RATE
        if length >= max_seconds:  # else it was heard to its end, about which headers may be wrong
            length = max(whole, length) if isfinite(whole) else length
    else:
        length = length_of_segment(path, segment, whole)
        waveform = decode_audio(path, max_seconds, downmix, begin + segment.start_seconds, length)
    return waveform, length if isfinite(length) else len(waveform) / SAMPLE_RATE


@one_clip
def decode_clip(path: str | Path, settings: MediaSettings) -> DecodedClip:
    """Frames, waveform and duration of a clip.

    Args:
        path: a media file, or a segment of one (`segments.split_media`): a film, a picture, or sound alone.
        settings: how it is decoded.

    Raises:
        MediaError: the video or the audio track, whichever is there, does not decode, or there is none of them, or the
            segment is outside the file.
        ImportError: FFmpeg's libraries are missing.
    """
    path, segment = split_media(path)
    fit = partial(fit_frame, image_size=settings.image_size, frame_fit=settings.frame_fit)
    waveform: Tensor | None
    try:
        video = decode_video(path, settings.num_frames, fit, segment)
    except NoVideoError:
        waveform, duration = decode_sound_alone(path, settings.max_audio_seconds, settings.downmix, segment)
        frames, has_video = black_frames(settings), False
    else:
        frames, has_video, duration = _stack(video.frames), True, video.duration_seconds
        length = None if segment is None else duration
        waveform = decode_audio(path, settings.max_audio_seconds, settings.downmix, video.begin_seconds, length)
    has_audio = waveform is not None
    waveform = torch.zeros(0) if waveform is None else waveform
    return DecodedClip(
        frames=frames,
        waveform=waveform,
        has_audio=has_audio,
        duration_seconds=duration,
        mel=None if settings.mel is None else log_mel(waveform, settings.mel),
        has_video=has_video,
    )


def black_frames(settings: MediaSettings) -> Tensor:
    """What stands for pictures that are not there, uint8 `[T, 3, I, I]`."""
    return torch.zeros(settings.num_frames, 3, settings.image_size, settings.image_size, dtype=torch.uint8)
