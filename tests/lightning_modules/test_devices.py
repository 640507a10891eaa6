"""Each phase of stage 3 keeps to one device that is not the CPU."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e

PHASES = ("refuse_to_mix", "move", "encode", "sample", "score", "reference", "update")
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def found(tiny_models: Path) -> dict[str, str | None]:
    command = [sys.executable, "-m", "tests.lightning_modules.pretended_device", str(tiny_models)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("phase", PHASES)
def test_nothing_is_left_on_the_cpu(phase: str, found: dict[str, str | None]) -> None:
    assert phase in found, f"not reached: {found}"
    assert found[phase] is None
