"""Log-mel features of a waveform, as Whisper takes them in.

Computed by transformers' own extractor, in the loader's workers, so that the model's device does not wait for them.

Shape legend: S audio samples (16 kHz mono), M mel bins, F feature frames of 10 ms.
"""

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from torch import Tensor

from datamodules.batch import SAMPLE_RATE

if TYPE_CHECKING:
    from transformers import WhisperFeatureExtractor


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


@cache
def _extractor(settings: MelSettings) -> "WhisperFeatureExtractor":
    from transformers import WhisperFeatureExtractor  # a second, which only those pay who want features

    return WhisperFeatureExtractor(feature_size=settings.num_bins, chunk_length=settings.seconds)


def log_mel(waveform: Tensor, settings: MelSettings) -> Tensor:
    """Log-mel features of one clip, float32 `[M, F]` with F = 100 · seconds.

    Args:
        waveform: float32 `[S]`; empty for a clip without audio, whose features are the constant -1.5.
        settings: see `MelSettings`.
    """
    features = _extractor(settings)(waveform.numpy(), sampling_rate=SAMPLE_RATE, return_tensors="pt")
    return features.input_features[0]
