"""Frame strips and spectrograms."""

import numpy as np
import pytest
import torch

from callbacks.pictures import frame_strip, spectrogram

pytestmark = pytest.mark.unit


def tone(hertz: float, seconds: float = 1.0) -> torch.Tensor:
    return 0.3 * torch.sin(2 * torch.pi * hertz * torch.arange(int(16_000 * seconds)) / 16_000)


def brightness(picture) -> np.ndarray:
    return np.asarray(picture, dtype=int).sum(axis=2)


def test_frames_stand_beside_each_other_in_order_and_keep_their_shape() -> None:
    frames = torch.zeros(3, 3, 40, 60, dtype=torch.uint8)
    for i in range(3):
        frames[i, i] = 200
    strip = frame_strip(frames, 20)
    assert strip.mode == "RGB" and strip.height == 20 and abs(strip.width - 3 * 30) <= 3
    colours = [strip.getpixel(((2 * i + 1) * strip.width // 6, 10)) for i in range(3)]
    assert colours == [(200, 0, 0), (0, 200, 0), (0, 0, 200)]


@pytest.mark.parametrize("height", [0, -3])
def test_sizes_are_checked(height: int) -> None:
    with pytest.raises(ValueError, match="height"):
        frame_strip(torch.zeros(1, 3, 4, 4, dtype=torch.uint8), height)
    with pytest.raises(ValueError, match="height"):
        spectrogram(tone(440), height, 10)


def test_no_frames_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one frame"):
        frame_strip(torch.zeros(0, 3, 4, 4, dtype=torch.uint8), 10)


def test_low_tones_are_below_and_time_runs_to_the_right() -> None:
    low_then_high = torch.cat([tone(200), tone(3_000)])
    picture = brightness(spectrogram(low_then_high, 80, 200))
    assert picture.shape == (80, 200)
    first, second = picture[:, 20:80].mean(axis=1).argmax(), picture[:, 120:180].mean(axis=1).argmax()
    assert first > 65 and second < 45, "rows count from above"


def test_loudness_does_not_matter() -> None:
    quiet, loud = spectrogram(0.01 * tone(440), 40, 60), spectrogram(tone(440), 40, 60)
    assert np.abs(np.asarray(quiet, dtype=int) - np.asarray(loud, dtype=int)).max() <= 2


def test_a_second_that_is_not_full_is_not_padded() -> None:
    picture = brightness(spectrogram(tone(440, 1.25), 40, 100))
    assert picture[:, 90:].max() > 0.9 * picture.max(), "the tone goes on to the right edge"


@pytest.mark.parametrize("waveform", [torch.zeros(0), torch.zeros(16_000), torch.full((100,), torch.nan)])
def test_silence_is_a_panel_that_says_so(waveform: torch.Tensor) -> None:
    panel = spectrogram(waveform, 48, 200)
    assert panel.size == (200, 48)
    pixels = brightness(panel)
    assert pixels[0, 0] > 690 and (pixels < 500).sum() > 20, "dark letters on a pale panel"
    assert brightness(spectrogram(tone(440), 48, 200))[0, 0] < 300, "sound has a dark ground"


def test_sound_alone_has_a_strip_that_says_so() -> None:
    black = torch.zeros(4, 3, 24, 24, dtype=torch.uint8)
    strip = frame_strip(black, 48, has_video=False)
    assert strip.size == frame_strip(black, 48).size
    pixels = brightness(strip)
    assert pixels[0, 0] > 690 and (pixels < 500).sum() > 20, "dark letters on a pale panel"
