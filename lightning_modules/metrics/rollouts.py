"""Rollouts read back: what stage 3 sampled in each step, and what it earned, for tools that look at training.

A run has a directory `rollouts/` of gzip files of JSON lines, one line per group (a clip and its completions).
`callbacks/rollouts.py` writes them.
"""

import gzip
import json
import math
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any, Self

from datamodules.emotions import Taxonomy, get_taxonomy, members
from datamodules.files.json_files import parse_json, shown
from datamodules.files.printable import printable
from datamodules.files.text import decode_utf8
from lightning_modules.metrics.predictions import PredictedSentence

ROLLOUTS_DIRECTORY = "rollouts"
"""In the directory of a run."""

_ONE_BYTE = "Not a gzipped file (b'\\x1f')"
"""Error of a member that was cut after its first byte; cut later, it is an `EOFError`."""
_NAME = re.compile(r"start(\d+)-step(\d+)-rank(\d+)-(\d+)\.jsonl\.gz")


@dataclass(frozen=True, order=True)
class RolloutFile:
    """What the name of a file says: names in their order are files in the order in which they were written.

    Args:
        start: how many times the run was started before, and resumed.
        first_step: of all files of this start.
        rank: of the process that wrote it.
        number: counted from 1, of one process since this start.
    """

    start: int
    first_step: int
    rank: int
    number: int

    @property
    def name(self) -> str:
        """The file's name."""
        return f"start{self.start:03d}-step{self.first_step:07d}-rank{self.rank:03d}-{self.number:05d}.jsonl.gz"

    @classmethod
    def of(cls, path: Path) -> Self | None:
        """What a file's name says; None of another file."""
        found = _NAME.fullmatch(path.name)
        return cls(*map(int, found.groups())) if found else None


def rollout_files(directory: Path) -> dict[RolloutFile, Path]:
    """The files of rollouts in a directory, as they were written; none where there is no such directory."""
    found = {RolloutFile.of(path): path for path in directory.glob("*.jsonl.gz")}
    return {file: found[file] for file in sorted(file for file in found if file is not None)}


@dataclass(frozen=True)
class SampledCompletion:
    """A completion of a group.

    Args:
        completion: the text as generated.
        prediction: canonical emotion of the answer; None when it names no class.
        rewards: name → what it gave before weighting; the mean of the group's others where it had nothing to say.
        total: weighted sum of the rewards.
        advantage: group-relative.
        tokens: its length.
        truncated: whether the largest length cut it short.
        sentences: of the rationale.
    """

    completion: str
    prediction: str | None
    rewards: Mapping[str, float]
    total: float
    advantage: float
    tokens: int
    truncated: bool
    sentences: tuple[PredictedSentence, ...]


@dataclass(frozen=True)
class Group:
    """The completions of a clip in a step of stage 3: a line of a file.

    Args:
        step: rollouts of the run before this one.
        id: the clip's id.
        target: canonical emotion, several joined by `_`.
        dataset: name of the corpus.
        media: path of the clip.
        transcript: what is said in it; None where the corpus does not say.
        completions: at least one.
    """

    step: int
    id: str
    target: str
    dataset: str
    media: str
    transcript: str | None
    completions: tuple[SampledCompletion, ...]

    def row(self, taxonomy: Taxonomy) -> dict[str, Any]:
        """The line as plain JSON values; `read_rollouts` reads it."""
        # Without `asdict`, which copies all that it finds and takes longer than the rest of the writing.
        completions = [
            vars(own) | {"sentences": [{"text": said.text, "emotions": said.emotions} for said in own.sentences]}
            for own in self.completions
        ]
        return vars(self) | {"completions": completions, "taxonomy": taxonomy.name}

    def figures(self) -> dict[str, float]:
        """Name → value of this group, a mean over its completions.

        `spread` is the standard deviation of the total reward, `distinct` the share of rationales that differ.
        """
        own, goals = self.completions, members(self.target)
        totals = [completion.total for completion in own]
        rationales = {tuple(sentence.text for sentence in completion.sentences) for completion in own}
        figures = {"reward": fmean(totals), "spread": pstdev(totals)}
        for name in own[0].rewards:
            figures[f"reward/{name}"] = fmean(completion.rewards[name] for completion in own)
        return figures | {
            "right": fmean(completion.prediction in goals for completion in own),
            "distinct": len(rationales) / len(own),
            "tokens": fmean(completion.tokens for completion in own),
            "truncated": fmean(completion.truncated for completion in own),
        }


@dataclass(frozen=True)
class Rollouts:
    """What is left of a run's rollouts.

    Args:
        directory: with the files.
        taxonomy: the classes.
        groups: in the order of steps; those that a resumed run made again are there once, as it made them.
        notes: what is missing, and why.
    """

    directory: Path
    taxonomy: Taxonomy
    groups: tuple[Group, ...]
    notes: tuple[str, ...]


def read_rollouts(run: str | Path) -> Rollouts:
    """Read the rollouts of a run.

    A run that was resumed at a step has made the steps from there on again: the earlier ones are left out.

    Args:
        run: directory of the run.

    Raises:
        FileNotFoundError: it has no rollouts.
        ValueError: a damaged file, a malformed line, an emotion that is no class, or several taxonomies; names file
            and line. What a killed run left half written at the end of a file is no error.
    """
    directory = Path(run) / ROLLOUTS_DIRECTORY
    files = rollout_files(directory)
    if not files:
        raise FileNotFoundError(
            f"There are no rollouts in {directory}. Give the directory of a run of stage 3 that has made a step, with "
            "--rollouts.max_megabytes above 0."
        )
    resumed = {file.start: file.first_step for file in files}
    taxonomy: Taxonomy | None = None
    groups, cut = [], 0
    for file, path in files.items():
        until = min((step for start, step in resumed.items() if start > file.start), default=math.inf)
        lines = _Lines(path)
        for content, where in lines:
            taxonomy = _taxonomy(content, where, taxonomy)
            group = _group(content, taxonomy, where)
            if group.step < until:
                groups.append(group)
        cut += lines.is_cut
    if taxonomy is None:
        raise ValueError(f"{directory} has {len(files)} files, and no whole line in them: the run ended too early.")
    groups.sort(key=lambda group: group.step)
    return Rollouts(directory, taxonomy, tuple(groups), tuple(_notes(files, cut)))


def _notes(files: Mapping[RolloutFile, Path], cut: int) -> Iterator[str]:
    last = {(file.start, file.rank): file.number for file in files}
    if dropped := sum(last.values()) - len(files):
        yield f"{dropped} files between the first and the last ones were dropped (--rollouts.max_megabytes)."
    if cut:
        yield f"{cut} of {len(files)} files end in the middle of a step, as a killed run leaves them."


class _Lines:
    """Values of the lines of a gzip file, and their `file:line`; the end may be missing (`is_cut`)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.is_cut = False

    def __iter__(self) -> Iterator[tuple[Any, str]]:
        number = 0
        try:
            with gzip.open(self.path, "rb") as file:
                for number, line in enumerate(file, 1):
                    where = f"{self.path}:{number}"
                    yield parse_json(decode_utf8(line, str(self.path), number), where), where
        except EOFError:
            self.is_cut = True
        except (gzip.BadGzipFile, zlib.error) as error:
            if str(error) == _ONE_BYTE:
                self.is_cut = True
                return
            raise ValueError(
                f"{self.path}:{number + 1}: damaged ({error}). Take the file away to read the others."
            ) from error


def _taxonomy(content: Any, where: str, known: Taxonomy | None) -> Taxonomy:
    name = content.get("taxonomy") if isinstance(content, dict) else None
    if known is not None and name == known.name:
        return known
    if known is not None or not isinstance(name, str):
        expected = "an object with a taxonomy" if known is None else f"the taxonomy {known.name}, as before"
        raise ValueError(f"{where}: got {shown(content)}; expected {expected}.")
    try:
        return get_taxonomy(name)
    except (FileNotFoundError, ValueError) as error:
        raise ValueError(f"{where}: the taxonomy: {error}") from error


class _Fields:
    """An object of a line: each field is asked for with the types that it may have."""

    def __init__(self, content: Any, where: str) -> None:
        if not isinstance(content, dict):
            raise ValueError(f"{where}: got {shown(content)}; expected an object.")
        self.content, self.where = content, where

    def __call__(self, name: str, *types: type) -> Any:
        value = self.content.get(name)
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            expected = " or ".join("null" if own is type(None) else own.__name__ for own in types)
            raise ValueError(f"{self.where}: {name} is {shown(value)}; expected {expected}.")
        return value


def _group(content: Any, taxonomy: Taxonomy, where: str) -> Group:
    fields = _Fields(content, where)
    target, completions = fields("target", str), fields("completions", list)
    _check_classes(members(target), taxonomy, "target", where)
    if not completions:
        raise ValueError(f"{where}: completions is []; expected at least one.")
    own = tuple(_completion(completion, taxonomy, where) for completion in completions)
    if len({tuple(completion.rewards) for completion in own}) > 1:
        raise ValueError(f"{where}: the completions have different rewards; expected the same of each.")
    return Group(
        step=fields("step", int),
        id=printable(fields("id", str)),
        target=target,
        dataset=printable(fields("dataset", str)),
        media=fields("media", str),
        transcript=fields("transcript", str, type(None)),
        completions=own,
    )


def _completion(content: Any, taxonomy: Taxonomy, where: str) -> SampledCompletion:
    fields = _Fields(content, where)
    prediction, rewards = fields("prediction", str, type(None)), _Fields(fields("rewards", dict), where)
    _check_classes([] if prediction is None else [prediction], taxonomy, "prediction", where)
    return SampledCompletion(
        completion=fields("completion", str),
        prediction=prediction,
        rewards={printable(name): rewards(name, int, float) for name in rewards.content},
        total=fields("total", int, float),
        advantage=fields("advantage", int, float),
        tokens=fields("tokens", int),
        truncated=fields("truncated", bool),
        sentences=tuple(_sentence(own, where) for own in fields("sentences", list)),
    )


def _sentence(content: Any, where: str) -> PredictedSentence:
    fields = _Fields(content, where)
    emotions = fields("emotions", list, type(None))
    if emotions is not None and not all(isinstance(emotion, str) for emotion in emotions):
        raise ValueError(f"{where}: emotions is {shown(emotions)}; expected names.")
    return PredictedSentence(fields("text", str), None if emotions is None else tuple(emotions))


def _check_classes(emotions: Sequence[str], taxonomy: Taxonomy, name: str, where: str) -> None:
    for emotion in emotions:
        if emotion not in taxonomy.classes:
            raise ValueError(
                f"{where}: {name} is {json.dumps(emotion)}; expected one of {taxonomy.name}: "
                f"{', '.join(taxonomy.classes)}."
            )
