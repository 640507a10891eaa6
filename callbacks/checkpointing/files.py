"""Checkpoint files: written whole, verified when read, and found again."""

import os
import pickle
import re
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from lightning_modules.processes import once_per_node

SUFFIX = ".ckpt"
PARTIAL = ".partial-"
"""What the name of a checkpoint begins with while it is written."""

DIRECTORY = "checkpoints"
"""Within the run directory."""

_OWN = re.compile(r"step=(\d{8,})\.ckpt")
_STEP = re.compile(r"step=(\d+)")


class CheckpointError(RuntimeError):
    """A checkpoint cannot be written, or is damaged."""


def free_gib(directory: Path) -> float:
    """Free space on a directory's disk, in GiB."""
    status = os.statvfs(directory)
    return status.f_bavail * status.f_frsize / 2**30


def verify(path: Path) -> None:
    """Check every record of a checkpoint against the CRC-32 that was written with it.

    Raises:
        CheckpointError: the file is cut short or changed; names what to do.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except Exception as error:  # noqa: BLE001 - whatever a damaged directory of the archive makes of zipfile
        damaged = str(error) or type(error).__name__
    if damaged is not None:
        raise CheckpointError(_damaged(path, damaged))


def _damaged(path: str | Path, what: str) -> str:
    return (
        f"The checkpoint {path} is damaged ({what}): it was cut short or changed after it was written. Go on from an "
        "older one with --ckpt_path FILE."
    )


_NEEDED = {"state_dict", "global_step", "pytorch-lightning_version"}
"""What every checkpoint of Lightning's has."""


class CheckpointFiles(TorchCheckpointIO):
    """Checkpoints of one file, written straight to disk and flushed to it, and verified when they are read.

    Lightning's own holds a second copy of the whole checkpoint in memory while it writes.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint; a failed one leaves no file.

        Raises:
            CheckpointError: it cannot be written, for instance because the disk is full.
        """
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with path.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
        except (OSError, RuntimeError) as error:
            path.unlink(missing_ok=True)
            raise CheckpointError(
                f"Cannot write the checkpoint {path}: {error}. Free space there: {free_gib(path.parent):.1f} GiB. "
                "Earlier checkpoints are untouched: make room, then go on with --ckpt_path last."
            ) from error

    def load_checkpoint(
        self,
        path: str | Path,
        map_location: Callable | None = lambda storage, _: storage,
        weights_only: bool | None = True,
    ) -> dict[str, Any]:
        """Read a checkpoint after one process of the node has verified it; with GPUs, all of them share one mapping.

        Args:
            path: the file.
            map_location: has no effect: strategies copy the tensors to their devices.
            weights_only: has no effect: only tensors and plain values are ever read.

        Raises:
            CheckpointError: it is damaged, or holds anything else.
            FileNotFoundError: there is none.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"No such checkpoint: {path}")
        once_per_node(partial(verify, Path(path)), CheckpointError)
        try:
            # On a CPU, where nothing copies them, tensors would stay in the file for as long as the run trains.
            content = torch.load(path, map_location="cpu", mmap=torch.cuda.is_available(), weights_only=True)
        except RuntimeError as error:
            raise CheckpointError(_damaged(path, str(error))) from error
        except pickle.UnpicklingError as error:
            raise CheckpointError(
                f"The checkpoint {path} holds more than tensors and plain values, and is refused: to unpickle it could "
                "run any code. Checkpoints of this framework hold nothing else."
            ) from error
        missing = _NEEDED - set(content if isinstance(content, dict) else ())
        if missing:
            raise CheckpointError(
                f"{path} is no checkpoint of a run: it lacks {', '.join(sorted(missing))}. To begin from weights, name "
                "what a run exported (model/) as the backbone's or the verifier's path."
            )
        return content


def own_checkpoints(directory: Path) -> dict[int, Path]:
    """Whole checkpoints that `RunCheckpoint` wrote to a directory: optimizer steps → file, fewest steps first.

    Steps decide the order: copies lose the times of files, and clocks may be wrong.
    """
    found = {int(own[1]): path for path in directory.glob(f"*{SUFFIX}") if (own := _OWN.fullmatch(path.name))}
    return dict(sorted(found.items()))


def newest_checkpoint(run: Path) -> Path | None:
    """The checkpoint of a run directory after most optimizer steps, or None.

    Checkpoints of others than `RunCheckpoint` count only where it wrote none, by the steps in their names.
    """
    own = own_checkpoints(run / DIRECTORY)
    if own:
        return own[max(own)]
    others = [path for path in run.rglob(f"*{SUFFIX}") if not path.name.startswith(".")]
    return max(others, key=_step_and_name, default=None)


def _step_and_name(path: Path) -> tuple[int, str]:
    steps = _STEP.findall(path.name)
    return (int(steps[-1]) if steps else 0, path.name)


def best_checkpoint(run: Path) -> Path:
    """The checkpoint that the first `ModelCheckpoint` of a run calls best, by its `monitor`; without one, the last.

    Raises:
        FileNotFoundError: the run directory has no checkpoint.
    """
    newest = _required(run)
    states = CheckpointFiles().load_checkpoint(newest).get("callbacks", {}).values()
    best = next((state["best_model_path"] for state in states if state.get("best_model_path")), "")
    # By name: the run directory may have been moved since.
    return newest.with_name(Path(best).name) if best else newest


def _required(run: Path) -> Path:
    newest = newest_checkpoint(run)
    if newest is None:
        raise FileNotFoundError(
            f"There is no checkpoint in {run}. Leave trainer.enable_checkpointing on, ModelCheckpoint.dirpath unset, "
            "and let the logger write to ${trainer.default_root_dir}."
        )
    return newest


def resolve(ckpt_path: str | None, run: Path, may_start: bool = True) -> str | None:
    """The file that `--ckpt_path` means: a path, `last` or `best` of a run directory.

    Args:
        ckpt_path: of the command line.
        run: the run directory.
        may_start: whether `last` is None where there is no checkpoint yet, so that one command line serves a job's
            first start and every restart.

    Raises:
        CheckpointError: a path of a directory.
        FileNotFoundError: the run directory has no checkpoint that is needed.
    """
    if ckpt_path not in (None, "last", "best") and Path(ckpt_path).is_dir():
        raise CheckpointError(
            f"The checkpoint {ckpt_path} is a directory, as DeepSpeed writes them. Such are unpickled, which could run "
            "any code, and therefore read within their own run only: with its --trainer.default_root_dir and "
            "--ckpt_path last. To begin from its weights, name what it exported (model/) as the backbone's path."
        )
    if ckpt_path == "last":
        newest = newest_checkpoint(run) if may_start else _required(run)
        return None if newest is None else str(newest)
    return str(best_checkpoint(run)) if ckpt_path == "best" else ckpt_path
