"""The benchmark of a GRPO step: what it compares computes the same, and its report is whole. No timings."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.grpo import limits
from benchmarks.grpo.geometries import GEOMETRIES
from benchmarks.grpo.meter import PHASES, Memory
from benchmarks.grpo.models import build
from benchmarks.grpo_step import agreement, make, parse_arguments

pytestmark = pytest.mark.numerics

ROOT = Path(__file__).parents[2]
BASELINES = ("naive", "published")


@pytest.mark.parametrize("name", ["smoke", "smoke_text", "smoke_humanomni"])
def test_methods_agree_on_loss_log_probabilities_and_gradients(name: str, tmp_path: Path) -> None:
    geometry = GEOMETRIES[name]
    methods = {method: make(method, geometry, tmp_path, "cpu", 0, 1) for method in ("shared", *BASELINES)}
    compared = agreement(methods, geometry, "cpu", seed=0)
    assert abs(compared["shared"]["loss"]) > 0.01, "a loss of 0 would agree with anything"
    for baseline in BASELINES:
        for figure, difference in compared[baseline].items():
            assert difference < 1e-4, f"{figure} of {baseline}"


@pytest.mark.e2e
def test_report_has_every_figure(tmp_path: Path) -> None:
    output = tmp_path / "results" / "step.json"
    arguments = f"--geometry smoke --baseline naive,published --steps 1 --warmup 1 --output {output}"
    command = [sys.executable, "benchmarks/grpo_step.py", *arguments.split()]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    report = json.loads(output.read_text())
    assert list(report["methods"]) == ["shared", *BASELINES]
    for name, figures in report["methods"].items():
        assert name in result.stdout and set(figures["seconds"]) == {"step", *PHASES}
        whole, parts = figures["steps"][0]["step"], [figures["steps"][0][phase] for phase in PHASES]
        assert len(figures["steps"]) == 1 and 0 < sum(parts) <= whole
        assert figures["tokens_per_second"]["sample"] == pytest.approx(
            2 * 2 * 5 / figures["seconds"]["sample"]["median"]
        )
        assert figures["limits"] is None, "no chip's limits on a CPU"
        if Memory.is_measurable("cpu"):
            assert set(figures["memory"]) == {"held", *PHASES, "peak"} and figures["memory"]["peak"] > 0
    for baseline in BASELINES:
        assert set(report["ratios"][baseline]["times_faster"]) == {"step", *PHASES}
        assert report["agreement"][baseline]["logprobs"] < 1e-4 and report["agreement"][baseline]["loss"] < 1e-4
    assert {"torch", "transformers"} <= set(report["versions"])
    assert {"machine", "load_average", "geometry", "prompt_positions", "chip_limits", "work"} <= set(report)


def test_bad_baselines_say_what_is_possible(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    for baseline, message in (
        ("vllm", "Expected a comma list of plain, naive, trl"),
        ("trl", "takes no clips with sound"),
    ):
        monkeypatch.setattr(sys, "argv", ["grpo_step.py", "--geometry", "smoke", "--baseline", baseline])
        with pytest.raises(SystemExit):
            parse_arguments()
        assert message in capsys.readouterr().err


def test_work_counts_every_matrix_once_per_token(tmp_path: Path) -> None:
    geometry = replace(GEOMETRIES["smoke_text"], num_prompts=1, group_size=1, new_tokens=2)
    model = build(geometry, tmp_path, seed=0).language_model
    matrices = sum(parameter.numel() for parameter in model.parameters() if parameter.ndim == 2)
    work = limits.work_of(model, geometry, prompt_positions=0)
    # 2 layers, 4 query heads and 2 key heads of 16 channels: attention within the two new tokens only.
    assert work.forward_flops == 2 * matrices * 2 + 4 * 2 * 64 * 2
    assert work.naive_forward_flops == work.forward_flops, "one completion and no prompt: nothing to share"
    assert work.sampling_bytes == 4 * (2 * matrices + 2 * 2 * 32 * 2)
