"""What a clip looks and sounds like, as pictures: the same in TensorBoard and in the report.

Shape legend: T frames, H × W pixels, S audio samples (16 kHz mono).
"""

from functools import cache
from math import ceil
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib import colormaps
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from datamodules.batch import SAMPLE_RATE
from datamodules.inspection import contact_sheet
from datamodules.media_settings import MelSettings
from datamodules.mel import log_mel

_NUM_BINS = 80
_HOP = SAMPLE_RATE // 100
"""Samples between two columns of `log_mel`."""
_LOG_MEL_RANGE = 2.0
"""Between the loudest and the softest value of `log_mel`, which cuts 80 dB below the peak and divides decades by 4."""
_COLOURS = "magma"
_EMPTY, _EMPTY_TEXT = "#eceef1", "#59616b"


@cache
def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib and so is on every machine.

    Args:
        size: in pixels.
        bold: its bold face.
    """
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)


def frame_strip(frames: Tensor, height: int, has_video: bool = True) -> Image.Image:
    """The frames beside each other, in their order.

    Args:
        frames: uint8 RGB `[T, 3, H, W]`, on any device.
        height: of the picture in pixels; the frames keep their shape.
        has_video: False for sound alone: a panel as wide as its black frames, which says "no pictures".

    Raises:
        ValueError: no frames, or a height below 1.
    """
    if not len(frames) or height < 1:
        raise ValueError(f"Expected at least one frame and height >= 1; got {list(frames.shape)} and {height}.")
    strip = Image.fromarray(contact_sheet.frame_strip(frames.cpu()))
    width = max(round(strip.width * height / strip.height), 1)
    return (
        strip.resize((width, height), Image.Resampling.LANCZOS) if has_video else _empty("no pictures", height, width)
    )


def spectrogram(waveform: Tensor, height: int, width: int) -> Image.Image:
    """Log-mel power over time, low tones below; the loudest tone of the clip is the brightest.

    Args:
        waveform: float32 `[S]` at 16 kHz, on any device. Empty or all zero: a panel that says "no audio".
        height: in pixels.
        width: in pixels, from the first sample to the last.

    Raises:
        ValueError: a height or width below 1.
    """
    if height < 1 or width < 1:
        raise ValueError(f"Expected height and width >= 1; got {height} and {width}.")
    samples = waveform.detach().float().cpu()
    if not samples.isfinite().all() or not samples.any():
        return _empty("no audio", height, width)
    seconds = ceil(samples.numel() / SAMPLE_RATE)
    # Whisper's features have a floor that quiet clips would meet.
    samples = samples / samples.abs().max()
    features = log_mel(samples, MelSettings(_NUM_BINS, seconds))[:, : ceil(samples.numel() / _HOP)]
    loudness = 1 - (features.max() - features) / _LOG_MEL_RANGE
    picture = colormaps[_COLOURS](loudness.flip(0).clamp(0, 1).numpy(), bytes=True)[..., :3]
    return Image.fromarray(np.ascontiguousarray(picture)).resize((width, height), Image.Resampling.BILINEAR)


def _empty(text: str, height: int, width: int) -> Image.Image:
    panel = Image.new("RGB", (width, height), _EMPTY)
    size = max(min(height // 3, 16), 8)
    ImageDraw.Draw(panel).text((width / 2, height / 2), text, fill=_EMPTY_TEXT, font=font(size), anchor="mm")
    return panel
