"""A performance: what one generated clip shows and sounds like, before it is drawn.

Face and voice each carry an emotion with an intensity. In a part of the clips one of them disagrees with the label and
is then the weaker one, so the label stays recoverable: where the modalities disagree, it is the stronger one's emotion
(docs/demo.md).
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from datamodules.emotions import Taxonomy

Range = tuple[float, float]


@dataclass(frozen=True)
class Identity:
    """Traits of the person who performs; they vary between clips and carry no emotion.

    Args:
        person: "man" or "woman": shorter hair and a lower voice, or longer hair and a higher one.
        skin, hair, shirt, background: RGB colours, 0..255.
        width, height: face half-axes as fractions of the image's half-size.
        offset: (x, y) of the face's centre, as fractions of the image's half-size.
        eye_distance: half the distance between the eyes, as a fraction of the face's half-width.
        brow_thickness: as a fraction of the face's half-height.
        pitch: resting pitch of the voice, in Hz.
        tempo: resting speech rate, in syllables per second.
        vocal_tract: scale of the formant frequencies.
    """

    person: Literal["man", "woman"]
    skin: tuple[int, int, int]
    hair: tuple[int, int, int]
    shirt: tuple[int, int, int]
    background: tuple[int, int, int]
    width: float
    height: float
    offset: tuple[float, float]
    eye_distance: float
    brow_thickness: float
    pitch: float
    tempo: float
    vocal_tract: float


@dataclass(frozen=True)
class Performance:
    """One clip's content.

    Args:
        label: the clip's emotion.
        face_emotion, voice_emotion: what each modality shows; at most one differs from `label`.
        face_intensity, voice_intensity: 0 (not visible) to 1 (full).
        identity: the person.
        seed: of the noise in drawing and sound.
    """

    label: str
    face_emotion: str
    voice_emotion: str
    face_intensity: float
    voice_intensity: float
    identity: Identity
    seed: int


_SKIN = ((255, 224, 196), (241, 194, 150), (224, 172, 125), (198, 140, 96), (150, 100, 66), (108, 70, 46))
_HAIR = ((32, 26, 24), (70, 44, 28), (110, 72, 40), (168, 116, 58), (120, 120, 124), (150, 66, 36))


def draw_identity(rng: np.random.Generator) -> Identity:
    """A person at random."""

    def near(colour: tuple[int, int, int], spread: int) -> tuple[int, int, int]:
        red, green, blue = (int(np.clip(c + rng.integers(-spread, spread + 1), 0, 255)) for c in colour)
        return red, green, blue

    woman = bool(rng.random() < 0.5)
    return Identity(
        person="woman" if woman else "man",
        skin=near(_SKIN[int(rng.integers(len(_SKIN)))], 8),
        hair=near(_HAIR[int(rng.integers(len(_HAIR)))], 12),
        shirt=near((110, 110, 120), 60),
        background=near((176, 184, 192), 26),
        width=float(rng.uniform(0.56, 0.64)),
        height=float(rng.uniform(0.70, 0.78)),
        offset=(float(rng.uniform(-0.08, 0.08)), float(rng.uniform(0.0, 0.10))),
        eye_distance=float(rng.uniform(0.38, 0.46)),
        brow_thickness=float(rng.uniform(0.045, 0.075)),
        pitch=float(rng.uniform(180, 230) if woman else rng.uniform(95, 135)),
        tempo=float(rng.uniform(4.2, 5.4)),
        vocal_tract=float(rng.uniform(1.08, 1.2) if woman else rng.uniform(0.92, 1.04)),
    )


def draw_performance(
    rng: np.random.Generator,
    taxonomy: Taxonomy,
    label: str | None = None,
    face_disagreement: float = 0.4,
    voice_disagreement: float = 0.1,
    strong_intensity: Range = (0.9, 1.0),
    weak_intensity: Range = (0.7, 0.8),
) -> Performance:
    """A performance at random.

    Args:
        rng: source of the choices.
        taxonomy: the emotions.
        label: the clip's emotion; None draws one uniformly.
        face_disagreement: share of clips whose face shows another emotion than the label.
        voice_disagreement: share of clips whose voice does; never both in one clip.
        strong_intensity: range of a modality that agrees with the label.
        weak_intensity: range of the one that disagrees; below `strong_intensity`.

    Raises:
        ValueError: the shares are negative or add up to more than 1, or the ranges overlap.
    """
    if min(face_disagreement, voice_disagreement) < 0 or face_disagreement + voice_disagreement > 1:
        raise ValueError(
            f"face_disagreement {face_disagreement} and voice_disagreement {voice_disagreement} are shares of clips in "
            "which one modality disagrees, never both: give non-negative shares that add up to at most 1."
        )
    if weak_intensity[1] >= strong_intensity[0]:
        raise ValueError(
            f"weak_intensity {weak_intensity} must end below the start of strong_intensity {strong_intensity}: the "
            "label of a clip whose modalities disagree is the stronger one's emotion."
        )
    emotion = label if label is not None else taxonomy.classes[int(rng.integers(len(taxonomy)))]
    others = [other for other in taxonomy.classes if other != emotion]
    other = others[int(rng.integers(len(others)))]
    chance = rng.random()
    face_differs = chance < face_disagreement
    voice_differs = not face_differs and chance < face_disagreement + voice_disagreement
    return Performance(
        label=emotion,
        face_emotion=other if face_differs else emotion,
        voice_emotion=other if voice_differs else emotion,
        face_intensity=float(rng.uniform(*(weak_intensity if face_differs else strong_intensity))),
        voice_intensity=float(rng.uniform(*(weak_intensity if voice_differs else strong_intensity))),
        identity=draw_identity(rng),
        seed=int(rng.integers(2**31)),
    )
