"""What each emotion does to a face, in parameters that follow facial action units (AU) and head movement."""

from dataclasses import dataclass

from datamodules.synthetic.departure import Departure


@dataclass(frozen=True)
class Expression(Departure):
    """How a face departs from rest. Lengths are fractions of the face's half-height (y) or half-width (x).

    Args:
        brow_inner: rise (+) or fall (-) of the inner brow ends (AU 1, AU 4).
        brow_outer: rise (+) or fall (-) of the outer brow ends (AU 2).
        brow_gap: movement of the brows apart (+) or together (-) (AU 4).
        eye_open: opening beyond rest; rest is 0 and closed is -1 (AU 5, AU 7, AU 43).
        gaze_x: gaze aside, in eye half-widths.
        gaze_y: gaze down (+) or up (-), in eye half-heights.
        gaze_dart: amplitude of quick sideways glances, in eye half-widths.
        mouth_curve: mouth corners up (+) or down (-) (AU 12, AU 15).
        mouth_skew: one corner up and the other at rest (one-sided AU 14).
        mouth_open: opening of the mouth (AU 25, AU 26).
        mouth_width: widening (+) or rounding (-) of the mouth (AU 20, AU 18).
        mouth_shift: movement of the mouth aside.
        teeth: share of an opened mouth that shows teeth, 0..1.
        lip_press: thinning of the lips (AU 24), 0..1.
        lip_bite: upper teeth on the lower lip (AU 32), 0..1.
        nose_wrinkle: lines at the root of the nose and a raised upper lip (AU 9, AU 10), 0..1.
        cheeks: raised, coloured cheeks (AU 6), 0..1.
        tears: 0..1.
        pallor: loss (+) of colour, or its rise (-), -1..1.
        head_drop: head moves down (+) or up (-).
        head_tilt: in radians.
        head_shake: amplitude of a slow shake.
        tremble: amplitude of a fast small tremor.
    """

    brow_inner: float = 0.0
    brow_outer: float = 0.0
    brow_gap: float = 0.0
    eye_open: float = 0.0
    gaze_x: float = 0.0
    gaze_y: float = 0.0
    gaze_dart: float = 0.0
    mouth_curve: float = 0.0
    mouth_skew: float = 0.0
    mouth_open: float = 0.0
    mouth_width: float = 0.0
    mouth_shift: float = 0.0
    teeth: float = 0.0
    lip_press: float = 0.0
    lip_bite: float = 0.0
    nose_wrinkle: float = 0.0
    cheeks: float = 0.0
    tears: float = 0.0
    pallor: float = 0.0
    head_drop: float = 0.0
    head_tilt: float = 0.0
    head_shake: float = 0.0
    tremble: float = 0.0


EXPRESSIONS: dict[str, Expression] = {
    "neutral": Expression(),
    "anger": Expression(
        brow_inner=-0.17, brow_outer=0.06, brow_gap=-0.10, eye_open=-0.35, mouth_curve=-0.05, mouth_open=0.10,
        mouth_width=0.08, teeth=1.0, pallor=-0.7, head_drop=0.05,
    ),
    "disgust": Expression(
        brow_inner=-0.10, brow_outer=-0.06, eye_open=-0.60, mouth_curve=-0.10, mouth_skew=-0.05, mouth_open=0.06,
        mouth_shift=0.12, nose_wrinkle=1.0, head_tilt=0.16,
    ),
    "fear": Expression(
        brow_inner=0.15, brow_outer=0.03, brow_gap=-0.05, eye_open=0.60, mouth_open=0.09, mouth_width=0.12,
        pallor=0.9, tremble=0.03, head_drop=-0.03,
    ),
    "happiness": Expression(
        brow_inner=0.03, brow_outer=0.05, eye_open=-0.25, mouth_curve=0.18, mouth_open=0.14, mouth_width=0.14,
        teeth=1.0, cheeks=1.0,
    ),
    "sadness": Expression(
        brow_inner=0.14, brow_outer=-0.09, eye_open=-0.40, gaze_y=0.4, mouth_curve=-0.14, mouth_width=-0.04,
        tears=1.0, head_drop=0.10,
    ),
    "surprise": Expression(
        brow_inner=0.18, brow_outer=0.20, eye_open=0.55, mouth_open=0.30, mouth_width=-0.14, head_drop=-0.07,
    ),
    "contempt": Expression(
        brow_inner=-0.03, brow_outer=0.05, eye_open=-0.40, gaze_x=0.4, mouth_skew=0.20, mouth_shift=-0.05,
        head_tilt=-0.14, head_drop=-0.05,
    ),
    "anxiety": Expression(
        brow_inner=0.11, brow_gap=-0.08, eye_open=0.15, gaze_dart=0.7, mouth_curve=-0.03, mouth_width=-0.06,
        lip_bite=1.0, tremble=0.015,
    ),
    "helplessness": Expression(
        brow_inner=0.16, brow_outer=-0.05, eye_open=0.05, gaze_y=-0.6, mouth_curve=-0.06, mouth_open=0.10,
        head_shake=0.10, head_tilt=0.08,
    ),
    "disappointment": Expression(
        brow_inner=0.03, brow_outer=-0.05, eye_open=-0.80, gaze_y=0.6, mouth_curve=-0.10, mouth_width=-0.06,
        lip_press=1.0, head_drop=0.14, head_tilt=0.06,
    ),
}  # fmt: skip
"""Full-intensity expression of each emotion."""
