"""The face: a drawn head whose brows, eyes, mouth and pose follow an emotion from onset to apex.

Drawn with PIL at twice the size and averaged down, which smooths the edges. Local coordinates: the origin is the centre
of the face, x in face half-widths to the right, y in face half-heights downwards.
"""

from dataclasses import replace

import numpy as np
from PIL import Image, ImageDraw

from datamodules.synthetic.expressions import EXPRESSIONS, Expression
from datamodules.synthetic.performance import Identity, Performance

Colour = tuple[int, int, int]

_SUPERSAMPLING = 2
_ANGLES = np.linspace(0.0, 2 * np.pi, 28, endpoint=False)
_CIRCLE = np.stack((np.cos(_ANGLES), np.sin(_ANGLES)), axis=1)
_ARCH = np.linspace(-1.0, 1.0, 11)
"""Positions along a brow or a lip."""
_WHITE, _DARK, _MOUTH, _TEAR = (246, 246, 242), (34, 28, 30), (92, 28, 36), (140, 200, 240)


def _mix(colour: Colour, other: Colour, share: float) -> Colour:
    red, green, blue = (int(a + (b - a) * share) for a, b in zip(colour, other, strict=True))
    return red, green, blue


class _Canvas:
    """Draws polygons given in the local coordinates of a posed face; `shift` (x, y) moves the features within it."""

    def __init__(self, image: Image.Image, identity: Identity, position: np.ndarray, tilt: float) -> None:
        half = image.width / 2
        cosine, sine = np.cos(tilt), np.sin(tilt)
        scale = np.diag((identity.width * half, identity.height * half))
        self._matrix = scale @ np.array([[cosine, sine], [-sine, cosine]])
        self._centre = half * (1.0 + position)
        self._draw = ImageDraw.Draw(image)
        self._pixel = half / 48
        self.shift = np.zeros(2)

    def _pixels(self, points: np.ndarray) -> list[tuple[float, float]]:
        return [tuple(point) for point in ((points + self.shift) @ self._matrix + self._centre).tolist()]

    def polygon(self, points: np.ndarray, fill: Colour) -> None:
        self._draw.polygon(self._pixels(points), fill=fill)

    def line(self, points: np.ndarray, fill: Colour, width: float) -> None:
        """A line `width` pixels wide (of an image of 96 pixels)."""
        self._draw.line(self._pixels(points), fill=fill, width=max(1, round(width * self._pixel)), joint="curve")

    def ellipse(self, x: float, y: float, half_width: float, half_height: float, fill: Colour) -> None:
        self.polygon(_CIRCLE * (half_width, half_height) + (x, y), fill)


def _draw_head(canvas: _Canvas, identity: Identity, skin: Colour) -> None:
    if identity.person == "woman":
        canvas.polygon(
            np.array([(-1.2, -0.3), (-1.0, -0.95), (0, -1.28), (1.0, -0.95), (1.2, -0.3), (1.22, 1.0), (-1.22, 1.0)]),
            identity.hair,
        )
    canvas.polygon(np.array([(-0.38, 0.6), (0.38, 0.6), (0.38, 1.2), (-0.38, 1.2)]), _mix(skin, _DARK, 0.18))
    for side in (-1, 1):
        canvas.ellipse(side * 1.0, 0.05, 0.14, 0.2, _mix(skin, _DARK, 0.12))
    canvas.ellipse(0, 0, 1, 1, skin)
    fringe = np.stack((_ARCH, -0.62 - 0.12 * np.cos(np.pi * _ARCH)), axis=1) * (0.86, 1.0)
    crown = np.stack((-_ARCH * 1.04, -1.18 + 0.68 * np.abs(_ARCH) ** 2.5), axis=1)
    canvas.polygon(np.concatenate((fringe, crown)), identity.hair)


def _draw_brow(canvas: _Canvas, side: int, face: Expression, identity: Identity) -> None:
    """One brow; `_ARCH` runs from its inner to its outer end."""
    along = (_ARCH + 1) / 2
    inner, outer = 0.16 + 0.5 * face.brow_gap, 0.72 + 0.3 * face.brow_gap
    x = side * (inner + (outer - inner) * along)
    y = -0.37 - (face.brow_inner * (1 - along) + face.brow_outer * along) - 0.05 * np.sin(np.pi * along)
    thickness = identity.brow_thickness * (1.0 - 0.35 * along)
    upper, lower = np.stack((x, y - thickness), axis=1), np.stack((x, y + thickness), axis=1)
    canvas.polygon(np.concatenate((upper, lower[::-1])), _mix(identity.hair, _DARK, 0.5))


def _draw_eye(canvas: _Canvas, side: int, face: Expression, identity: Identity, skin: Colour, openness: float) -> None:
    x, y, half_width = side * identity.eye_distance, -0.12, 0.21
    half_height = 0.115 * openness
    if half_height < 0.02:
        canvas.line(np.array([(x - half_width, y), (x, y + 0.03), (x + half_width, y)]), _DARK, 1.6)
    else:
        canvas.ellipse(x, y, half_width, half_height, _WHITE)
        gaze_x, gaze_y = x + 0.1 * face.gaze_x, y + 0.45 * half_height * face.gaze_y
        canvas.ellipse(gaze_x, gaze_y, 0.095, min(0.085, 0.95 * half_height), _DARK)
        lid = np.stack((x + half_width * _ARCH, y - half_height * np.sqrt(1 - _ARCH**2)), axis=1)
        canvas.line(lid, _mix(skin, _DARK, 0.75), 1.3)
    if face.tears > 0.05:
        length = 0.42 * face.tears
        canvas.ellipse(x + side * 0.04, y + 0.1 + length / 2, 0.05 + 0.03 * face.tears, length / 2 + 0.03, _TEAR)


def _draw_nose(canvas: _Canvas, face: Expression, skin: Colour) -> None:
    shade = _mix(skin, _DARK, 0.35)
    canvas.line(np.array([(-0.02, -0.08), (-0.11, 0.23), (0.09, 0.24)]), shade, 1.2)
    if face.nose_wrinkle > 0.1:
        for row in range(3):
            y, reach = -0.1 + 0.08 * row, 0.06 + 0.09 * face.nose_wrinkle
            canvas.line(np.array([(-reach, y), (0, y + 0.04), (reach, y)]), _mix(skin, _DARK, 0.6), 1.3)
        for side in (-1, 1):
            canvas.line(np.array([(side * 0.18, 0.16), (side * 0.4, 0.34)]), _mix(skin, _DARK, 0.5), 1.3)


def _draw_mouth(canvas: _Canvas, face: Expression, skin: Colour, speech: float) -> None:
    """Lips as two arcs between the corners; `speech` (0..1) opens them a little."""
    half_width = 0.34 + face.mouth_width
    middle = np.array([face.mouth_shift, 0.52 - 0.06 * face.nose_wrinkle])
    opening = max(0.0, face.mouth_open + 0.05 * speech)
    # Corners move against the middle; a skew lifts the right corner only.
    corner_line = -face.mouth_curve * (_ARCH**2 - 0.5) - face.mouth_skew * np.clip(_ARCH, 0, 1) ** 1.5
    bow = np.sqrt(np.clip(1 - _ARCH**2, 0, 1))
    x = middle[0] + half_width * _ARCH
    upper = np.stack((x, middle[1] + corner_line - 0.45 * opening * bow), axis=1)
    lower = np.stack((x, middle[1] + corner_line + 0.75 * opening * bow), axis=1)
    lips = _mix(_mix(skin, (190, 60, 70), 0.6), _DARK, 0.15)
    if opening > 0.015:
        canvas.polygon(np.concatenate((upper, lower[::-1])), _MOUTH)
        if face.teeth > 0.1:
            edge = upper + (lower - upper) * (0.75 * min(1.0, face.teeth))
            canvas.polygon(np.concatenate((upper, edge[::-1])), _WHITE)
        canvas.line(lower, lips, 2.2)
    canvas.line(upper, lips, 2.6 - 1.2 * min(1.0, face.lip_press))
    if face.lip_bite > 0.15:
        y = middle[1] + 0.08
        reach = 0.16 * face.lip_bite
        bite = np.array([(-reach, y - 0.07), (reach, y - 0.07), (reach, y + 0.03), (-reach, y + 0.03)])
        canvas.polygon(bite + (middle[0], 0), _mix(skin, _WHITE, min(1.0, face.lip_bite)))
        canvas.line(np.array([(-0.2, y + 0.05), (0.2, y + 0.05)]) + (middle[0], 0), lips, 1.6)


def _draw_frame(
    size: int, identity: Identity, face: Expression, position: np.ndarray, tilt: float, blink: float, speech: float
) -> Image.Image:
    """One frame at the supersampled size.

    Args:
        size: side of the square frame, in pixels.
        identity: the person.
        face: the expression at this moment.
        position: (x, y) of the head's centre, in image half-sizes.
        tilt: of the head, in radians.
        blink: closing of the eyes, 0..1.
        speech: opening of the mouth by speech, 0..1.
    """
    image = Image.new("RGB", (size, size), identity.background)
    torso = np.array([(-1.75, 2.6), (-1.4, 1.3), (-0.4, 1.05), (0.4, 1.05), (1.4, 1.3), (1.75, 2.6)])
    _Canvas(image, identity, position, 0.0).polygon(torso, identity.shirt)
    canvas = _Canvas(image, identity, position, tilt)
    skin = _mix(identity.skin, (214, 62, 52), 0.45 * max(0.0, -face.pallor))
    skin = _mix(skin, (226, 232, 240), 0.5 * max(0.0, face.pallor))
    _draw_head(canvas, identity, skin)
    if face.cheeks > 0.1:
        for side in (-1, 1):
            canvas.ellipse(side * 0.56, 0.2, 0.2, 0.13, _mix(skin, (236, 96, 96), 0.55 * face.cheeks))
    # The features turn with a shake of the head.
    canvas.shift = np.array([face.head_shake, 0.0])
    for side in (-1, 1):
        _draw_eye(canvas, side, face, identity, skin, max(0.0, 1.0 + face.eye_open) * (1.0 - blink))
        _draw_brow(canvas, side, face, identity)
    _draw_nose(canvas, face, skin)
    _draw_mouth(canvas, face, skin, speech)
    return image


def _smoothstep(x: np.ndarray) -> np.ndarray:
    x = np.clip(x, 0.0, 1.0)
    return x * x * (3.0 - 2.0 * x)


def draw_face(
    performance: Performance,
    num_frames: int,
    image_size: int = 96,
    frame_rate: float = 25.0,
    noise: float = 6.0,
    variation: float = 0.25,
) -> np.ndarray:
    """The performance's picture.

    Args:
        performance: what to show.
        num_frames: length N.
        image_size: height and width, in pixels; even, as the video codec requires.
        frame_rate: in frames per second.
        noise: standard deviation of the camera noise, in grey levels.
        variation: spread of the expression's components between clips, see `Departure.varied`.

    Returns:
        RGB frames, uint8 `[N, 3, H, W]`.
    """
    rng = np.random.default_rng([performance.seed, 0])
    identity = performance.identity
    apex = EXPRESSIONS[performance.face_emotion].scaled(performance.face_intensity).varied(rng, variation)
    times = np.arange(num_frames) / frame_rate
    progress = np.linspace(0.0, 1.0, num_frames)
    onset = rng.uniform(0.0, 0.1)
    level = 0.3 + 0.7 * _smoothstep((progress - onset) / rng.uniform(0.2, 0.35))
    level *= 1.0 + 0.04 * np.sin(2 * np.pi * rng.uniform(1.0, 2.0) * times)
    phases = rng.uniform(0, 2 * np.pi, 5)
    sway = 0.02 * np.stack((np.sin(2.5 * times + phases[0]), np.sin(2.1 * times + phases[1])), axis=1)
    lean = rng.normal(0, 0.03) + 0.02 * np.sin(1.8 * times + phases[2])
    blink = np.exp(-(((times - rng.uniform(0.0, 2.0 * times[-1])) / 0.06) ** 2))
    speech = 0.5 + 0.5 * np.sin(2 * np.pi * identity.tempo * times + phases[3])

    frames = np.empty((num_frames, image_size, image_size, 3), dtype=np.int16)
    for n, (time, strength) in enumerate(zip(times, level, strict=True)):
        face = apex.scaled(strength)
        tremor = face.tremble * np.array([np.sin(2 * np.pi * 9 * time), np.cos(2 * np.pi * 8 * time)])
        swing = np.sin(2 * np.pi * 1.6 * time + phases[4])
        moved = replace(face, gaze_x=face.gaze_x + face.gaze_dart * np.sign(swing), head_shake=face.head_shake * swing)
        position = np.array(identity.offset) + sway[n] + tremor + (0.0, face.head_drop)
        picture = _draw_frame(
            image_size * _SUPERSAMPLING, identity, moved, position, lean[n] + face.head_tilt, blink[n], speech[n]
        )
        frames[n] = np.asarray(picture.reduce(_SUPERSAMPLING))
    return np.ascontiguousarray(_add_noise(rng, frames, noise).transpose(0, 3, 1, 2))


def _add_noise(rng: np.random.Generator, frames: np.ndarray, noise: float) -> np.ndarray:
    """`frames` (int16 `[N, H, W, 3]`) with camera noise and a change of exposure, as uint8.

    One field of noise is drawn per clip and moved to a random place in each frame: drawing it anew would cost more time
    than the picture itself.
    """
    _, height, width, _ = frames.shape
    grain = np.round(rng.normal(0.0, noise, (height, width, 3)) + rng.normal(0.0, 6.0)).astype(np.int16)
    for frame in frames:
        frame += np.roll(grain, tuple(rng.integers(0, (height, width))), axis=(0, 1))
    return np.clip(frames, 0, 255).astype(np.uint8)
