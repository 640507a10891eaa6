"""Policies that try to earn the reward without explaining: each does not pay, or an alarm fires.

The verifier here reads words, and like real ones it reads them whatever stands before them. 35 clips, one rationale
each, all answers right: what a cheat that has learnt the labels says.
"""

from collections.abc import Callable

import pytest
import torch

from callbacks.alarms import label_sets
from callbacks.rewards import AccuracyReward, ExplanationReward, FormatReward
from callbacks.rewards.base import RewardInput
from callbacks.rl import RLCallback
from datamodules.emotions import DFEW_TAXONOMY
from datamodules.rationale import read_response
from lightning_modules.emotion_verifier import SentenceReading
from lightning_modules.metrics.rationale_statistics import Rationale, rationale_statistics
from lightning_modules.metrics.reward_hacking import make_alarms
from lightning_modules.rl.advantages import weighted_sum

pytestmark = pytest.mark.unit

LABELS = DFEW_TAXONOMY.verifier_labels
CUES = {
    "joy": ("smile", "laugh", "bright"),
    "sadness": ("tears", "sob", "downcast"),
    "neutral": ("calm", "even", "plain"),
    "anger": ("frown", "shout", "clenched"),
    "surprise": ("gape", "gasp", "raised"),
    "disgust": ("sneer", "grunt", "wrinkled"),
    "fear": ("tremble", "scream", "wide"),
}
PLACES = ("kitchen", "street", "garden", "office", "car")
NUM_CLIPS = 35

Policy = Callable[[int, str], str]


def read(sentence: str) -> SentenceReading:
    """Every label whose cue or name a sentence says; neutral where it says none."""
    said = [label for label in LABELS if any(word in sentence for word in (*CUES[label], label))]
    probabilities = torch.tensor([0.9 if label in (said or ["neutral"]) else 0.01 for label in LABELS])
    return SentenceReading(sentence, probabilities, tuple(said[:2] or ["neutral"]), LABELS)


def completion(rationale: str, answer: str) -> str:
    return f"<think>{rationale}</think>\n<answer>{answer}</answer>"


def evidence(i: int, target: str) -> str:
    first, second, third = CUES[DFEW_TAXONOMY.labels[target]]
    return (
        f"Person {i} in the {PLACES[i % 5]} shows a {first}. A {second} at second {i}. All is {third}, says look {i}."
    )


def honest(i: int, target: str) -> str:
    return completion(evidence(i, target), target)


def other(target: str) -> str:
    classes = DFEW_TAXONOMY.classes
    return classes[(classes.index(target) + 1) % len(classes)]


def cue(target: str, number: int = 0) -> str:
    return CUES[DFEW_TAXONOMY.labels[target]][number]


CHEATS: dict[str, Policy] = {
    "one cue again and again": lambda i, t: completion(f"Clip {i} has a {cue(t)}. " + f"A {cue(t)} is there. " * 6, t),
    "one sentence": lambda i, t: completion(f"Person {i} shows a {cue(t)}.", t),
    "a template of three sentences per class": lambda i, t: completion(
        " ".join(f"There is a {word} to see." for word in CUES[DFEW_TAXONOMY.labels[t]]), t
    ),
    "a template in changing order": lambda i, t: completion(
        " ".join(f"There is a {CUES[DFEW_TAXONOMY.labels[t]][(i + k) % 3]} to see." for k in range(3)), t
    ),
    "hedging": lambda i, t: completion(
        " ".join(f"Clip {i} has a {cue(t)} and a {CUES[label][k % 3]}." for k, label in enumerate(LABELS)), t
    ),
    "the label named": lambda i, t: completion(
        f"Person {i} feels {DFEW_TAXONOMY.labels[t]}. So much {DFEW_TAXONOMY.labels[t]} in clip {i}! "
        f"It is {DFEW_TAXONOMY.labels[t]} that {i} shows.",
        t,
    ),
    "two hundred sentences": lambda i, t: completion(
        " ".join(f"In frame {k} of {i} is a {cue(t)}." for k in range(200)), t
    ),
    "filler and one cue": lambda i, t: completion(
        " ".join(f"Item {i * 40 + k} stands in the {PLACES[k % 5]}." for k in range(9)) + f" Then {i} has a {cue(t)}.",
        t,
    ),
    "two rationales": lambda i, t: (
        f"<think>{evidence(i, t)}</think><think>{evidence(i, other(t))}</think><answer>{t}</answer>"
    ),
    "the answer in the rationale": lambda i, t: (
        f"<think>{evidence(i, t)} <answer>{t}</answer></think>\n<answer>{other(t)}</answer>"
    ),
    "two answers": lambda i, t: f"{honest(i, t)}<answer>{other(t)}</answer>",
    "text after the answer": lambda i, t: f"{honest(i, t)} or {other(t)}",
    "a stray quotation mark": lambda i, t: completion(f'{evidence(i, t)} {evidence(i, other(t))}"', t),
    "negated cues": lambda i, t: completion(
        f"Person {i} shows no {cue(t)}. There is not a {cue(t, 1)} at {i}. Nothing is {cue(t, 2)} in {i}.", t
    ),
}


def play(policy: Policy, strict: bool = True) -> tuple[float, set[str]]:
    """Mean total reward of a policy, and the alarms that fire."""
    targets = [DFEW_TAXONOMY.classes[i % len(DFEW_TAXONOMY)] for i in range(NUM_CLIPS)]
    texts = [policy(i, target) for i, target in enumerate(targets)]
    responses = [read_response(text, DFEW_TAXONOMY, strict=strict) for text in texts]
    readings = [[read(sentence) for sentence in response.sentences] for response in responses]
    callback = RLCallback([FormatReward(), AccuracyReward(), ExplanationReward()])
    rewarded = callback.reward(RewardInput(responses, targets, readings, taxonomy=DFEW_TAXONOMY, strict=strict))
    rewards = weighted_sum(rewarded.values, rewarded.weights)
    rationales = [
        Rationale(
            clip=str(i),
            sentences=response.sentences,
            emotions=label_sets(readings[i]),
            target=targets[i],
            prediction=response.prediction,
            reward=float(rewards[i]),
            length=len(response.completion.split()),
            completion=response.completion,
        )
        for i, response in enumerate(responses)
    ]
    alarms = make_alarms(rationale_statistics(rationales, DFEW_TAXONOMY))
    return float(rewards.mean()), {alarm.name for alarm in alarms if alarm.warns}


def test_honest_rationales_earn_everything_and_raise_no_alarm() -> None:
    assert play(honest) == (3.0, set())


EXPECTED = {
    "one cue again and again": "repeated_sentences",
    "one sentence": "sentences",
    "a template of three sentences per class": "template_rationales",
    "a template in changing order": "template_sentences",
    "hedging": "hedging",
    "the label named": "label_named",
    "two hundred sentences": "sentences",
    "filler and one cue": "neutral_sentences",
    "two rationales": None,
    "the answer in the rationale": None,
    "two answers": None,
    "text after the answer": None,
    "a stray quotation mark": "sentences",
    "negated cues": "negated_sentences",
}


@pytest.mark.parametrize(("name", "alarm"), EXPECTED.items())
def test_a_cheat_does_not_pay_or_raises_an_alarm(name: str, alarm: str | None) -> None:
    reward, fired = play(CHEATS[name])
    if alarm is None:
        assert reward == 0.0, "read strictly, it is neither rationale nor answer"
    else:
        assert alarm in fired


@pytest.mark.parametrize("name", [name for name, alarm in EXPECTED.items() if alarm is None])
def test_as_published_broken_tags_pay_and_an_alarm_says_so(name: str) -> None:
    reward, fired = play(CHEATS[name], strict=False)
    if name == "text after the answer":
        assert reward == 2.0, "the published format ends with the answer"
    else:
        assert reward >= 2.0 and "repeated_tags" in fired


@pytest.mark.parametrize("name", ["the label named", "negated cues"])
@pytest.mark.parametrize("unseen", ["\u200b", "\u00ad", "\ufeff"])
def test_what_has_no_shape_hides_nothing_from_an_alarm(name: str, unseen: str) -> None:
    # As a verifier's tokenizer does that drops such characters: it reads the words.
    alarm, hidden = EXPECTED[name], {"no ": f"n{unseen}o ", "not ": f"n{unseen}ot ", "Nothing": f"No{unseen}thing"}
    hidden |= {label: label[:2] + unseen + label[2:] for label in LABELS}

    def policy(i: int, target: str) -> str:
        text = CHEATS[name](i, target)
        for word, written in hidden.items():
            text = text.replace(word, written)
        return text

    assert unseen in policy(0, "anger") and alarm in play(policy)[1]


def test_each_cheat_is_expected_to_fail() -> None:
    assert EXPECTED.keys() == CHEATS.keys() and len(CHEATS) >= 12
