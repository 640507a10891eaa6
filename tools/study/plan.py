"""A study's jobs: the commands of `main.py` that its seeds and arms need, each once, and in which folders they work.

A study is a graph per seed and arm: a job is a command line whose `{other_job}` is the folder of another job, which it
therefore waits for. An arm changes some commands; jobs whose whole commands are the same in two arms are one job.
"""

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

from datamodules.files.config_files import find_config
from datamodules.files.yaml_files import read_yaml_mapping
from tools.command_line import settled
from tools.study.jobs import Job, check_folders

_PLACE = re.compile(r"\{([A-Za-z_][\w/.-]*)\}")
_OWN_FOLDER = "\0"
"""Stands for the folder of a job until it is known whether another arm has the job already."""
_RESERVED = ("seed", "arm", "folder", "output")


@dataclass(frozen=True)
class JobTemplate:
    """A command as the study's file has it.

    Args:
        run: the command line after `main.py`.
        folder: within the seed's folder; may name `{arm}`, words and jobs. By default the job's name, with the arm's
            where the arm changes the job.
        threads: of the command; by default the study's. It takes the place of as many other jobs.
    """

    run: str
    folder: str | None = None
    threads: int | None = None


@dataclass(frozen=True)
class Arm:
    """What an arm changes.

    Args:
        add: job → words at the end of its command line, where they win over the words before.
        words: word → its text in this arm.
    """

    add: Mapping[str, str] = field(default_factory=dict)
    words: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Study:
    """The content of a study's file; docs/study.md describes the keys.

    Args:
        seeds: different numbers, at least one.
        jobs: name → command.
        arms: name → what it changes, at least one.
        result: the job whose folder holds an arm's `predictions.jsonl` (or `rows.jsonl`) and `metrics.json`.
        words: name → text that command lines may use.
        baselines: arms that every other is compared with.
        folder: of a seed, within the output.
        threads: of each job.
        truth: the `synthetic.json` of generated clips that the result was tested on, as in a command line.
        curves: job whose training is drawn → the names of its curves.
        figures: further figures of the table: name → where `metrics.json` has it, keys joined by dots.
    """

    seeds: tuple[int, ...]
    jobs: Mapping[str, JobTemplate]
    arms: Mapping[str, Arm]
    result: str
    words: Mapping[str, str] = field(default_factory=dict)
    baselines: tuple[str, ...] = ()
    folder: str = "seed_{seed}"
    threads: int = 1
    truth: str | None = None
    curves: Mapping[str, Sequence[str]] = field(default_factory=dict)
    figures: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """What is to be run.

    Args:
        output: folder of the study.
        jobs: folder → job; what a job waits for stands before it.
        folders: (arm, seed) → job's name → its folder in that arm.
        truths: seed → file, where the study names one.
    """

    output: Path
    jobs: Mapping[str, Job]
    folders: Mapping[tuple[str, int], Mapping[str, str]]
    truths: Mapping[int, Path]


def read_study(path: str | Path) -> Study:
    """Read a study's file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a key is missing, unknown or of another kind; names file and key.
    """
    content = _extended(Path(path))
    known = Study.__dataclass_fields__
    _check_keys(path, "", content, known, required=("seeds", "jobs", "arms", "result"))
    jobs = {name: _template(path, name, own) for name, own in _mapping(path, "jobs", content["jobs"]).items()}
    arms = {name: _arm(path, name, own) for name, own in _mapping(path, "arms", content["arms"]).items()}
    for key in ("result", "folder", "truth"):
        if not isinstance(content.get(key, ""), str | None):
            raise ValueError(f"{path}: {key} is {content[key]!r}. Expected text (in quotes).")
    study = Study(
        **{
            **content,
            "threads": _threads(path, "threads", content.get("threads", 1)),
            "seeds": tuple(_numbers(path, content["seeds"])),
            "jobs": jobs,
            "arms": arms,
            "words": _texts(path, "words", content.get("words") or {}),
            "baselines": tuple(_list(path, "baselines", content.get("baselines") or [])),
            "curves": _mapping(path, "curves", content.get("curves") or {}),
            "figures": _texts(path, "figures", content.get("figures") or {}),
        }
    )
    _check_names(path, study)
    return study


def _extended(path: Path) -> dict[str, Any]:
    """The content of a file, over that of the file which it `extends`: one beside it, or one known by name."""
    content = settled(read_yaml_mapping(path))
    base = content.pop("extends", None)
    if base is None:
        return content
    beside = path.parent / str(base)
    return _merged(_extended(beside if beside.is_file() else find_config(str(base))), content)


def _merged(base: Any, own: Any) -> Any:
    """Mappings are put together key by key; of all else the later one counts."""
    if not isinstance(base, dict) or not isinstance(own, dict):
        return own
    return {**base, **{key: _merged(base.get(key), value) for key, value in own.items()}}


def choose(study: Study, seeds: Sequence[int] | None, arms: Sequence[str] | None) -> Study:
    """The study with other seeds, or with some of its arms, in its own order.

    Raises:
        ValueError: an arm that the study does not have, or a seed twice.
    """
    if arms is not None:
        if unknown := [name for name in arms if name not in study.arms]:
            raise ValueError(f"The study has no arm {', '.join(unknown)}. Its arms: {', '.join(study.arms)}.")
        kept = {name: own for name, own in study.arms.items() if name in arms}
        study = replace(study, arms=kept, baselines=tuple(name for name in study.baselines if name in kept))
    return study if seeds is None else replace(study, seeds=tuple(_numbers("--seeds", list(seeds))))


def make_plan(study: Study, output: Path) -> Plan:
    """Every job of every seed and arm.

    Raises:
        ValueError: a command names something that is neither a job nor a word, jobs wait for each other in a circle, or
            a job would work where it must not (`check_folders`).
    """
    jobs: dict[tuple[str, ...], Job] = {}
    folders, truths = {}, {}
    for seed in study.seeds:
        for arm in study.arms:
            builder = _Builder(study, output, seed, arm, jobs)
            builder.folder_of(study.result)
            folders[arm, seed] = builder.own
            if study.truth is not None and seed not in truths:
                truths[seed] = Path(builder.text(study.truth, "truth"))
    check_folders(list(jobs.values()), output)
    return Plan(output, {job.folder: job for job in jobs.values()}, folders, truths)


class _Builder:
    """The jobs of one arm and seed, made in the order in which they are needed."""

    def __init__(self, study: Study, output: Path, seed: int, arm: str, jobs: dict[tuple[str, ...], Job]) -> None:
        self.study, self.output, self.seed, self.arm, self.jobs = study, output, seed, arm, jobs
        self.words = {**study.words, **study.arms[arm].words}
        try:
            TopologicalSorter(
                {word: self.words.keys() & set(_PLACE.findall(own)) for word, own in self.words.items()}
            ).prepare()
        except CycleError as error:
            raise ValueError(f"Words of arm {arm} name each other: {' → '.join(error.args[1])}.") from None
        self.own: dict[str, str] = {}
        self._changed: dict[str, bool] = {}
        self._open: list[str] = []
        self._used: list[set[str]] = []

    def folder_of(self, name: str) -> str:
        """The folder of a job in this arm, within the output; makes the job, and those that it needs."""
        if name in self._open:
            circle = " → ".join([*self._open[self._open.index(name) :], name])
            raise ValueError(f"Jobs wait for each other: {circle}.")
        if name not in self.own:
            self._open.append(name)
            self._used.append(set())
            self.own[name] = self._make(name)
            self._used.pop()
            self._open.pop()
        if self._used:
            self._used[-1].add(name)
        return self.own[name]

    def _make(self, name: str) -> str:
        template, added = self.study.jobs[name], self.study.arms[self.arm].add.get(name, "")
        words = self._line(f"{template.run} {added}", name)
        used = self._used[-1]
        needs = [job for job in self.own if job in used]
        overridden = used & set(self.study.arms[self.arm].words)
        self._changed[name] = bool(added or overridden) or any(self._changed[job] for job in needs)
        key = (str(self.seed), name, *words)
        known = self.jobs.get(key)
        if known is not None:
            self.jobs[key] = replace(known, arms=(*known.arms, self.arm))
            return known.folder
        own = template.folder or (f"{name}_{self.arm}" if self._changed[name] else name)
        within = self.text(own.replace("{arm}", self.arm), f"the folder of {name}", paths=False)
        folder = (Path(self.study.folder.replace("{seed}", str(self.seed))) / within).as_posix()
        filled = tuple(word.replace(_OWN_FOLDER, str(self.output / folder)) for word in words)
        waits = tuple(self.own[job] for job in needs)
        threads = template.threads or self.study.threads
        slots = -(-threads // self.study.threads)
        self.jobs[key] = Job(name, self.seed, folder, filled, waits, threads, slots, (self.arm,))
        return folder

    def _line(self, line: str, where: str) -> list[str]:
        """A command line's words; a word of the study's that stands alone may become several."""
        try:
            parts = shlex.split(line)
        except ValueError as error:
            raise ValueError(f"The command of {where} cannot be split into words ({error}): {line}") from error
        words = []
        for part in parts:
            alone = _PLACE.fullmatch(part)
            if alone and alone[1] in self.words:
                self._note(alone[1])
                words += self._line(self.words[alone[1]], where)
            else:
                words.append(self.text(part, where))
        return words

    def text(self, text: str, where: str, paths: bool = True) -> str:
        """A text with what it names; jobs as paths, or as what they are called within the seed's folder."""

        def value(match: re.Match[str]) -> str:
            name = match[1]
            if name in self.words:
                self._note(name)
                return self.text(self.words[name], where, paths)
            if name in self.study.jobs:
                folder = self.folder_of(name)
                seed_folder = self.study.folder.replace("{seed}", str(self.seed))
                return str(self.output / folder) if paths else Path(folder).relative_to(seed_folder).as_posix()
            if name == "folder":
                return _OWN_FOLDER
            if name in ("seed", "output"):
                return str(self.seed if name == "seed" else self.output)
            known = ", ".join(("seed", "folder", "output", *self.words, *self.study.jobs))
            raise ValueError(f"{where} names {{{name}}}, which is none of: {known}.")

        return _PLACE.sub(value, text)

    def _note(self, word: str) -> None:
        if self._used:
            self._used[-1].add(word)


def _template(path: str | Path, name: str, own: Any) -> JobTemplate:
    own = _mapping(path, f"jobs.{name}", {"run": own} if isinstance(own, str) else own)
    _check_keys(path, f"jobs.{name}.", own, JobTemplate.__dataclass_fields__, required=("run",))
    for key in ("run", "folder"):
        if key in own and not (isinstance(own[key], str) and own[key].strip()):
            raise ValueError(f"{path}: jobs.{name}.{key} is {own[key]!r}. Expected text (in quotes).")
    threads = own.get("threads")
    return JobTemplate(
        own["run"], own.get("folder"), None if threads is None else _threads(path, f"jobs.{name}.threads", threads)
    )


def _arm(path: str | Path, name: str, own: Any) -> Arm:
    own = _mapping(path, f"arms.{name}", own or {})
    _check_keys(path, f"arms.{name}.", own, Arm.__dataclass_fields__, required=())
    return Arm(**{key: _texts(path, f"arms.{name}.{key}", value) for key, value in own.items()})


def _check_keys(path: str | Path, place: str, own: Mapping[str, Any], known: Iterable[str], required: Sequence[str]):
    known = list(known)
    if unknown := [f"{place}{key}" for key in own if key not in known]:
        raise ValueError(f"{path}: unknown key {', '.join(unknown)}. Expected {', '.join(known)}.")
    if missing := [f"{place}{key}" for key in required if key not in own]:
        raise ValueError(f"{path}: {', '.join(missing)} is missing.")


def _check_names(path: str | Path, study: Study) -> None:
    """Raise a ValueError where one part of the study names what another does not have."""
    if clash := [name for name in (*study.jobs, *study.words) if name in _RESERVED]:
        raise ValueError(f"{path}: {clash[0]!r} has a meaning of its own in a command line. Choose another name.")
    if both := [name for name in study.words if name in study.jobs]:
        raise ValueError(f"{path}: {both[0]!r} is both a job and a word. Choose another name for one of them.")
    named = {
        "result": [study.result],
        "curves": list(study.curves),
        **{f"arms.{name}.add": list(arm.add) for name, arm in study.arms.items()},
    }
    places = [(place, name, study.jobs, "job") for place, names in named.items() for name in names]
    places += [("baselines", name, study.arms, "arm") for name in study.baselines]
    places += [
        (f"arms.{arm}.words", name, study.words, "word") for arm, own in study.arms.items() for name in own.words
    ]
    for place, name, known, kind in places:
        if name not in known:
            raise ValueError(
                f"{path}: {place} names {name!r}, which is no {kind} of the study: {', '.join(known) or 'none'}."
            )


def _mapping(path: str | Path, key: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        raise ValueError(f"{path}: {key} is {value!r}. Expected names, each with its own.")
    return value


def _list(path: str | Path, key: str, value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{path}: {key} is {value!r}. Expected a list.")
    return value


def _texts(path: str | Path, key: str, value: Any) -> dict[str, str]:
    own = _mapping(path, key, value)
    if wrong := [name for name, text in own.items() if not isinstance(text, str)]:
        raise ValueError(f"{path}: {key}.{wrong[0]} is {own[wrong[0]]!r}. Expected text (in quotes).")
    return own


def _threads(path: str | Path, key: str, value: Any) -> int:
    if type(value) is not int or value < 1:
        raise ValueError(f"{path}: {key} is {value!r}. Expected a whole number, 1 or more.")
    return value


def _numbers(path: str | Path, value: Any) -> list[int]:
    numbers = _list(path, "seeds", value)
    if not numbers or any(type(seed) is not int or seed < 0 for seed in numbers) or len(set(numbers)) < len(numbers):
        raise ValueError(f"{path}: seeds is {value!r}. Expected different whole numbers, each 0 or more.")
    return numbers
