"""Colours of emotions, sentences and runs, the same in every picture and page."""

from datamodules.emotions import Taxonomy
from lightning_modules.coherence import Relation

RELATIONS: dict[Relation, str] = {"matching": "#2e8b57", "neutral": "#8a929b", "contradicting": "#c0392b"}
"""A sentence's relation to the target emotion → its colour."""

SYMBOLS: dict[Relation, str] = {"matching": "✓", "neutral": "·", "contradicting": "✗"}
"""The same without colour: nothing is said by colour alone."""

_FAMILIES = {
    "#d1495b": ("anger", "annoyance", "disapproval"),
    "#7a8c2e": ("disgust", "embarrassment"),
    "#7b4fa3": ("fear", "nervousness"),
    "#e0a100": ("joy", "amusement", "excitement", "optimism", "pride", "relief"),
    "#d96fa8": ("love", "admiration", "caring", "gratitude", "approval", "desire"),
    "#2f6db5": ("sadness", "grief", "remorse", "disappointment"),
    "#1d9a9a": ("surprise", "realization", "curiosity", "confusion"),
    "#8a929b": ("neutral",),
}
RUNS = (
    *("#9aa5b1", "#e0a458", "#3a7ca5", "#6a994e", "#bc4b51"),
    *("#7a5195", "#c08497", "#4d5968", "#8f6b32", "#2a9d8f"),
)
"""Of runs, arms or rates in a picture, in their order."""

EMOTIONS: dict[str, str] = {label: colour for colour, labels in _FAMILIES.items() for label in labels}
"""GoEmotions label → colour; relatives share one."""


def colour_of(emotion: str, taxonomy: Taxonomy | None = None) -> str:
    """Colour of a class, by itself or by its verifier label, or of a GoEmotions label; that of `neutral` for others."""
    if taxonomy is not None and emotion in taxonomy.colours:
        return taxonomy.colours[emotion]
    label = emotion if taxonomy is None else taxonomy.labels.get(emotion, emotion)
    return EMOTIONS.get(label, EMOTIONS["neutral"])
