"""Reward-hacking alarms: signs that a policy has learnt to please the verifier instead of explaining.

No alarm proves anything: each says which rationales to read. `rationale_statistics` computes the statistics.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from datamodules.emotions import Taxonomy
from lightning_modules.metrics.predictions import Prediction
from lightning_modules.metrics.rationale_statistics import (
    Ratio,
    Rationale,
    count_words,
    rationale_statistics,
)

Bounds = tuple[float | None, float | None]
"""Lowest and highest value without a warning; None: no bound."""


@dataclass(frozen=True)
class Alarm:
    """A statistic and the range in which it says nothing.

    Args:
        name: of the statistic.
        value: the statistic; None where it is undefined: nothing to measure it on, or no variation.
        low: a smaller value warns; None: none does.
        high: a larger value warns; None: none does.
        meaning: what the value is.
        advice: what to look at when it warns.
    """

    name: str
    value: float | None
    low: float | None
    high: float | None
    meaning: str
    advice: str

    @property
    def warns(self) -> bool:
        """Whether the value is out of its range."""
        if self.value is None:
            return False
        return (self.low is not None and self.value < self.low) or (self.high is not None and self.value > self.high)

    @property
    def expected(self) -> str:
        """The range in words, e.g. `at most 0.3`."""
        if self.low is not None and self.high is not None:
            return f"{self.low:g} to {self.high:g}"
        if self.low is not None:
            return f"at least {self.low:g}"
        return "anything" if self.high is None else f"at most {self.high:g}"


@dataclass(frozen=True)
class Check:
    """What there is to know of a statistic beside its value; fields as in `Alarm`."""

    low: float | None
    high: float | None
    meaning: str
    advice: str


CHECKS: dict[str, Check] = {
    "label_named": Check(
        None,
        0.5,
        "share of sentences that say the target's or the answer's name (class, alias or verifier label)",
        "Rationales that assert the emotion instead of describing evidence: read the sentences, mask the words.",
    ),
    "neutral_sentences": Check(
        None,
        0.8,
        "share of sentences in which the verifier reads nothing but neutral",
        "The reward counts emotional sentences only, so a single one can earn all of it: read where it stands.",
    ),
    "sentences": Check(
        1.5,
        15.0,
        "mean number of sentences per rationale",
        "Vanishing or padded rationales: look at completion lengths, truncation and the format reward.",
    ),
    "sentence_words": Check(
        4.0,
        40.0,
        "mean number of words per sentence",
        "Fragments, or sentences run together so that the verifier reads many claims as one.",
    ),
    "distinct_1": Check(
        0.3,
        None,
        "distinct words over all words of a rationale, mean over rationales",
        "Words repeated within rationales: read the longest ones; raise the KL penalty.",
    ),
    "distinct_2": Check(
        0.5,
        None,
        "distinct word pairs over all word pairs of a rationale, mean over rationales",
        "Phrases repeated within rationales: read the longest ones; raise the KL penalty.",
    ),
    "repeated_sentences": Check(
        None,
        0.1,
        "share of sentences that repeat an earlier one of the same rationale",
        "A rewarded sentence said again and again: read the rationales with the highest reward.",
    ),
    "shared_sentences": Check(
        None,
        0.2,
        "share of the other clips' rationales that hold the same sentence, mean over sentences",
        "Templates that do not depend on the clip: list the most frequent sentences; run the modality ablation.",
    ),
    # Of demo runs, the cold start has 8 rationales per answer in effect, GRPO with the explanation reward 2.
    "template_sentences": Check(
        None,
        0.33,
        "share of the other clips' rationales with the same answer that hold the same sentence, mean over sentences",
        "A template per class: read the rationales of one class beside its clips; run the modality ablation.",
    ),
    "template_rationales": Check(
        None,
        0.33,
        "share of the other clips' rationales with the same answer that are the same, mean over rationales; 1 over it "
        "is the effective number of different rationales per answer",
        "A rationale per class, whatever the clip: as template_sentences.",
    ),
    "repeated_tags": Check(
        None,
        0.05,
        "share of completions with a tag more than once",
        "Two rationales or two answers, of which the published reading takes the first: set model.strict to true.",
    ),
    "negated_sentences": Check(
        None,
        0.4,
        "share of the sentences with an emotion, as the verifier reads it, that hold a negation",
        "The verifier may read `not angry` as anger: read these sentences, and what a judge says of them.",
    ),
    "reward_length": Check(
        -0.5,
        0.5,
        "Spearman correlation of reward with length, over all rationales",
        "Length itself may be rewarded, or truncation punished: compare the shortest and the longest rationales.",
    ),
    "reward_length_within": Check(
        -0.5,
        0.5,
        "Spearman correlation of reward with length within the completions of a clip, mean over clips",
        "The gradient pushes length: compare the shortest and longest completions of a group, and their rewards.",
    ),
    "explanation": Check(
        None,
        None,
        "mean explanation reward of the rationales that have a sentence",
        "Nothing by itself: what the other figures are compared with.",
    ),
    "explanation_shuffled": Check(
        None,
        None,
        "mean explanation reward of the same rationales against every other class",
        "Nothing by itself: see shuffled_ratio.",
    ),
    "shuffled_ratio": Check(
        None,
        0.5,
        "explanation reward against every other class, over that against the own target",
        "The reward hardly depends on the target: chance, or rationales that suit every clip. Compare with WAR.",
    ),
    "rival": Check(
        None,
        0.4,
        "explanation reward that the target and another emotion would both give, mean over emotional clips",
        "Rationales that please two targets at once: read sentences with two labels, and the hedging figure.",
    ),
    "hedging": Check(
        None,
        0.3,
        "share of rationales whose sentences express three or more emotions of the taxonomy, neutral apart",
        "Rationales that name something for every target: read some of them, and compare their rewards.",
    ),
    "judge_gap": Check(
        None,
        0.15,
        "share of rationales that the reward says to express the target, minus the judge's share",
        "The verifier is pleased and the judge is not: read the clips on which they differ.",
    ),
    "explanation_second": Check(
        None,
        None,
        "mean explanation reward by the second verifier, which gives no reward",
        "Nothing by itself: see verifier_gap.",
    ),
    "verifier_gap": Check(
        None,
        0.15,
        "mean explanation reward by the training verifier minus that by the second one",
        "What is gained may hold for one classifier only: read the sentences on which the two differ. A weaker second "
        "verifier has a gap from the start; what counts then is whether it grows.",
    ),
}
"""Every alarm with its default range: wide enough for readable rationales to stay silent."""


def make_alarms(ratios: Mapping[str, Ratio], thresholds: Mapping[str, Bounds] | None = None) -> list[Alarm]:
    """Statistics with their ranges, in the order of `CHECKS`.

    Args:
        ratios: of `rationale_statistics`, or sums of several.
        thresholds: name → (low, high), instead of the defaults.

    Raises:
        ValueError: thresholds of an unknown name, or low above high.
    """
    check_thresholds(thresholds or {})
    alarms = []
    for name, check in CHECKS.items():
        low, high = (thresholds or {}).get(name, (check.low, check.high))
        alarms.append(Alarm(name, ratios[name].value, low, high, check.meaning, check.advice))
    return alarms


def check_thresholds(thresholds: Mapping[str, Bounds]) -> None:
    """Refuse ranges that make no sense.

    Raises:
        ValueError: an unknown name, or low above high.
    """
    for name, (low, high) in thresholds.items():
        if name not in CHECKS:
            raise ValueError(f"There is no alarm {name!r} to set thresholds of. Expected one of: {', '.join(CHECKS)}.")
        if low is not None and high is not None and low > high:
            raise ValueError(
                f"The thresholds of {name!r} are [{low}, {high}]. Expected [low, high], either may be null."
            )


def prediction_alarms(
    predictions: Sequence[Prediction], taxonomy: Taxonomy, thresholds: Mapping[str, Bounds] | None = None
) -> list[Alarm]:
    """Alarms of a finished run; clips that could not be decoded are left out.

    The reward is the sum of the rewards that a line holds, the length that of the rationale in words. There is no
    second verifier, and one rationale per clip.

    Args:
        predictions: of `read_predictions`.
        taxonomy: the classes of the file.
        thresholds: name → (low, high), instead of the defaults.

    Raises:
        ValueError: thresholds of an unknown name, or low above high.
    """
    rationales = [predicted_rationale(prediction) for prediction in predictions if prediction.failure is None]
    return make_alarms(rationale_statistics(rationales, taxonomy), thresholds)


def predicted_rationale(prediction: Prediction) -> Rationale:
    """A prediction as alarms see it."""
    sentences = tuple(sentence.text for sentence in prediction.sentences)
    read = [sentence.emotions for sentence in prediction.sentences if sentence.emotions is not None]
    rewards = (prediction.format, prediction.accuracy, prediction.explanation)
    return Rationale(
        clip=prediction.id,
        sentences=sentences,
        emotions=tuple(read) if len(read) == len(sentences) else None,
        target=prediction.target,
        prediction=prediction.prediction,
        reward=sum(reward for reward in rewards if reward is not None),
        length=count_words(sentences),
        judged=prediction.judged,
        completion=prediction.completion,
    )
