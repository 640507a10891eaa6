"""What the reward-hacking alarms measure on rationales, in training and in finished runs alike.

Every statistic is a `Ratio`, so that batches, steps and processes add up before anything is divided.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, groupby
from math import sqrt

from datamodules.emotions import Taxonomy, members
from datamodules.rationale import TAGS
from lightning_modules.coherence import explanation_score

LabelSets = tuple[tuple[str, ...], ...]
"""The verifier's label set of each sentence of a rationale."""

NUM_HEDGED = 3
"""A rationale that speaks of this many emotions hedges."""

IMPLIED = 0.5
"""An explanation reward above this says that the rationale expresses its target."""

_WORD = re.compile(r"\w+(?:['’-]\w+)*")

_UNSEEN = re.compile("[\u00ad\u200b-\u200f\u2060-\u2064\ufeff]")
"""Characters without a shape, which a verifier may read over: soft hyphens, spaces and joiners of no width."""

_NEGATION = re.compile(
    r"\b(?:not?|never|neither|nor|nobody|nothing|none|without|hardly|cannot)\b|n['’]t\b", re.IGNORECASE
)


@dataclass(frozen=True)
class Rationale:
    """A rationale and what was made of it.

    Args:
        clip: the clip's id; completions of one clip are a group.
        sentences: of the rationale.
        emotions: the verifier's label set of each sentence; None where no verifier read them.
        target: canonical emotion, several joined by `_`; None without a label.
        prediction: canonical emotion of the answer; None when it names no class.
        reward: what the completion earned; None without rewards.
        length: of the completion in tokens, or of the rationale in words; one unit for all.
        judged: emotion that the judge reads in the rationale; None: an invalid reply, or no judge.
        second: label sets by a second verifier, which gives no reward; None without one.
        completion: all that was written; None where it was not kept.
    """

    clip: str
    sentences: tuple[str, ...]
    emotions: LabelSets | None
    target: str | None
    prediction: str | None
    reward: float | None
    length: int
    judged: str | None = None
    second: LabelSets | None = None
    completion: str | None = None


@dataclass(frozen=True)
class Ratio:
    """Numerator and denominator of a mean or a ratio.

    Args:
        total: sum of what is averaged.
        count: of how many, or the sum that `total` is compared with.
    """

    total: float = 0.0
    count: float = 0.0

    def __add__(self, other: "Ratio") -> "Ratio":
        return Ratio(self.total + other.total, self.count + other.count)

    @property
    def value(self) -> float | None:
        """The mean; None of nothing."""
        return self.total / self.count if self.count else None

    @classmethod
    def of(cls, values: Iterable[float]) -> "Ratio":
        """Of single observations."""
        values = list(values)
        return cls(float(sum(values)), float(len(values)))


def words(text: str) -> list[str]:
    """Words in lower case, without punctuation."""
    return _WORD.findall(_UNSEEN.sub("", text).lower())


def count_words(sentences: Iterable[str]) -> int:
    """Number of words of some sentences."""
    return sum(len(words(sentence)) for sentence in sentences)


@lru_cache
def _naming_pattern(emotions: frozenset[str], taxonomy: Taxonomy) -> re.Pattern[str]:
    names = emotions | {taxonomy.labels[emotion] for emotion in emotions if emotion in taxonomy.labels}
    names |= {alias for alias, emotion in taxonomy.aliases.items() if emotion in emotions}
    return re.compile(rf"\b(?:{'|'.join(sorted(map(re.escape, names)))})\b", re.IGNORECASE)


def names_label(sentence: str, emotions: frozenset[str], taxonomy: Taxonomy) -> bool:
    """Whether a sentence says a class name, one of its aliases or its verifier label, as a whole word in any case.

    Args:
        sentence: the sentence.
        emotions: canonical emotions.
        taxonomy: whose classes these are.
    """
    return bool(emotions) and _naming_pattern(emotions, taxonomy).search(_UNSEEN.sub("", sentence)) is not None


def spearman(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Spearman's rank correlation, ties given their mean rank; None where x or y does not vary.

    Raises:
        ValueError: different numbers of values.
    """
    if len(x) != len(y):
        raise ValueError(f"Expected as many x as y; got {len(x)} and {len(y)}.")
    centre = (len(x) + 1) / 2
    ranks_x, ranks_y = ([rank - centre for rank in _ranks(values)] for values in (x, y))
    scale = sqrt(sum(rank**2 for rank in ranks_x) * sum(rank**2 for rank in ranks_y))
    return sum(a * b for a, b in zip(ranks_x, ranks_y, strict=True)) / scale if scale else None


def _ranks(values: Sequence[float]) -> list[float]:
    ranks = [0.0] * len(values)
    start = 1
    for _, tied in groupby(sorted(range(len(values)), key=values.__getitem__), key=values.__getitem__):
        rows = list(tied)
        for row in rows:
            ranks[row] = start + (len(rows) - 1) / 2
        start += len(rows)
    return ranks


def distinct(rationale: Rationale, n: int) -> float | None:
    """Distinct n-grams over all n-grams of a rationale's words (distinct-n, arXiv 1510.03055).

    Within each rationale and not over all of them: the latter falls with the number of rationales, and no threshold
    would hold for a training step and a finished run.

    Returns:
        None for fewer than n words.
    """
    tokens = [word for sentence in rationale.sentences for word in words(sentence)]
    grams = [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
    return len(set(grams)) / len(grams) if grams else None


def _label_named(rationales: Sequence[Rationale], taxonomy: Taxonomy) -> Iterator[float]:
    for rationale in rationales:
        emotions = frozenset(members(rationale.target) if rationale.target else ())
        emotions |= {rationale.prediction} if rationale.prediction else frozenset()
        if emotions:
            yield from (names_label(sentence, emotions, taxonomy) for sentence in rationale.sentences)


def _neutral(rationales: Sequence[Rationale]) -> Iterator[float]:
    for rationale in rationales:
        yield from (set(labels) == {"neutral"} for labels in rationale.emotions or ())


def _normalised(rationale: Rationale) -> list[str]:
    return [" ".join(words(sentence)) for sentence in rationale.sentences]


def _repeated(rationales: Sequence[Rationale]) -> Ratio:
    sentences = [_normalised(rationale) for rationale in rationales]
    return Ratio(float(sum(len(own) - len(set(own)) for own in sentences)), float(sum(map(len, sentences))))


def _shared(rationales: Sequence[Rationale]) -> Iterator[float]:
    """Of each different sentence of a rationale, the share of the other clips' rationales that hold it, too."""
    return _held_by_others(rationales, [set(_normalised(rationale)) for rationale in rationales])


def _with_answers(rationales: Sequence[Rationale]) -> list[list[Rationale]]:
    """Rationales with a sentence, by their answers."""
    groups: dict[str | None, list[Rationale]] = defaultdict(list)
    for rationale in rationales:
        if rationale.sentences:
            groups[rationale.prediction].append(rationale)
    return list(groups.values())


def _template_sentences(rationales: Sequence[Rationale]) -> Iterator[float]:
    """The same among the clips with the same answer: what a template per class repeats."""
    for group in _with_answers(rationales):
        yield from _shared(group)


def _template_rationales(rationales: Sequence[Rationale]) -> Iterator[float]:
    """Of each rationale, the share of the other clips' with the same answer that say just the same."""
    for group in _with_answers(rationales):
        yield from _held_by_others(group, [{" ".join(_normalised(rationale))} for rationale in group])


def _held_by_others(rationales: Sequence[Rationale], texts: Sequence[Set[str]]) -> Iterator[float]:
    """Of each text of a rationale, the share of the other clips' rationales that hold it, too."""
    overall = Counter(text for own in texts for text in own)
    within: dict[str, Counter[str]] = defaultdict(Counter)
    for rationale, own in zip(rationales, texts, strict=True):
        within[rationale.clip].update(own)
    sizes = Counter(rationale.clip for rationale in rationales)
    for rationale, own in zip(rationales, texts, strict=True):
        others = len(rationales) - sizes[rationale.clip]
        if others:
            yield from ((overall[text] - within[rationale.clip][text]) / others for text in own)


def _repeated_tags(rationales: Sequence[Rationale]) -> Iterator[float]:
    for rationale in rationales:
        if rationale.completion is not None:
            yield any(rationale.completion.count(tag) > 1 for tag in TAGS)


def _negated(rationales: Sequence[Rationale]) -> Iterator[float]:
    """Of the sentences in which the verifier reads an emotion, those that negate something."""
    for rationale in rationales:
        for sentence, labels in zip(rationale.sentences, rationale.emotions or (), strict=bool(rationale.emotions)):
            if set(labels) != {"neutral"}:
                yield _NEGATION.search(_UNSEEN.sub("", sentence)) is not None


def _reward_length(rationales: Iterable[Rationale]) -> list[float]:
    """Correlation of reward with length, or nothing where one of them does not vary."""
    pairs = [(rationale.reward, float(rationale.length)) for rationale in rationales if rationale.reward is not None]
    correlation = spearman([reward for reward, _ in pairs], [length for _, length in pairs])
    return [] if correlation is None else [correlation]


def _reward_length_within(rationales: Sequence[Rationale]) -> Iterator[float]:
    groups: dict[str, list[Rationale]] = defaultdict(list)
    for rationale in rationales:
        groups[rationale.clip].append(rationale)
    for group in groups.values():
        yield from _reward_length(group)


def _readings(rationales: Sequence[Rationale]) -> Iterator[tuple[LabelSets, str, Rationale]]:
    """Label sets and target of the rationales that have both; empty rationales, which earn 0, left out."""
    for rationale in rationales:
        if rationale.emotions and rationale.target is not None:
            yield rationale.emotions, rationale.target, rationale


def _other_scores(labels: LabelSets, target: str, taxonomy: Taxonomy, classes: Iterable[str]) -> list[float]:
    return [explanation_score(labels, emotion, taxonomy) for emotion in classes if emotion not in members(target)]


def _shuffled(rationales: Sequence[Rationale], taxonomy: Taxonomy) -> Iterator[float]:
    for labels, target, _ in _readings(rationales):
        others = _other_scores(labels, target, taxonomy, taxonomy.classes)
        yield sum(others) / len(others)


def _rival(rationales: Sequence[Rationale], taxonomy: Taxonomy) -> Iterator[float]:
    """What both the target and the best-fitting other emotion give; neutral, scored by another formula, left out."""
    emotional = [emotion for emotion in taxonomy.classes if emotion != "neutral"]
    for labels, target, _ in _readings(rationales):
        if target != "neutral":
            others = _other_scores(labels, target, taxonomy, emotional)
            yield min(explanation_score(labels, target, taxonomy), max(others))


def _hedging(rationales: Sequence[Rationale], taxonomy: Taxonomy) -> Iterator[float]:
    emotional = set(taxonomy.verifier_labels) - {"neutral"}
    for rationale in rationales:
        if rationale.emotions:
            yield len(emotional.intersection(chain.from_iterable(rationale.emotions))) >= NUM_HEDGED


def _judge_gap(rationales: Sequence[Rationale], taxonomy: Taxonomy) -> Iterator[float]:
    for labels, target, rationale in _readings(rationales):
        if rationale.judged is not None:
            yield (explanation_score(labels, target, taxonomy) > IMPLIED) - (rationale.judged in members(target))


def _second(rationales: Sequence[Rationale], taxonomy: Taxonomy) -> Iterator[tuple[float, float]]:
    """Explanation reward by the verifier and by the second one."""
    for labels, target, rationale in _readings(rationales):
        if rationale.second is not None:
            theirs = explanation_score(rationale.second, target, taxonomy)
            yield explanation_score(labels, target, taxonomy), theirs


def rationale_statistics(rationales: Sequence[Rationale], taxonomy: Taxonomy) -> dict[str, Ratio]:
    """All statistics of some rationales, always under the same names; their meanings: `alarms.CHECKS`.

    Args:
        rationales: of one step, batch or run. Between clips they are compared within this sequence only.
        taxonomy: the classes of targets, predictions and verdicts.
    """
    sentences = [sentence for rationale in rationales for sentence in rationale.sentences]
    own = Ratio.of(explanation_score(labels, target, taxonomy) for labels, target, _ in _readings(rationales))
    shuffled = Ratio.of(_shuffled(rationales, taxonomy))
    second = list(_second(rationales, taxonomy))
    return {
        "label_named": Ratio.of(_label_named(rationales, taxonomy)),
        "neutral_sentences": Ratio.of(_neutral(rationales)),
        "sentences": Ratio.of(len(rationale.sentences) for rationale in rationales),
        "sentence_words": Ratio.of(len(words(sentence)) for sentence in sentences),
        "distinct_1": Ratio.of(_present(distinct(rationale, 1) for rationale in rationales)),
        "distinct_2": Ratio.of(_present(distinct(rationale, 2) for rationale in rationales)),
        "repeated_sentences": _repeated(rationales),
        "shared_sentences": Ratio.of(_shared(rationales)),
        "template_sentences": Ratio.of(_template_sentences(rationales)),
        "template_rationales": Ratio.of(_template_rationales(rationales)),
        "repeated_tags": Ratio.of(_repeated_tags(rationales)),
        "negated_sentences": Ratio.of(_negated(rationales)),
        "reward_length": Ratio.of(_reward_length(rationales)),
        "reward_length_within": Ratio.of(_reward_length_within(rationales)),
        "explanation": own,
        "explanation_shuffled": shuffled,
        "shuffled_ratio": Ratio(shuffled.total, own.total),
        "rival": Ratio.of(_rival(rationales, taxonomy)),
        "hedging": Ratio.of(_hedging(rationales, taxonomy)),
        "judge_gap": Ratio.of(_judge_gap(rationales, taxonomy)),
        "explanation_second": Ratio.of(theirs for _, theirs in second),
        "verifier_gap": Ratio.of(ours - theirs for ours, theirs in second),
    }


def _present(values: Iterable[float | None]) -> Iterator[float]:
    return (value for value in values if value is not None)
