"""How clips are decoded."""

from dataclasses import dataclass
from typing import Literal

FrameFit = Literal["pad", "stretch"]
Downmix = Literal["sqrt2", "mean"]
Modality = Literal["sound", "pictures"]


@dataclass(frozen=True)
class MelSettings:
    """Which log-mel features a clip gets; must be those of the backbone's audio tower.

    Args:
        num_bins: M, mel bins; 128 for Whisper large-v3, 80 for the smaller ones.
        seconds: length that every waveform is padded or cut to, in seconds; Whisper hears 30.
    """

    num_bins: int = 128
    seconds: int = 30

    def __post_init__(self) -> None:
        if self.num_bins < 1 or self.seconds < 1:
            raise ValueError(f"Invalid mel settings {self}. Expected num_bins >= 1 and seconds >= 1.")


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
            (L+R)/2. With `sqrt2`, loud in-phase stereo may exceed 1. Of 5.1 sound, `sqrt2` takes the centre (speech)
            whole, left and right by 1/√2, the back channels by 1/2 and no bass channel; `mean` is the sixth of the sum.
        mel: compute log-mel features with these settings while loading, in the workers; null leaves that to a backbone
            that needs them.
    """

    num_frames: int = 8
    image_size: int = 224
    frame_fit: FrameFit = "pad"
    max_audio_seconds: float = 30.0
    downmix: Downmix = "sqrt2"
    mel: MelSettings | None = None

    def __post_init__(self) -> None:
        if self.num_frames < 1 or self.image_size < 1 or self.max_audio_seconds <= 0:
            raise ValueError(
                f"Invalid media settings {self}. Expected num_frames >= 1, image_size >= 1, max_audio_seconds > 0."
            )
