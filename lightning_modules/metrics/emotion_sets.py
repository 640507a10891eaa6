"""Clips with several emotions, and answers that name several: how far do the two sets agree?

Of a clip with target set P and answered set A: exact A = P; precision |A∩P| / |A|; recall |A∩P| / |P|; F1
2|A∩P| / (|A| + |P|); each 0 for an answer that names nothing. Their means over clips are the example-based metrics of
multi-label classification (Tsoumakas and Katakis 2007); macro and weighted F1 are label-based, over the classes that a
clip or an answer has, and weighted by the clips that have them. On an emotion wheel, words of one sector are one
emotion: how MER2024's open-vocabulary track compares free words (arXiv 2404.17113).

Shape legend: N clips, C classes.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from datamodules.emotions import Taxonomy, members
from datamodules.files.config_files import CONFIGS
from datamodules.files.yaml_files import read_yaml_mapping

WHEEL = CONFIGS / "taxonomy/wheels/plutchik.yaml"

Emotions = frozenset[str]


@cache
def wheel_sectors(path: Path = WHEEL) -> Mapping[str, str]:
    """Word → its sector.

    Raises:
        ValueError: a word of two sectors, or a file of another form; names it.
    """
    sectors: dict[str, str] = {}
    for sector, words in read_yaml_mapping(path).items():
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise ValueError(f"{path}: {sector} has {words!r}. Expected a list of words.")
        for word in (sector, *words):
            if sectors.setdefault(word, sector) != sector:
                raise ValueError(f"{path}: {word!r} is in {sectors[word]} and in {sector}. Expected it in one.")
    return sectors


def on_wheel(emotions: Iterable[str]) -> Emotions:
    """Sectors of some emotions; a word that has none stays itself."""
    sectors = wheel_sectors()
    return frozenset(sectors.get(emotion, emotion) for emotion in emotions)


def set_f1(answered: Emotions, target: Emotions) -> float:
    """F1 of two sets; 0 where nothing was answered."""
    return 2 * len(answered & target) / (len(answered) + len(target)) if answered else 0.0


@dataclass
class SetCounts:
    """What clips add to the metrics; two of them add up.

    Args:
        clips: (answered, target) → how many clips.
    """

    clips: Counter[tuple[Emotions, Emotions]] = field(default_factory=Counter)

    def update(self, answers: Sequence[str | None], targets: Sequence[str | None], taxonomy: Taxonomy) -> None:
        """Count clips.

        Args:
            answers: as they were written; None where there is none.
            targets: canonical emotions, joined by `_`; a clip without one is left out.
            taxonomy: the classes.
        """
        for answer, target in zip(answers, targets, strict=True):
            if target is not None:
                self.clips[taxonomy.named(answer), frozenset(members(target))] += 1

    @property
    def has_sets(self) -> bool:
        """Whether a clip has several emotions."""
        return any(len(target) > 1 for _, target in self.clips)

    def compute(self) -> dict[str, Any]:
        """`exact_match`, `precision`, `recall`, `f1`, `macro_f1` and `weighted_f1`; the same under `wheel`; `num_sets`.

        `num_sets` is the number of clips with several emotions.

        Raises:
            ValueError: no clip was counted.
        """
        wheel: Counter[tuple[Emotions, Emotions]] = Counter()
        for (answered, target), count in self.clips.items():
            wheel[on_wheel(answered), on_wheel(target)] += count
        return {
            "num_sets": sum(count for (_, target), count in self.clips.items() if len(target) > 1),
            **_figures(self.clips),
            "wheel": _figures(wheel),
        }


def _figures(clips: Mapping[tuple[Emotions, Emotions], int]) -> dict[str, float]:
    total = sum(clips.values())
    if not total:
        raise ValueError("No clip was evaluated, so there is no metric to compute.")

    def mean(value: Any) -> float:
        return sum(count * value(answered, target) for (answered, target), count in clips.items()) / total

    return {
        "exact_match": mean(lambda answered, target: answered == target),
        "precision": mean(lambda answered, target: len(answered & target) / len(answered) if answered else 0.0),
        "recall": mean(lambda answered, target: len(answered & target) / len(target)),
        "f1": mean(set_f1),
        **_label_f1(clips),
    }


def _label_f1(clips: Mapping[tuple[Emotions, Emotions], int]) -> dict[str, float]:
    support, answers, hits = Counter[str](), Counter[str](), Counter[str]()
    for (answered, target), count in clips.items():
        for counts, emotions in ((support, target), (answers, answered), (hits, answered & target)):
            counts.update(dict.fromkeys(emotions, count))
    f1 = {label: 2 * hits[label] / (support[label] + answers[label]) for label in support | answers}
    return {
        "macro_f1": sum(f1.values()) / len(f1),
        "weighted_f1": sum(f1[label] * count for label, count in support.items()) / support.total(),
    }
