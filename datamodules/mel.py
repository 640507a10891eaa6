"""Log-mel features of a waveform, as Whisper takes them in.

Computed by transformers' own extractor, in the loader's workers, so that the model's device does not wait for them.

Shape legend: S audio samples (16 kHz mono), M mel bins, F feature frames of 10 ms.
"""

from functools import cache
from typing import TYPE_CHECKING

from torch import Tensor

from datamodules.batch import SAMPLE_RATE
from datamodules.media_settings import MelSettings

if TYPE_CHECKING:
    from transformers import WhisperFeatureExtractor


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
