"""A study's job, and where jobs may work: what a job is begun anew in is removed first."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

RECORDS = "jobs"
"""Folder of the logs and records, within a study's output."""


@dataclass(frozen=True)
class Job:
    """A command that is run once.

    Args:
        name: of its template.
        seed: of the study.
        folder: its own, within the output; no other job has it.
        words: the command after `main.py`.
        needs: folders of the jobs that it waits for.
        threads: that it may use.
        slots: workers whose place it takes, for these threads.
        arms: that need it.
    """

    name: str
    seed: int
    folder: str
    words: tuple[str, ...]
    needs: tuple[str, ...]
    threads: int
    slots: int
    arms: tuple[str, ...]


def check_folders(jobs: Sequence[Job], output: Path) -> None:
    """Refuse folders in which one job could remove what is not its own.

    Args:
        jobs: of a study, each after those that it needs.
        output: folder of the study.

    Raises:
        ValueError: two jobs with one folder, one in the folder of another that it does not wait for, or one outside the
            output, or in the place of the records.
    """
    by_folder: dict[str, Job] = {}
    for job in jobs:
        parts = PurePosixPath(job.folder).parts
        if not parts or parts[0] in ("/", RECORDS) or ".." in parts:
            raise ValueError(
                f"`{shlex.join(job.words)}` would work in {output / job.folder}, where it could remove what others "
                f"have written. Give {job.name} a `folder` of its own within {output}, and not in {output / RECORDS}."
            )
        if other := by_folder.get(job.folder):
            raise ValueError(
                f"Two jobs would work in {output / job.folder}: `{shlex.join(other.words)}` of seed {other.seed} and "
                f"`{shlex.join(job.words)}` of seed {job.seed}. Let `folder` have {{arm}}, or the study's {{seed}}."
            )
        by_folder[job.folder] = job
    for job in jobs:
        before = _before(job, by_folder)
        for outer in map(str, PurePosixPath(job.folder).parents):
            if outer in by_folder and outer not in before:
                raise ValueError(
                    f"{job.name} would work in {output / job.folder}, within the folder of {by_folder[outer].name}, "
                    "which it does not wait for and which may remove it. Let its command name "
                    f"{{{by_folder[outer].name}}}, or give it another `folder`."
                )


def _before(job: Job, by_folder: Mapping[str, Job]) -> set[str]:
    """Folders of all jobs that have ended before one begins."""
    before: set[str] = set()
    left = list(job.needs)
    while left:
        folder = left.pop()
        if folder not in before:
            before.add(folder)
            left += by_folder[folder].needs
    return before
