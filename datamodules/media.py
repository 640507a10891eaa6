"""From a media file to what a model takes in: T uniformly spaced square frames and a mono 16 kHz waveform.

Follows the preprocessing of HumanOmni, the paper's backbone (spec "Preprocessing"), decoded with torchcodec.

Shape legend: T frames per clip, H × W pixels of the file, I × I pixels of the model, S audio samples.
"""

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from datamodules.batch import SAMPLE_RATE

FrameFit = Literal["pad", "stretch"]
Downmix = Literal["sqrt2", "mean"]

PAD_GREY = 127
"""Grey of the bars that make a frame square: int(0.5 · 255), close to 0 after SigLIP's normalisation."""

_TORCHCODEC_SOURCE_LOCATION = re.compile(r"^.*?\.cpp:\d+, ")


class MediaError(ValueError):
    """A media file that cannot be decoded; the message is `path: reason`."""


@dataclass(frozen=True)
class MediaSettings:
    """How a clip is decoded.

    Args:
        num_frames: frames taken from each clip, uniformly spaced; must be what the backbone expects.
        image_size: side of the square frames, in pixels; must be what the backbone's vision tower expects.
        frame_fit: how frames become square: `pad` adds grey bars and keeps the aspect ratio (what the paper's weights
            were trained with), `stretch` distorts (what the paper's evaluation did).
        max_audio_seconds: audio beyond this is not read, in seconds; Whisper hears 30.
        downmix: how stereo becomes mono: `sqrt2` is (L+R)/√2, FFmpeg's own matrix and the paper's decoder; `mean` is
            (L+R)/2. With `sqrt2`, loud in-phase stereo may exceed 1.
    """

    num_frames: int = 8
    image_size: int = 224
    frame_fit: FrameFit = "pad"
    max_audio_seconds: float = 30.0
    downmix: Downmix = "sqrt2"

    def __post_init__(self) -> None:
        if self.num_frames < 1 or self.image_size < 1 or self.max_audio_seconds <= 0:
            raise ValueError(
                f"Invalid media settings {self}. Expected num_frames >= 1, image_size >= 1, max_audio_seconds > 0."
            )


@dataclass
class DecodedClip:
    """What was read from a media file.

    Args:
        frames: uint8 RGB `[T, 3, I, I]`.
        waveform: float32 mono 16 kHz `[S]`; empty when the file has no audio track.
        has_audio: False when the file has no audio track.
    """

    frames: Tensor
    waveform: Tensor
    has_audio: bool


def frame_indices(num_available: int, num_frames: int) -> list[int]:
    """Indices of uniformly spaced frames: round((N-1)/T · (i + 0.5) + 1e-6), halves to even (spec "Frames").

    A clip with fewer frames than asked for repeats some of them.

    Args:
        num_available: N, frames in the file.
        num_frames: T, frames wanted.

    Raises:
        ValueError: either number is below 1.
    """
    if num_available < 1 or num_frames < 1:
        raise ValueError(f"Cannot take {num_frames} frames of {num_available}. Expected at least 1 of each.")
    step = (num_available - 1) / num_frames
    return np.round(step * (np.arange(num_frames) + 0.5) + 1e-6).astype(int).tolist()


def fit_frames(frames: Tensor, image_size: int, frame_fit: FrameFit) -> Tensor:
    """Make frames square with PIL's bicubic filter, so that /255 and SigLIP's normalisation equal its HF processor.

    Args:
        frames: uint8 `[T, 3, H, W]`.
        image_size: I, in pixels.
        frame_fit: `pad` or `stretch`, see `MediaSettings`.

    Returns:
        uint8 `[T, 3, I, I]`.
    """
    if frame_fit == "pad":
        frames = _pad_to_square(frames)
    if frames.shape[-2:] == (image_size, image_size):
        return frames
    resized = [
        np.asarray(
            Image.fromarray(frame.permute(1, 2, 0).numpy()).resize((image_size, image_size), Image.Resampling.BICUBIC)
        )
        for frame in frames
    ]
    return torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2).contiguous()


def _pad_to_square(frames: Tensor) -> Tensor:
    """Centre frames `[T, 3, H, W]` on a grey square; an odd pixel goes to the right or bottom."""
    height, width = frames.shape[-2:]
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    square = frames.new_full((*frames.shape[:-2], side, side), PAD_GREY)
    square[..., top : top + height, left : left + width] = frames
    return square


@cache
def _decoders() -> ModuleType:
    """torchcodec's decoders, imported at the first decode so that `--help` and scoring work without FFmpeg."""
    try:
        from torchcodec import decoders
    except (ImportError, OSError, RuntimeError) as error:  # what torchcodec raises when it finds no FFmpeg libraries
        raise ImportError(
            "torchcodec cannot load FFmpeg's shared libraries (versions 4 to 8), which decode the clips. Install them: "
            "`apt-get install ffmpeg` (Debian, Ubuntu), `conda install -c conda-forge ffmpeg`, or `brew install "
            "ffmpeg` (macOS). The torchcodec version must also match torch's (see the constraints file)."
        ) from error
    return decoders


def _check_file(path: str | Path) -> None:
    file = Path(path)
    if not file.is_file():
        raise MediaError(f"{path}: no such file")
    if file.stat().st_size == 0:
        raise MediaError(f"{path}: the file has zero bytes")


def _reason(error: Exception) -> str:
    """First line of a torchcodec message, without the C++ source location in front of it."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return _TORCHCODEC_SOURCE_LOCATION.sub("", lines[0]).strip()


def decode_frames(path: str | Path, num_frames: int) -> Tensor:
    """Decode uniformly spaced frames, and only those, by exact index.

    Args:
        path: a video file.
        num_frames: T.

    Returns:
        uint8 RGB `[T, 3, H, W]`.

    Raises:
        MediaError: no such file, an empty file, no video stream, or a stream that does not decode.
        ImportError: FFmpeg's libraries are missing.
    """
    decoders = _decoders()
    _check_file(path)
    try:
        # The device is named because torch's default device may be an accelerator.
        decoder = decoders.VideoDecoder(str(path), seek_mode="exact", device="cpu")
    except ValueError as error:  # torchcodec found no best video stream
        raise MediaError(f"{path}: no video stream") from error
    except RuntimeError as error:  # FFmpeg cannot open the container or scan the stream
        raise MediaError(f"{path}: cannot open the video ({_reason(error)})") from error
    num_available = len(decoder)
    if num_available < 1:
        raise MediaError(f"{path}: the video stream has no frames")
    try:
        return decoder.get_frames_at(frame_indices(num_available, num_frames)).data
    except (RuntimeError, IndexError) as error:  # a packet that does not decode, or a frame missing from the stream
        raise MediaError(f"{path}: broken video stream ({_reason(error)})") from error


def decode_audio(path: str | Path, max_seconds: float, downmix: Downmix = "sqrt2") -> Tensor | None:
    """Decode the audio track to mono 16 kHz.

    Args:
        path: a media file.
        max_seconds: longest stretch read from the start, in seconds.
        downmix: see `MediaSettings`.

    Returns:
        float32 `[S]`, or None when the file has no audio stream.

    Raises:
        MediaError: no such file, an empty file, or a stream that does not decode (never taken for silence).
        ImportError: FFmpeg's libraries are missing.
    """
    decoders = _decoders()
    _check_file(path)
    # One output channel lets FFmpeg downmix, which is (L+R)/√2 for stereo and its standard matrix for surround.
    num_channels = 1 if downmix == "sqrt2" else None
    try:
        decoder = decoders.AudioDecoder(str(path), sample_rate=SAMPLE_RATE, num_channels=num_channels)
    except ValueError:  # torchcodec found no best audio stream
        return None
    except RuntimeError as error:
        raise MediaError(f"{path}: cannot open the audio ({_reason(error)})") from error
    try:
        samples = decoder.get_samples_played_in_range(0.0, max_seconds).data
    except RuntimeError as error:  # a packet that does not decode, or a track without any
        raise MediaError(f"{path}: broken audio stream ({_reason(error)})") from error
    if not samples.isfinite().all():
        raise MediaError(f"{path}: broken audio stream (samples are not finite numbers)")
    return samples.mean(dim=0)


def decode_clip(path: str | Path, settings: MediaSettings) -> DecodedClip:
    """Frames and waveform of a clip.

    Raises:
        MediaError: the video, or an audio track that is there, does not decode.
        ImportError: FFmpeg's libraries are missing.
    """
    frames = fit_frames(decode_frames(path, settings.num_frames), settings.image_size, settings.frame_fit)
    waveform = decode_audio(path, settings.max_audio_seconds, settings.downmix)
    if waveform is None:
        return DecodedClip(frames, torch.zeros(0), has_audio=False)
    return DecodedClip(frames, waveform, has_audio=True)
