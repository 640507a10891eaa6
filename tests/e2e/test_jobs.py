"""Jobs of SLURM and torchrun, as docs/scaling.md has them: two processes of `main.py` that end early are started again.

SLURM is stood in for: its environment variables, a signal, and a `scontrol` that notes what it is asked.
"""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from .test_whole_method import POLICY, ROOT, parts, stack

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

NUM_STEPS = 10
MOMENT = ["in mid-accumulation", "3"]  # after the third step's backward pass
LIMIT = 240


def fit(world: Path, directory: Path) -> list[str]:
    """Stage 1 on two processes, two epochs of five steps."""
    return [
        *["fit", *stack("trainer/default", "trainer/cpu", "trainer/ddp", "stage/cold_start", "data/emer")],
        *[*stack(*POLICY, "demo/cold_start"), *parts(world), f"--data.root={world}/emer", "--data.batch_size=2"],
        *["--trainer.devices=2", "--trainer.accelerator=cpu", "--trainer.max_epochs=2", "--model.warmup_ratio=0"],
        *["--trainer.limit_val_batches=0", "--trainer.enable_progress_bar=false"],
        *[f"--trainer.default_root_dir={directory}", "--ckpt_path=last"],
    ]


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **more}


def srun(arguments: list[str], bin_directory: Path, restarts: int) -> list[str]:
    """The two tasks of a job, to their end; returns what they wrote to standard error."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    job = {"SLURM_JOB_ID": "4711", "SLURM_JOB_NAME": "erv", "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2"}
    job |= {
        "SLURM_NODEID": "0",
        "SLURM_RESTART_COUNT": str(restarts),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    job["PATH"] = f"{bin_directory}:{os.environ['PATH']}"
    program = [sys.executable, "-m", "tests.e2e.killed_run", *MOMENT, "SIGUSR1", *arguments]
    tasks = [
        subprocess.Popen(
            program,
            cwd=ROOT,
            env=environment(**job, SLURM_PROCID=str(rank), SLURM_LOCALID=str(rank)),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    try:
        said = [task.communicate(timeout=LIMIT)[1] for task in tasks]
    finally:
        for task in tasks:
            task.kill()
    assert [task.returncode for task in tasks] == [0, 0], "\n".join(said)
    return said


def steps_of(curve: Path) -> list[int]:
    events = EventAccumulator(str(curve))
    events.Reload()
    return [event.step for event in events.Scalars("train/loss")]


@pytest.fixture(scope="module")
def requeued(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a run that SLURM signals before its time limit, and starts again."""
    directory, programs = (tmp_path_factory.mktemp(name) for name in ("requeued", "bin"))
    asked = programs / "asked"
    (programs / "scontrol").write_text(f'#!/bin/sh\necho "$@" >> {asked}\n')
    (programs / "scontrol").chmod(0o755)
    said = srun(fit(world, directory), programs, restarts=0)
    assert asked.read_text() == "requeue 4711\n", "once, by one of the two processes"
    assert "saved" in said[0] and "Asked SLURM to put job 4711 into the queue again" in said[0]
    saved = sorted(path.name for path in (directory / "checkpoints").iterdir())
    assert saved == ["step=00000003.ckpt"], "of both processes, though one alone was signalled"
    assert not (directory / "model").exists() and not list(directory.glob("hpc_ckpt*"))
    srun(fit(world, directory), programs, restarts=1)
    assert asked.read_text() == "requeue 4711\n", "a run that came to its end is not started again"
    return directory


def test_a_slurm_job_is_queued_again_before_its_time_limit(requeued: Path) -> None:
    assert json.loads((requeued / "run.json").read_text())["optimizer_steps"] == NUM_STEPS
    assert (requeued / "model").is_dir()
    assert steps_of(requeued) == list(range(NUM_STEPS))


def test_torchrun_starts_a_run_again_that_lost_a_process(requeued: Path, world: Path, tmp_path: Path) -> None:
    """Both go on exactly: two runs that were interrupted in different ways end with the same weights."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--max-restarts=1"]
    torchrun += ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", "--rdzv-id=erv"]
    program = ["-m", "tests.e2e.killed_run", *MOMENT, "SIGKILL"]
    frequent = "--checkpoint.every_n_steps=1"
    done = subprocess.run(
        [*torchrun, *program, *fit(world, tmp_path), frequent],
        cwd=ROOT,
        env=environment(TORCH_DISABLE_SHARE_RDZV_TCP_STORE="1"),
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert done.returncode == 0, done.stderr
    assert "Restoring states from the checkpoint" in done.stderr and "step=00000002.ckpt" in done.stderr
    assert steps_of(tmp_path) == list(range(NUM_STEPS))
    files = [file.relative_to(requeued / "model") for file in (requeued / "model").rglob("*.safetensors")]
    assert files
    for file in files:
        assert (tmp_path / "model" / file).read_bytes() == (requeued / "model" / file).read_bytes()
