"""The voice: a speech-like sound (no words) whose pitch, tempo, loudness and timbre follow an emotion.

Glottal-pulse-like harmonics of a moving pitch, shaped by vowel formants and by syllables, with breath and room noise.
The directions follow the vocal-affect literature in outline (anger: loud, fast, bright; sadness: low, slow, soft, with
pauses; fear: high and trembling); the amounts are invented.
"""

from dataclasses import dataclass

import numpy as np

from datamodules.synthetic.departure import Departure
from datamodules.synthetic.performance import Performance


@dataclass(frozen=True)
class Prosody(Departure):
    """How a voice departs from its resting state.

    Args:
        pitch: mean shift, in semitones.
        melody: movement of the pitch within each syllable, in semitones.
        slope: rise (+) or fall (-) of the pitch over the clip, in semitones.
        tempo: log2 of the change in speech rate.
        energy: change of level, in dB.
        fade: change of level over the clip, in dB.
        pauses: share of syllables left silent.
        tremor: depth of a 7 Hz tremble of the pitch, in semitones.
        brightness: gain of high over low harmonics, in dB per octave.
        roughness: depth of a half-pitch amplitude modulation (creak), 0..1.
        breath: level of breath noise relative to the harmonics, 0..1.
    """

    pitch: float = 0.0
    melody: float = 0.0
    slope: float = 0.0
    tempo: float = 0.0
    energy: float = 0.0
    fade: float = 0.0
    pauses: float = 0.0
    tremor: float = 0.0
    brightness: float = 0.0
    roughness: float = 0.0
    breath: float = 0.0


PROSODY: dict[str, Prosody] = {
    "neutral": Prosody(),
    "anger": Prosody(pitch=3, melody=2, tempo=0.5, energy=9, brightness=5, roughness=0.5),
    "disgust": Prosody(pitch=-4, slope=-3, tempo=-0.5, energy=1, brightness=-1, roughness=1.0),
    "fear": Prosody(pitch=8, tempo=0.7, energy=-2, tremor=2.0, breath=0.5),
    "happiness": Prosody(pitch=5, melody=6, tempo=0.3, energy=5, brightness=2),
    "sadness": Prosody(pitch=-3, slope=-4, tempo=-0.8, energy=-9, pauses=0.35, tremor=0.4, brightness=-4),
    "surprise": Prosody(pitch=4, slope=14, tempo=-0.7, energy=5, fade=6, brightness=1),
    "contempt": Prosody(pitch=-5, melody=-4, tempo=-0.7, energy=-2, brightness=4),
    "anxiety": Prosody(pitch=4, melody=1, tempo=0.9, energy=-4, pauses=0.4, tremor=0.8, breath=0.2),
    "helplessness": Prosody(pitch=2, slope=-5, tempo=-0.4, energy=-4, fade=-18, tremor=0.5, breath=0.8),
    "disappointment": Prosody(pitch=-1, slope=-10, tempo=-0.3, energy=-4, fade=-8, brightness=-4, breath=0.4),
}
"""Full-intensity prosody of each emotion."""

_LEVEL = 0.08
"""RMS amplitude of a resting voice's syllables."""
_FORMANTS_HZ = ((620.0, 130.0, 1.0), (1250.0, 180.0, 0.6), (2500.0, 250.0, 0.35))
"""Centre, bandwidth and gain of the vowel's formants before scaling by the vocal tract."""


def _syllables(
    rng: np.random.Generator, prosody: Prosody, tempo: float, times: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Loudness in 0..1 and position in the syllable in 0..1 at each time; both `[S]`."""
    duration = 1.0 / (tempo * 2.0**prosody.tempo)
    count = int(np.ceil(times[-1] / (duration * 0.7))) + 2
    lengths = duration * rng.uniform(0.8, 1.2, count)
    starts = np.concatenate(([0.0], np.cumsum(lengths)))[:-1] - rng.uniform(0, duration)
    index = np.clip(np.searchsorted(starts, times, side="right") - 1, 0, count - 1)
    position = np.clip((times - starts[index]) / lengths[index], 0.0, 1.0)
    loudness = rng.uniform(0.75, 1.0, count) * (rng.random(count) >= prosody.pauses)
    return loudness[index] * np.sin(np.pi * position) ** 0.7, position


def _harmonics(phase: np.ndarray, pitch_hz: float, vocal_tract: float, brightness: float) -> np.ndarray:
    """Sum of the harmonics of `phase` (radians, `[S]`), weighted by source slope and formants, at unit RMS."""
    count = max(1, min(24, int(4000.0 / pitch_hz)))
    orders = np.arange(1, count + 1)
    frequencies = orders * pitch_hz
    envelope = sum(
        gain / (1.0 + ((frequencies - centre * vocal_tract) / width) ** 2) for centre, width, gain in _FORMANTS_HZ
    )
    weights = (0.15 + envelope) * orders ** (-1.0 + brightness / 6.02)
    rotation = np.exp(1j * phase).astype(np.complex64)
    # Horner's scheme in the rotation: one complex product per harmonic instead of one sine.
    total = np.zeros_like(rotation)
    for weight in weights[::-1]:
        total = (total + np.complex64(weight)) * rotation
    return total.imag / np.sqrt(0.5 * np.sum(weights**2))


def speak(
    performance: Performance, num_samples: int, sample_rate: int = 16_000, noise: float = 0.025, variation: float = 0.5
) -> np.ndarray:
    """The performance's sound.

    Args:
        performance: what to say it with.
        num_samples: length S.
        sample_rate: in Hz.
        noise: RMS amplitude of the room noise.
        variation: spread of the prosody's components between clips, see `Departure.varied`.

    Returns:
        Mono waveform, float32 `[S]` in [-1, 1].
    """
    rng = np.random.default_rng([performance.seed, 1])
    identity = performance.identity
    prosody = PROSODY[performance.voice_emotion].scaled(performance.voice_intensity).varied(rng, variation)
    times = np.arange(num_samples) / sample_rate
    progress = times / times[-1] - 0.5
    loudness, position = _syllables(rng, prosody, identity.tempo, times)

    drift = np.interp(times, np.linspace(0, times[-1], 8), rng.normal(0, 0.4, 8))
    semitones = (
        prosody.pitch
        + prosody.slope * progress
        + (prosody.melody + 0.5) * np.sin(2 * np.pi * position)
        + prosody.tremor * np.sin(2 * np.pi * 7.0 * times + rng.uniform(0, 2 * np.pi))
        + drift
    )
    pitch = identity.pitch * 2.0 ** (semitones / 12.0)
    phase = 2 * np.pi * np.cumsum(pitch) / sample_rate
    source = _harmonics(phase, float(pitch.mean()), identity.vocal_tract, prosody.brightness)
    source *= 1.0 - 0.5 * prosody.roughness * (1.0 + np.sin(phase / 2))
    source += prosody.breath * rng.standard_normal(num_samples)
    gain = _LEVEL * 10.0 ** ((prosody.energy + prosody.fade * progress + rng.normal(0, 1.0)) / 20.0)
    sound = gain * loudness * source + noise * rng.standard_normal(num_samples)
    return np.clip(sound, -1.0, 1.0).astype(np.float32)
