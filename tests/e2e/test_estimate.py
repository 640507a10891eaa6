"""`python main.py estimate` on the options of a run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]


def test_command_reads_what_fit_reads(tiny_models: Path) -> None:
    parts = {name: str(tiny_models / name) for name in ("vision", "audio", "language_model")}
    command = [
        "-c",
        "configs/trainer/cpu.yaml",
        "-c",
        "configs/stage/grpo.yaml",
        "-c",
        "configs/backbone/composed.yaml",
    ]
    command += [f"--model.backbone.{name}={path}" for name, path in parts.items()]
    command += ["--model.backbone.video_grid=2", "--model.backbone.num_frames=2", "--data.batch_size=5", "--chip=H200"]
    run = subprocess.run(
        [sys.executable, "main.py", "estimate", *command],
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "120"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert "step of a device: 5 prompts × 4 completions of 512 tokens" in run.stdout
    assert "of the device's 141 GiB" in run.stdout
    assert "prompts once for their group" in run.stdout, "the layout of a CPU"
