"""What a study keeps of its jobs in `jobs/`: each one's log, and a record of the command that made its folder.

The record is written when a job starts and again when it ends, so that the same study goes on where it was stopped.
"""

import fcntl
import hashlib
import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import IO, Any, Literal

from datamodules.files.config_files import find_config
from datamodules.files.json_files import read_json_object
from datamodules.files.writing import write_json
from tools.study.jobs import RECORDS, Job

State = Literal["new", "stopped", "finished", "changed", "outdated"]
"""`stopped`: begun with this very command. `changed`: made by another command or configuration. `outdated`: made from
what another job has since made anew."""


class Records:
    """The records of a study's jobs.

    Args:
        output: folder of the study.
    """

    def __init__(self, output: Path) -> None:
        self.output = output

    def log(self, job: Job) -> Path:
        """File of what a job prints."""
        return self.output / RECORDS / f"{job.folder}.log"

    def state(self, job: Job) -> State:
        """How far a job is.

        Raises:
            FileExistsError: its folder is there, and was made by no job.
        """
        record, folder = self._read(job), self.output / job.folder
        if not record:
            if folder.is_symlink() or (folder.exists() and self._holds_others(folder)):
                raise FileExistsError(
                    f"{folder} has files that no job of this study has written. Choose another --output, or remove it."
                )
            return "new"
        if not folder.is_dir():
            return "new"
        if _made_by(record) != _made_by(self._begun(job)):
            return "changed"
        if record["needs"] != self._stamps(job):
            return "outdated"
        return "finished" if record["finished"] is not None else "stopped"

    def _holds_others(self, place: Path) -> bool:
        """Whether something lies at a place, or anywhere below, that no job has written: it would be removed."""
        if place.is_symlink() or not place.is_dir():
            return True
        # The folders of other jobs may lie in that of a job.
        below = [
            path for path in place.iterdir() if not self._record(path.relative_to(self.output).as_posix()).is_file()
        ]
        return any(self._holds_others(path) for path in below)

    def change(self, job: Job) -> str:
        """What differs between the command that made a job's folder and the one that would make it now."""
        before, now = self._read(job), self._begun(job)
        if before["command"] != now["command"]:
            return f"`{shlex.join(before['command'])}` made it, now it is `{shlex.join(now['command'])}`"
        files = [name for name, digest in now["configs"].items() if before["configs"].get(name) != digest]
        return f"{', '.join(files)} changed since"

    def begin(self, job: Job, anew: bool) -> None:
        """Note that a job starts, in an empty place unless it goes on."""
        if anew:
            shutil.rmtree(self.output / job.folder, ignore_errors=True)
        (self.output / job.folder).parent.mkdir(parents=True, exist_ok=True)
        write_json(self._file(job), {**self._begun(job), "seconds": None, "finished": None})

    def finish(self, job: Job, seconds: float, when: str) -> None:
        """Note that a job is done: the last that is written of it.

        Args:
            job: that ended without an error.
            seconds: that it took.
            when: it ended, different for each time.
        """
        write_json(self._file(job), {**self._read(job), "seconds": round(seconds, 1), "finished": when})

    def seconds(self, job: Job) -> float | None:
        """How long a finished job took."""
        return self._read(job).get("seconds")

    @contextmanager
    def open_log(self, job: Job, anew: bool) -> Iterator[IO[bytes]]:
        """The log to write to. It is locked until the last process that was given it has ended.

        Raises:
            BlockingIOError: a process of the job still runs, for instance of a study that was killed.
        """
        file = self.log(job)
        with _locked(
            file, f"{job.folder} is still being run: a process holds {file}. Wait for its end, or stop it."
        ) as log:
            if anew:
                log.truncate(0)
            yield log

    @contextmanager
    def held(self) -> Iterator[None]:
        """No other study works in this output while the block runs.

        Raises:
            BlockingIOError: one does.
        """
        file = self.output / RECORDS / "study.lock"
        with _locked(
            file, f"Another study is being run in {self.output}. Wait for its end, or choose another --output."
        ):
            yield

    def _record(self, folder: str) -> Path:
        return self.output / RECORDS / f"{folder}.json"

    def _file(self, job: Job) -> Path:
        return self._record(job.folder)

    def _read(self, job: Job) -> dict[str, Any]:
        return read_json_object(self._file(job)) if self._file(job).is_file() else {}

    def _begun(self, job: Job) -> dict[str, Any]:
        # Without the output's own name: a study may be moved.
        command = [word.replace(str(self.output), "{output}") for word in job.words]
        return {"command": command, "configs": config_digests(job.words), "needs": self._stamps(job)}

    def _stamps(self, job: Job) -> dict[str, str | None]:
        """When each job that this one needs has ended."""
        files = {folder: self._record(folder) for folder in job.needs}
        return {
            name: read_json_object(file).get("finished") if file.is_file() else None for name, file in files.items()
        }


def config_digests(words: Sequence[str]) -> dict[str, str]:
    """SHA-256 of each YAML file that a command line names by `-c`."""
    named = [value for option, value in pairwise(words) if option in ("-c", "--config")]
    digests = {}
    for name in named:
        with suppress(FileNotFoundError):  # of what another job will write
            digests[name] = hashlib.sha256(find_config(name).read_bytes()).hexdigest()
    return digests


def _made_by(record: Mapping[str, Any]) -> tuple[Any, Any]:
    return record["command"], record["configs"]


@contextmanager
def _locked(file: Path, refusal: str) -> Iterator[IO[bytes]]:
    """A file to append to, which this process alone holds, and those that it hands it to.

    Raises:
        BlockingIOError: another one does, in these words.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("ab") as opened:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BlockingIOError(refusal) from None
        except OSError:
            pass  # a file system without locks
        yield opened
