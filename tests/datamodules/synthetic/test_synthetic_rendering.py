"""Performances, faces and voices: rates, ranges, determinism, and that emotions can be told apart."""

from dataclasses import replace

import numpy as np
import pytest

from datamodules.emotions import DFEW_TAXONOMY, MAFW_TAXONOMY
from datamodules.synthetic.expressions import EXPRESSIONS
from datamodules.synthetic.face import draw_face
from datamodules.synthetic.performance import Performance, draw_performance
from datamodules.synthetic.voice import PROSODY, speak

pytestmark = pytest.mark.unit


def _performance(emotion: str, seed: int = 0) -> Performance:
    return draw_performance(
        np.random.default_rng(seed), MAFW_TAXONOMY, emotion, face_disagreement=0, voice_disagreement=0
    )


def test_disagreement_rates_and_recoverable_labels():
    rng = np.random.default_rng(0)
    drawn = [draw_performance(rng, DFEW_TAXONOMY) for _ in range(2000)]
    face = [p for p in drawn if p.face_emotion != p.label]
    voice = [p for p in drawn if p.voice_emotion != p.label]
    # Three standard deviations of a binomial of 2000.
    assert len(face) / 2000 == pytest.approx(0.4, abs=0.033)
    assert len(voice) / 2000 == pytest.approx(0.1, abs=0.020)
    assert not any(p.face_emotion != p.label and p.voice_emotion != p.label for p in drawn)
    assert all(p.face_intensity < p.voice_intensity for p in face)
    assert all(p.voice_intensity < p.face_intensity for p in voice)
    assert {p.label for p in drawn} == set(DFEW_TAXONOMY.classes)


def test_performance_is_deterministic():
    assert _performance("fear") == _performance("fear")
    assert _performance("fear") != _performance("fear", seed=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"face_disagreement": 0.7, "voice_disagreement": 0.4}, "at most 1"),
        ({"voice_disagreement": -0.1}, "non-negative"),
        ({"weak_intensity": (0.5, 0.9)}, "below"),
    ],
)
def test_impossible_performances_are_refused(arguments: dict, message: str):
    with pytest.raises(ValueError, match=message):
        draw_performance(np.random.default_rng(0), DFEW_TAXONOMY, **arguments)


def test_every_emotion_has_its_own_face_and_voice():
    assert set(EXPRESSIONS) == set(PROSODY) == set(MAFW_TAXONOMY.classes)
    assert len(set(EXPRESSIONS.values())) == len(set(PROSODY.values())) == len(MAFW_TAXONOMY)
    assert EXPRESSIONS["neutral"] == replace(EXPRESSIONS["neutral"]).scaled(0.0)


@pytest.mark.parametrize("emotion", MAFW_TAXONOMY.classes)
def test_face_shape_range_and_determinism(emotion: str):
    performance = _performance(emotion)
    frames = draw_face(performance, num_frames=4, image_size=64)
    assert frames.shape == (4, 3, 64, 64) and frames.dtype == np.uint8 and frames.flags.c_contiguous
    assert np.array_equal(frames, draw_face(performance, num_frames=4, image_size=64))
    assert not np.array_equal(frames[0], frames[-1])


def test_face_changes_with_emotion_and_intensity():
    """Without noise, the same person's pictures differ more between emotions the stronger the emotions are."""

    def apex(emotion: str, intensity: float) -> np.ndarray:
        performance = replace(_performance("neutral"), face_emotion=emotion, face_intensity=intensity)
        return draw_face(performance, 20, noise=0.0, variation=0.0)[-1].astype(float)

    rest = apex("neutral", 1.0)
    for emotion in MAFW_TAXONOMY.classes:
        weak, strong = (np.abs(apex(emotion, intensity) - rest).mean() for intensity in (0.45, 1.0))
        assert weak == strong == 0 if emotion == "neutral" else 0 < weak < strong, emotion


@pytest.mark.parametrize("emotion", MAFW_TAXONOMY.classes)
@pytest.mark.parametrize("sample_rate", [16_000, 44_100])
def test_voice_shape_range_and_determinism(emotion: str, sample_rate: int):
    performance = _performance(emotion)
    sound = speak(performance, sample_rate, sample_rate)
    assert sound.shape == (sample_rate,) and sound.dtype == np.float32
    assert np.abs(sound).max() <= 1.0 and np.isfinite(sound).all() and sound.std() > 0.01
    assert np.array_equal(sound, speak(performance, sample_rate, sample_rate))


def test_voice_level_and_pitch_follow_the_emotion():
    def heard(emotion: str) -> tuple[float, float]:
        """Mean level and median pitch (autocorrelation peaks of voiced 50 ms pieces, Hz) over twenty people."""
        levels, pitches = [], []
        for seed in range(20):
            performance = replace(_performance("neutral", seed), voice_emotion=emotion, voice_intensity=1.0)
            sound = speak(performance, 16_000, noise=0.0, variation=0.0)
            levels.append(float(sound.std()))
            for piece in sound.reshape(-1, 800):
                if piece.std() > 0.5 * sound.std():
                    correlation = np.correlate(piece, piece, "full")[len(piece) - 1 :]
                    pitches.append(16_000 / (26 + int(correlation[26:230].argmax())))
        return float(np.mean(levels)), float(np.median(pitches))

    anger, sadness, happiness = heard("anger"), heard("sadness"), heard("happiness")
    assert anger[0] > 3 * sadness[0]
    assert happiness[1] > 1.2 * sadness[1]
