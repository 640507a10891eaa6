"""Signals that ask a run to end: noted when they come, obeyed by all processes after the same batch.

Lightning's own handlers exchange tensors (SIGTERM) or write a checkpoint (SIGUSR1 under SLURM) wherever the process is
just then, while other processes are elsewhere.
"""

import os
import signal
import subprocess
import threading
from types import FrameType

from lightning import Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn

_JOB = "SLURM_JOB_ID"


class StopSignals:
    """What this process was asked: to end (SIGTERM), or to end and be started again (SIGUSR1 of a SLURM job)."""

    def __init__(self) -> None:
        self._received: set[int] = set()
        self.is_to_be_requeued = False

    def listen_for_requeue(self) -> None:
        """Begin before the Trainer does, which leaves the signal alone then, and before workers are forked."""
        if _JOB in os.environ:
            self._listen(signal.SIGUSR1)

    def listen_for_end(self) -> None:
        """Begin after the Trainer has registered its own handler, and until its teardown."""
        self._listen(signal.SIGTERM)

    def _listen(self, signum: signal.Signals) -> None:
        if threading.current_thread() is threading.main_thread():  # no other may
            signal.signal(signum, self._note)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self._received.add(signum)

    def are_heard(self, trainer: Trainer) -> bool:
        """Whether any process was asked to end; all processes ask this at the same place, and learn the same."""
        if not trainer.strategy.reduce_boolean_decision(bool(self._received), all=False):
            return False
        self.is_to_be_requeued = trainer.strategy.reduce_boolean_decision(signal.SIGUSR1 in self._received, all=False)
        return True


def requeue_job() -> None:
    """Have SLURM put this process' job, or its task of a job array, into the queue again."""
    job = os.environ[_JOB]
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    try:
        subprocess.run(["scontrol", "requeue", job], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        reason = getattr(error, "stderr", None) or str(error)
        rank_zero_warn(
            f"SLURM did not take job {job} back into the queue ({reason.strip()}): submit it again to go on. "
            "`#SBATCH --requeue` allows it, and `scontrol` has to be on the PATH of the job."
        )
    else:
        rank_zero_info(f"Asked SLURM to put job {job} into the queue again.")
