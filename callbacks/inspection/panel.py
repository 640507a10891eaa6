"""What is shown of a clip: what the model got, what it said, and what that was worth. Plain data on the CPU.

`markdown` and `drawing` render the same panels.

Shape legend: T frames, H × W pixels, S audio samples (16 kHz mono), B prompts, G completions per prompt.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from torch import Tensor

from callbacks.rewards import accuracy_score
from datamodules.batch import ClipBatch
from datamodules.emotions import Taxonomy
from datamodules.files.printable import readable_name
from datamodules.rationale import Response
from lightning_modules.coherence import Relation, relation
from lightning_modules.emotion_verifier import SentenceReading
from lightning_modules.evaluation import Evaluation
from lightning_modules.metrics.reliance import Reliance
from lightning_modules.rl.experience import Experience, group_rows

T = TypeVar("T")


@dataclass(frozen=True)
class ShownSentence:
    """A sentence of a rationale.

    Args:
        text: as generated.
        emotions: the verifier's label set, most probable first; empty without a verifier.
        relation: to the target; None without a verifier or, mostly, without a target (see `relation`).
        reliance: what it rests on; None where that was not measured.
    """

    text: str
    emotions: tuple[str, ...] = ()
    relation: Relation | None = None
    reliance: Reliance | None = None


@dataclass(frozen=True)
class ShownCompletion:
    """A completion and what it was worth.

    Args:
        response: the completion, read.
        sentences: of its rationale.
        correct: whether the answer is the target; None without a target.
        rewards: name → reward before weighting; empty in an evaluation.
        advantage: group-relative advantage; None in an evaluation.
        verdict: the judge's emotion of the rationale; None where there is no judge or its reply is invalid.
    """

    response: Response
    sentences: tuple[ShownSentence, ...]
    correct: bool | None
    rewards: Mapping[str, float] = field(default_factory=dict)
    advantage: float | None = None
    verdict: str | None = None


@dataclass(frozen=True, eq=False)
class Panel:
    """A clip with its completions.

    Args:
        id: the clip's id.
        target: canonical emotion, several joined by `_`; None without a label.
        frames: uint8 RGB `[T, 3, H, W]`.
        waveform: float32 `[S]` at 16 kHz; empty when there is no sound.
        duration_seconds: of the clip; 0 when unknown.
        failure: why the clip could not be decoded, or None.
        completions: at least one; several are the completions of one group.
        taxonomy: the classes of the target.
        judge: who gave the verdicts; None without a judge, and in training.
        has_video: False for sound alone.
    """

    id: str
    target: str | None
    frames: Tensor
    waveform: Tensor
    duration_seconds: float
    failure: str | None
    completions: tuple[ShownCompletion, ...]
    taxonomy: Taxonomy
    judge: str | None = None
    has_video: bool = True

    @property
    def is_unread(self) -> bool:
        """Whether it has sentences that no verifier read."""
        sentences = [sentence for completion in self.completions for sentence in completion.sentences]
        return bool(sentences) and not any(sentence.emotions for sentence in sentences)


def panel_rows(panels: Sequence[Panel]) -> list[dict[str, str | float | None]]:
    """The completions of some panels as rows of one table, plain text in it."""
    rows = []
    for panel in panels:
        for completion in panel.completions:
            row: dict[str, str | float | None] = {"clip": readable_name(panel.id), "target": panel.target}
            row |= {"answer": completion.response.answer, "completion": completion.response.completion}
            if completion.advantage is None:
                rows.append(row | {"judged": completion.verdict})
            else:
                rows.append(row | dict(completion.rewards) | {"advantage": completion.advantage})
    return rows


def _panel(
    batch: ClipBatch,
    row: int,
    completions: Sequence[ShownCompletion],
    taxonomy: Taxonomy,
    judge: str | None = None,
) -> Panel:
    length = int(batch.waveform_lengths[row]) if bool(batch.has_audio[row]) else 0
    return Panel(
        id=batch.ids[row],
        target=batch.targets[row],
        frames=batch.frames[row].cpu(),
        waveform=batch.waveform[row, :length].float().cpu(),
        duration_seconds=float(batch.durations_seconds[row]),
        failure=batch.failures[row],
        completions=tuple(completions),
        taxonomy=taxonomy,
        judge=judge,
        has_video=bool(batch.has_video[row]),
    )


def shown_sentences(
    response: Response,
    readings: Sequence[SentenceReading] | None,
    reliances: Sequence[Reliance] | None,
    target: str | None,
    taxonomy: Taxonomy,
) -> tuple[ShownSentence, ...]:
    """The sentences of a rationale as the verifier reads them, and what they rest on, where either is known."""
    read = [()] * len(response.sentences) if readings is None else [own.emotions for own in readings]
    rested = [None] * len(response.sentences) if reliances is None else reliances
    return tuple(
        ShownSentence(text, emotions, None if readings is None else relation(emotions, target, taxonomy), reliance)
        for text, emotions, reliance in zip(response.sentences, read, rested, strict=True)
    )


def _at(values: Sequence[T] | None, row: int) -> T | None:
    return None if values is None else values[row]


def is_correct(prediction: str | None, target: str | None) -> bool | None:
    """Whether an emotion is the target, or one of a compound target's; None without a target."""
    return None if target is None else accuracy_score(prediction, target) == 1.0


def clip_panels(evaluation: Evaluation, taxonomy: Taxonomy, judge: str | None, count: int) -> Iterator[Panel]:
    """Panels of the first clips of an evaluated batch.

    Args:
        evaluation: the batch and what the policy said.
        taxonomy: the classes.
        judge: name of the judge; None without one.
        count: at most so many.
    """
    batch, verdicts = evaluation.batch, evaluation.verdicts
    for row, response in enumerate(evaluation.responses[:count]):
        target = batch.targets[row]
        completion = ShownCompletion(
            response,
            shown_sentences(response, _at(evaluation.readings, row), _at(evaluation.reliances, row), target, taxonomy),
            is_correct(response.prediction, target),
            verdict=None if verdicts is None else verdicts[row],
        )
        yield _panel(batch, row, [completion], taxonomy, judge)


def choose_groups(total: Tensor, group_size: int) -> dict[str, int]:
    """The groups worth a look: `best` and `worst` (mean reward) and `most_divided` (greatest standard deviation).

    Args:
        total: weighted sum of the rewards, float32 `[B·G]`.
        group_size: G.

    Returns:
        Name → prompt, the first among equals. Of a single group only `most_divided`: it is all three.
    """
    groups = total.view(-1, group_size)
    divided = {"most_divided": int(groups.std(dim=1).argmax())}
    if len(groups) == 1:
        return divided
    means = groups.mean(dim=1)
    return {"best": int(means.argmax()), "worst": int(means.argmin()), **divided}


def group_panel(experience: Experience, prompt: int, taxonomy: Taxonomy) -> Panel:
    """Panel of a prompt's group, the completion with the greatest total reward first."""
    rollout = experience.rollout
    rows = group_rows([prompt], rollout.group_size)
    rows.sort(key=experience.total.tolist().__getitem__, reverse=True)
    rewards = {name: values.tolist() for name, values in experience.rewards.items()}
    advantages = experience.advantages.tolist()
    completions = [
        ShownCompletion(
            rollout.responses[row],
            shown_sentences(
                rollout.responses[row],
                _at(experience.readings, row),
                _at(experience.reliances, row),
                rollout.targets[row],
                taxonomy,
            ),
            is_correct(rollout.responses[row].prediction, rollout.targets[row]),
            {name: values[row] for name, values in rewards.items()},
            advantages[row],
        )
        for row in rows
    ]
    return _panel(rollout.batch, prompt, completions, taxonomy)
