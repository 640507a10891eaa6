"""Emotion vocabularies: corpus taxonomies, answer aliases, and GoEmotions, the verifier's labels.

Class codes are as the corpora distribute them (MAFW README, DFEW README).
"""

from dataclasses import dataclass, field
from typing import Literal

GO_EMOTIONS: tuple[str, ...] = (
    "admiration", "amusement", "anger", "annoyance", "approval", "caring", "confusion", "curiosity", "desire",
    "disappointment", "disapproval", "disgust", "embarrassment", "excitement", "fear", "gratitude", "grief", "joy",
    "love", "nervousness", "optimism", "pride", "realization", "relief", "remorse", "sadness", "surprise", "neutral",
)  # fmt: skip
"""GoEmotions' 28 labels in the order of its `emotions.txt`: label id = index."""

ALIASES: dict[str, str] = {
    "angry": "anger",
    "sad": "sadness",
    "happy": "happiness",
    "anxious": "anxiety",
    "helpless": "helplessness",
    "disappointed": "disappointment",
    "contemptuous": "contempt",
}
"""Answer words that stand for a class name. Exact only: `surprised` and `sad.` stay unknown (decision 2)."""

VERIFIER_LABELS: dict[str, str] = {
    "anger": "anger",
    "disgust": "disgust",
    "fear": "fear",
    "happiness": "joy",
    "neutral": "neutral",
    "sadness": "sadness",
    "surprise": "surprise",
    "contempt": "disapproval",
    "anxiety": "nervousness",
    "helplessness": "grief",
    "disappointment": "disappointment",
}
"""Emotion of a taxonomy → the GoEmotions label that the verifier must read in a sentence."""


COMPOUND_SEPARATOR = "_"
"""Joins the emotions of a clip that has several, in the order of the taxonomy, as MAFW's label files do."""


@dataclass(frozen=True)
class Taxonomy:
    """The emotion classes of a corpus.

    Args:
        name: short name used on the command line and in files, e.g. `dfew`.
        classes: canonical emotions in the corpus' own order; the corpus' label code is the position + 1.
    """

    name: str
    classes: tuple[str, ...]
    _index: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_index", {emotion: i for i, emotion in enumerate(self.classes)})

    def __len__(self) -> int:
        return len(self.classes)

    def canonical(self, answer: str | None) -> str | None:
        """Class that an answer names, or None when it names none (an *unknown* answer)."""
        if answer is None:
            return None
        word = answer.replace("\n", "").strip().lower()
        word = ALIASES.get(word, word)
        return word if word in self._index else None

    def index(self, emotion: str | None) -> int:
        """Position of a canonical emotion in `classes`; -1 for None (unknown)."""
        return -1 if emotion is None else self._index[emotion]

    def target(self, label: str, where: str) -> str:
        """Canonical emotion of a ground-truth label.

        Args:
            label: the label as written in the label file.
            where: file and row, for the message.

        Raises:
            ValueError: the label is no class of this taxonomy.
        """
        emotion = self.canonical(label)
        if emotion is None:
            raise ValueError(
                f"{where}: label {label!r} is not a {self.name} emotion. Expected one of {', '.join(self.classes)}, "
                f"or an alias ({', '.join(sorted(ALIASES))})."
            )
        return emotion

    def compound_target(self, label: str, where: str) -> str:
        """Canonical form of a label that names one or several emotions, joined by `_`; see `target`."""
        emotions = {self.target(part, where) for part in label.split(COMPOUND_SEPARATOR)}
        return COMPOUND_SEPARATOR.join(sorted(emotions, key=self.index))

    def from_code(self, code: int, where: str) -> str:
        """Canonical emotion of a 1-based label code; `where` (file and row) goes into the message.

        Raises:
            ValueError: the code is not in 1..len(classes).
        """
        if not 1 <= code <= len(self.classes):
            raise ValueError(
                f"{where}: label code {code} is not a {self.name} code. Expected 1..{len(self.classes)} "
                f"({', '.join(f'{i}={name}' for i, name in enumerate(self.classes, 1))}). "
                "Label files that count from 0 are third-party copies; use the corpus' own."
            )
        return self.classes[code - 1]

    @property
    def verifier_labels(self) -> tuple[str, ...]:
        """GoEmotions label of each class, in the order of `classes`."""
        return tuple(VERIFIER_LABELS[emotion] for emotion in self.classes)


MAFW_TAXONOMY = Taxonomy(
    "mafw",
    (
        "anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise",
        "contempt", "anxiety", "helplessness", "disappointment",
    ),
)  # fmt: skip
DFEW_TAXONOMY = Taxonomy("dfew", ("happiness", "sadness", "neutral", "anger", "surprise", "disgust", "fear"))

TaxonomyName = Literal["mafw", "dfew"]
TAXONOMIES: dict[str, Taxonomy] = {taxonomy.name: taxonomy for taxonomy in (MAFW_TAXONOMY, DFEW_TAXONOMY)}


def get_taxonomy(name: str) -> Taxonomy:
    """Taxonomy by name.

    Raises:
        ValueError: no such taxonomy.
    """
    if name not in TAXONOMIES:
        raise ValueError(f"Unknown taxonomy {name!r}. Expected one of: {', '.join(sorted(TAXONOMIES))}.")
    return TAXONOMIES[name]


def members(target: str) -> tuple[str, ...]:
    """The canonical emotions of a target: one, or those of a compound one (`anger_disgust`)."""
    return tuple(target.split(COMPOUND_SEPARATOR))


def target_labels(target: str) -> frozenset[str]:
    """The GoEmotions labels that a sentence expresses a target with: one for each of its emotions."""
    return frozenset(VERIFIER_LABELS[emotion] for emotion in members(target))
