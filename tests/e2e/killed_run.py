"""Runs `main.py` in a process of its own that kills itself, as SIGKILL does, at a chosen moment.

As a program it is `main.py` for launchers: `python -m tests.e2e.killed_run MOMENT COUNT SIGNAL ARGUMENTS...`. The
second process of the run gets the signal, unless it was started again.
"""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

_PRELOADED = ("main", "lightning.pytorch.cli", "transformers", "callbacks.rl", "lightning_modules.cold_start")
TIMEOUT_SECONDS = 240


def moments() -> dict[str, tuple[Any, str]]:
    """Where a run can be killed: name → the object and its method that kills in place of doing its work."""
    from callbacks.checkpointing.files import CheckpointFiles
    from lightning_modules.cold_start import ColdStartModule
    from lightning_modules.grpo import GRPOModule
    from lightning_modules.policy import PolicyModule
    from lightning_modules.verifier import VerifierModule

    return {
        "between rollout and update": (GRPOModule, "_learn"),
        "before the optimizer's step": (GRPOModule, "on_before_optimizer_step"),
        "in mid-accumulation": (ColdStartModule, "on_after_backward"),
        "in a step of the verifier": (VerifierModule, "training_step"),
        "in validation": (PolicyModule, "on_validation_epoch_end"),
        "while a checkpoint is written": (CheckpointFiles, "save_checkpoint"),
    }


def run(
    arguments: list[str],
    moment: str | None = None,
    count: int = 1,
    seed: int | None = None,
    sent: signal.Signals = signal.SIGKILL,
) -> int:
    """Run `main.py` to its end, or until it is killed.

    Args:
        arguments: of `main.py`.
        moment: a key of `moments`; the process is killed at its `count`-th time.
        count: see `moment`.
        seed: kill at a random time after the first checkpoint instead.
        sent: the signal sent at that moment.

    Returns:
        The exit code; `-SIGKILL` of a killed process.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(_PRELOADED))
    process = context.Process(target=_child, args=(arguments, moment, count, sent))
    process.start()
    if seed is not None:
        _kill_at_random(process, arguments, seed)
    process.join(TIMEOUT_SECONDS)
    if process.exitcode is None:
        process.kill()
        raise TimeoutError(f"main.py {arguments[0]} took more than {TIMEOUT_SECONDS} s.")
    return process.exitcode


def _kill_at_random(process: Any, arguments: list[str], seed: int) -> None:
    import random
    import time

    directory = next(a for a in arguments if a.startswith("--trainer.default_root_dir=")).partition("=")[2]
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while process.is_alive() and not list(Path(directory).glob("checkpoints/*.ckpt")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.join(random.Random(seed).uniform(0, 3))
    process.kill()


def _child(arguments: list[str], moment: str | None, count: int, sent: signal.Signals) -> None:
    # MKL's products differ in the last bit with the place of their operands in memory, unless it is told not to.
    os.environ["MKL_CBWR"] = "AUTO,STRICT"
    import torch

    import main

    torch.set_num_threads(1)
    if moment is not None:
        owner, name = moments()[moment]
        setattr(owner, name, _killing(getattr(owner, name), count, sent))
    sys.exit(main.main(arguments))


def _killing(method: Callable, count: int, sent: signal.Signals) -> Callable:
    left = [count]

    def call(self: Any, *args: Any, **options: Any) -> Any:
        left[0] -= 1
        if not left[0]:
            if method.__name__ == "save_checkpoint":  # half of the file is on disk
                path = Path(args[1])
                method(self, *args, **options)
                with path.open("r+b") as file:
                    file.truncate(path.stat().st_size // 2)
            os.kill(os.getpid(), sent)
        return method(self, *args, **options)

    return call


def _is_second_and_new() -> bool:
    rank = os.environ.get("SLURM_PROCID") or os.environ.get("RANK")
    restarts = os.environ.get("SLURM_RESTART_COUNT") or os.environ.get("TORCHELASTIC_RESTART_COUNT")
    return rank == "1" and restarts == "0"


if __name__ == "__main__":
    _child(sys.argv[4:], sys.argv[1] if _is_second_and_new() else None, int(sys.argv[2]), signal.Signals[sys.argv[3]])
