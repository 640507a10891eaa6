"""Emotion vocabularies: taxonomies, how answers are read in them, and GoEmotions, the verifier's labels.

A taxonomy is a YAML file: those of `configs/taxonomy/` are known by name, any other by its path.
"""

import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

from datamodules.files.config_files import CONFIGS, find_config
from datamodules.files.printable import did_you_mean
from datamodules.files.yaml_files import read_yaml_mapping

GO_EMOTIONS: tuple[str, ...] = (
    "admiration", "amusement", "anger", "annoyance", "approval", "caring", "confusion", "curiosity", "desire",
    "disappointment", "disapproval", "disgust", "embarrassment", "excitement", "fear", "gratitude", "grief", "joy",
    "love", "nervousness", "optimism", "pride", "realization", "relief", "remorse", "sadness", "surprise", "neutral",
)  # fmt: skip
"""GoEmotions' 28 labels in the order of its `emotions.txt`: label id = index."""

COMPOUND_SEPARATOR = "_"
"""Joins the emotions of a clip that has several, in the order of the taxonomy, as MAFW's label files do."""

Aliases = Literal["published", "extended"]
"""How answers are read: `published` takes classes and aliases alone, to the letter; `extended` also the other forms of
these words (`configs/taxonomy/words/`, a table per language), whatever punctuation is around
them (decision 52)."""

_DIRECTORY = CONFIGS / "taxonomy"
_SUFFIXES = (".yaml", ".yml")
_FIELDS = ("aliases", "verifier", "judge", "released", "colour")
_AND = re.compile(r"[,;/&+_|、，；\n]|\band\b", re.IGNORECASE)
_COLOUR = re.compile("#[0-9a-fA-F]{6}")


@dataclass(frozen=True)
class Taxonomy:
    """The emotion classes of a corpus.

    Args:
        name: short name used on the command line and in files, e.g. `dfew`; of a file of one's own, its absolute path.
        classes: canonical emotions in the corpus' own order; the corpus' label code is the position + 1.
        aliases: other words for a class, in lower case → the class. Exact only: with those of DFEW, `surprised` and
            `sad.` stay unknown (decision 2).
        labels: class → the GoEmotions label that the verifier must read in a sentence. A class without one has no
            explanation reward.
        judge_names: class → its name in the question to a judge, where that is another.
        released_names: the same in the released code's question.
        colours: class → `#rrggbb`, where it is not that of its verifier label.
        words: further words that answers may name a class with, see `Aliases`; empty reads as published.
    """

    name: str
    classes: tuple[str, ...]
    aliases: Mapping[str, str] = field(default_factory=dict, hash=False)
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)
    judge_names: Mapping[str, str] = field(default_factory=dict, hash=False)
    released_names: Mapping[str, str] = field(default_factory=dict, hash=False)
    colours: Mapping[str, str] = field(default_factory=dict, compare=False)
    words: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)
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
        word = self.aliases.get(word, word)
        return word if word in self._index else self.words.get(bare_word(answer))

    def named(self, answer: str | None) -> frozenset[str]:
        """All that an answer names, such as `anger, sadness`: classes, and other words as they are written."""
        parts = [] if answer is None else _AND.split(answer)
        return frozenset(emotion for part in parts if (emotion := self.canonical(part) or bare_word(part)))

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
            hint = did_you_mean(label.strip().lower(), [*self.classes, *self.aliases])
            article = "an" if self.name[:1] in "aeiou" else "a"
            raise ValueError(
                f"{where}: label {label!r:.80} is not {article} {self.name} emotion. Expected one of "
                f"{', '.join(self.classes)}, or an alias ({', '.join(sorted(self.aliases))}).{hint}"
            )
        return emotion

    def compound_target(self, label: str, where: str) -> str:
        """Canonical form of a label that names one or several emotions, joined by `_`; see `target`."""
        return self.joined(self.target(part, where) for part in label.split(COMPOUND_SEPARATOR))

    def joined(self, emotions: Iterable[str]) -> str:
        """Canonical emotions as a target: each once, in the order of the classes, joined by `_`."""
        return COMPOUND_SEPARATOR.join(sorted(set(emotions), key=self.index))

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
        """GoEmotions label of each class that has one, in the order of `classes`."""
        return tuple(self.labels[emotion] for emotion in self.classes if emotion in self.labels)

    @property
    def unlabelled(self) -> tuple[str, ...]:
        """Classes without a verifier label: no sentence can be read to express them."""
        return tuple(emotion for emotion in self.classes if emotion not in self.labels)

    def target_labels(self, target: str) -> frozenset[str]:
        """The GoEmotions labels that a sentence expresses a target with: one for each of its emotions that has one."""
        return frozenset(self.labels[emotion] for emotion in members(target) if emotion in self.labels)


def members(target: str) -> tuple[str, ...]:
    """The canonical emotions of a target: one, or those of a compound one (`anger_disgust`)."""
    return tuple(target.split(COMPOUND_SEPARATOR))


def bare_word(answer: str) -> str:
    """An answer in lower case, with single spaces, without punctuation, symbols and space around it."""
    text = " ".join(unicodedata.normalize("NFKC", answer).casefold().split())
    inner = [i for i, character in enumerate(text) if unicodedata.category(character)[0] in "LMN"]
    return text[inner[0] : inner[-1] + 1] if inner else ""


def taxonomy_names() -> list[str]:
    """The taxonomies that are known by name."""
    return sorted(path.stem for path in _DIRECTORY.glob("*.yaml"))


def get_taxonomy(name: str, aliases: Aliases = "published") -> Taxonomy:
    """A taxonomy by its name, or by the path of its YAML file.

    Args:
        name: one of `configs/taxonomy/`, with or without this folder, or a path that ends in `.yaml`.
        aliases: how answers are read.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no such taxonomy, or a malformed one.
    """
    own = name.removeprefix("configs/").removeprefix("taxonomy/")
    if own in taxonomy_names():
        taxonomy = _read_taxonomy(_DIRECTORY / f"{own}.yaml", own)
    elif name.endswith(_SUFFIXES):
        try:
            path = find_config(name).absolute()
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"There is no taxonomy {name}: no such file, nor does one of this name come with the program, as "
                f"{', '.join(taxonomy_names())} do."
            ) from error
        is_known = path.resolve().parent == _DIRECTORY.resolve()
        taxonomy = _read_taxonomy(path, path.stem if is_known else str(path))
    else:
        raise ValueError(
            f"Unknown taxonomy {name!r}. Expected one of: {', '.join(taxonomy_names())}; or the path of a YAML file."
        )
    return replace(taxonomy, words=_known_words(taxonomy)) if aliases == "extended" else taxonomy


@cache
def _word_tables() -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Noun and its other forms, of all languages."""
    tables = [read_yaml_mapping(path) for path in sorted((_DIRECTORY / "words").glob("*.yaml"))]
    return tuple((noun, tuple(forms)) for table in tables for noun, forms in table.items())


def _known_words(taxonomy: Taxonomy) -> dict[str, str]:
    words = {
        bare_word(own): emotion
        for own in (*taxonomy.classes, *taxonomy.aliases)
        if (emotion := taxonomy.canonical(own))
    }
    for noun, forms in _word_tables():
        emotion = taxonomy.canonical(noun)
        if emotion is not None:
            words |= {form: emotion for form in forms if form not in words}
    return words


def _read_taxonomy(path: Path, name: str) -> Taxonomy:
    """The taxonomy of a YAML file: `classes`, each with what of `_FIELDS` it has.

    Raises:
        FileNotFoundError, ValueError: see `get_taxonomy`.
    """
    content = read_yaml_mapping(path)
    for key in content:
        if key != "classes":
            raise ValueError(f"{path}: got {key!r:.80}. Expected `classes` alone.{did_you_mean(str(key), ['classes'])}")
    entries = content.get("classes")
    if not isinstance(entries, dict) or len(entries) < 2:
        raise ValueError(f"{path}: expected `classes`, a mapping of two or more emotions, got {entries!r:.120}.")
    classes = {emotion: {} if own is None else own for emotion, own in entries.items()}
    aliases: dict[str, str] = {}
    for emotion, own in classes.items():
        _check_class(path, emotion, own)
        for alias in own.get("aliases", ()):
            if alias in classes or aliases.setdefault(alias, emotion) != emotion:
                raise ValueError(
                    f"{path}: {alias!r} stands for {emotion} and for {aliases.get(alias, alias)}. Keep one."
                )

    def named(what: str) -> dict[str, str]:
        return {emotion: own[what] for emotion, own in classes.items() if own.get(what) is not None}

    taxonomy = Taxonomy(
        name, tuple(classes), aliases, named("verifier"), named("judge"), named("released"), named("colour")
    )
    for names in (taxonomy.judge_names, taxonomy.released_names):
        for emotion, word in names.items():
            if taxonomy.canonical(word) != emotion:
                raise ValueError(
                    f"{path}: a judge that replies {word!r} is not read as {emotion}. Add it to its aliases."
                )
    return taxonomy


def _check_class(path: Path, emotion: Any, own: Any) -> None:
    """Refuse what is no class of a taxonomy.

    Raises:
        ValueError: says what.
    """
    if (
        not isinstance(emotion, str)
        or emotion != emotion.strip().lower()
        or not emotion
        or COMPOUND_SEPARATOR in emotion
    ):
        raise ValueError(f"{path}: the class {emotion!r:.80} must be text in lower case, without {COMPOUND_SEPARATOR}.")
    if not isinstance(own, dict):
        raise ValueError(f"{path}: {emotion} has {str(own)!r:.80}. Expected some of: {', '.join(_FIELDS)}.")
    for key in own:
        if key not in _FIELDS:
            raise ValueError(
                f"{path}: {emotion} has {key!r:.80}. Expected some of: {', '.join(_FIELDS)}."
                + did_you_mean(str(key), _FIELDS)
            )
    aliases = own.get("aliases", [])
    if not isinstance(aliases, list) or not all(
        isinstance(word, str) and word == word.strip().lower() for word in aliases
    ):
        raise ValueError(
            f"{path}: the aliases of {emotion} are {aliases!r:.80}. Expected a list of words in lower case."
        )
    label, colour = own.get("verifier"), own.get("colour")
    if label is not None and label not in GO_EMOTIONS:
        raise ValueError(
            f"{path}: the verifier label of {emotion} is {label!r:.80}. Expected one of GoEmotions' "
            f"({', '.join(GO_EMOTIONS)}), or null.{did_you_mean(str(label), GO_EMOTIONS)}"
        )
    if colour is not None and not (isinstance(colour, str) and _COLOUR.fullmatch(colour)):
        raise ValueError(f'{path}: the colour of {emotion} is {colour!r:.80}. Expected "#rrggbb", in quotation marks.')
    for what in ("judge", "released"):
        if not isinstance(own.get(what, ""), str):
            raise ValueError(f"{path}: {what} of {emotion} is {own[what]!r:.80}. Expected a word.")


MAFW_TAXONOMY = get_taxonomy("mafw")
DFEW_TAXONOMY = get_taxonomy("dfew")
