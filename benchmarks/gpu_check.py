"""The first figures of a GPU, in eight minutes at most, with what matters most first.

    python benchmarks/gpu_check.py [--device cuda] [--smoke] [--output runs/gpu_check] [--budget 470] [--parts NAME ...]

Each part runs in processes of its own, with a time limit of its own. What it found is written as soon as it ends, fails
or is killed: `OUTPUT/gpu_check.json` has all parts so far, `OUTPUT/NAME.log` what a part printed.

    tests      tests marked `gpu`: CUDA graphs of each backbone, attention's gradients, drawing under determinism
    stage3     three steps of the demo's composed policy through main.py, with workers that load and a thread that pins
    eager, compiled, naive
               a step at HumanOmni-0.5B's sizes (grpo_step.py): seconds, peak memory, share of the chip's limits
    estimate   what `main.py estimate` says of that step, beside the peak memory of part `eager`

`--device cpu --smoke` tries the script itself: tiny sizes, and a test without a GPU.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

_LEAST_SECONDS = 10
"""A part is not begun with less time than this."""

_CURVES = (
    *("train/loss", "train/kl", "train/gradient_norm", "train/sampler_drift", "step/seconds", "step/encode_seconds"),
    *("step/sample_seconds", "step/reference_seconds", "step/update_seconds", "step/peak_memory_gb"),
)


@dataclass(frozen=True)
class Part:
    """Something to find out.

    Args:
        limit: seconds.
        commands: run one after the other, until one fails.
        read: what they found, from what they left, be it incomplete.
    """

    limit: float
    commands: list[list[str]]
    read: Callable[[], Any]


def make_parts(device: str, smoke: bool, output: Path) -> dict[str, Part]:
    """All parts by name, in their order."""
    chosen = ["-m", "unit", "tests/lightning_modules/backbones/test_attention_kernels.py"]
    chosen = chosen if smoke else ["-m", "gpu", "tests/lightning_modules/backbones"]
    pytest = ["-m", "pytest", *chosen, "-v", "--color=no", "-p", "no:cacheprovider", "--timeout", "60"]
    return {
        "tests": Part(120, [pytest], lambda: count_tests(output / "tests.log")),
        "stage3": Part(110, stage3_commands(device, output / "stage3"), lambda: last_values(output / "stage3" / "run")),
        "eager": step_part("eager", 90, device, smoke, output),
        "compiled": step_part("compiled", 100, device, smoke, output, "--compiled", "--no_memory"),
        "naive": step_part("naive", 90, device, smoke, output, "--baseline", "naive", "--prompts", "4", "--no_memory"),
        "estimate": Part(
            60,
            [["benchmarks/gpu_check.py", "--estimate_beside", str(output / "eager.step.json")]],
            lambda: json.loads((output / "estimate.log").read_text().splitlines()[-1]),
        ),
    }


def step_part(name: str, limit: float, device: str, smoke: bool, output: Path, *options: str) -> Part:
    """A measurement by grpo_step.py."""
    file = output / f"{name}.step.json"
    geometry = "smoke_humanomni" if smoke else "humanomni_0.5b"
    command = ["benchmarks/grpo_step.py", "--geometry", geometry, "--device", device, "--output", str(file)]
    command += ["--steps", "1" if smoke else "3", *options]

    def read() -> dict[str, Any]:
        report = json.loads(file.read_text())
        methods = report["methods"].items()
        kept = {name: {key: figures[key] for key in ("seconds", "memory", "limits")} for name, figures in methods}
        return {"machine": report["machine"], "versions": report["versions"], **kept, "agreement": report["agreement"]}

    return Part(limit, [command], read)


def stage3_commands(device: str, folder: Path) -> list[list[str]]:
    """Clips, tiny models, and three steps of stage 3 on them."""
    data, sentences, tiny = folder / "dfew", folder / "sentences", folder / "tiny"
    texts = json.dumps([str(sentences / "train.jsonl")])
    trainer = "cpu" if device == "cpu" else "gpu"
    files = ("trainer/default", f"trainer/{trainer}", "stage/grpo", "data/dfew", "backbone/composed")
    files += ("demo/backbone", "demo/data", "demo/grpo")
    parts = ("vision", "audio", "language_model")
    return [
        ["main.py", "synthesize", "--layout", "dfew", "--output", str(data), "--num_clips", "60"],
        ["main.py", "synthesize", "--layout", "sentences", "--output", str(sentences), "--num_clips", "200"],
        ["main.py", "tiny", "--output", str(tiny), "--texts", texts, "--verifier_texts", texts],
        [
            *("main.py", "fit", *(word for file in files for word in ("-c", f"configs/{file}.yaml"))),
            *("--data.root", str(data), "--data.num_workers", "2", "--model.verifier", str(tiny / "verifier")),
            *(word for part in parts for word in (f"--model.backbone.{part}", str(tiny / part))),
            *("--trainer.max_steps", "3", "--trainer.default_root_dir", str(folder / "run")),
        ],
    ]


def count_tests(log: Path) -> dict[str, Any]:
    """Tests by outcome, and the names of those that failed; also of a run that was killed."""
    outcomes = re.findall(r"^(\S+::\S+.*?) (PASSED|FAILED|ERROR|SKIPPED)\b", log.read_text(), re.MULTILINE)
    failed = [name for name, outcome in outcomes if outcome in ("FAILED", "ERROR")]
    return {**Counter(outcome.lower() for _, outcome in outcomes), "failed_tests": failed}


def last_values(run: Path) -> dict[str, list[float]]:
    """The curves of a run, step by step."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run))
    events.Reload()
    return {name: [e.value for e in events.Scalars(name)] for name in _CURVES if name in events.Tags()["scalars"]}


def estimate_beside(step_file: Path) -> dict[str, Any]:
    """GiB of each phase of the step that was measured: by `estimate`, without the verifier, and by the allocator."""
    from tools.cross_validation import fit_config
    from tools.estimate.estimate import estimate
    from tools.estimate.limits import CHIPS

    report = json.loads(step_file.read_text())
    sizes = report["geometry"]
    options = {
        "trainer.precision": "32-true",
        "model.backbone.dtype": sizes["dtype"],
        "model.group_size": sizes["group_size"],
        "model.micro_batch_size": sizes["micro_batch"] or "null",
        "model.completion_batch_size": sizes["completion_batch"] or "null",
        "model.rollout_sampling.max_new_tokens": sizes["new_tokens"],
        "model.rollout_sampling.compiled": "false",
        "data.batch_size": sizes["num_prompts"],
    }
    files = [f"-c=configs/{file}.yaml" for file in ("trainer/gpu", "stage/grpo", "backbone/humanomni")]
    arguments = ["--data=datamodules.clips.Clips", *files, *(f"--{name}={value}" for name, value in options.items())]
    result = estimate(fit_config(arguments), CHIPS["H100"], "0.5b", report["prompt_positions"])
    verifier, totals = result.memory["verifier"]["update"], result.totals
    phases = {"sample": ("towers", "sampling"), "reference": ("reference",), "update": ("update", "optimizer step")}
    measured = report["methods"]["shared"]["memory"] or {}
    return {
        phase: {
            "estimated": (max(totals[name] for name in names) - verifier) / 2**30,
            "measured": measured[phase] / 2**30 if phase in measured else None,
        }
        for phase, names in phases.items()
    }


def run_part(part: Part, log: Path, limit: float) -> dict[str, Any]:
    """Run a part's commands within so many seconds; what is left of one that took longer is killed."""
    start, status = time.monotonic(), 0
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "false"}
    with log.open("w") as file:
        for command in part.commands:
            # In a group of its own, so that its workers end with it.
            process = subprocess.Popen(
                [sys.executable, *command],
                cwd=ROOT,
                env=environment,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                status = process.wait(max(limit - (time.monotonic() - start), 0))
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                status = "killed"
            if status != 0:
                break
    record = {"status": status, "seconds": round(time.monotonic() - start, 1), "limit": round(limit)}
    try:
        return {**record, "result": part.read()}
    except (OSError, LookupError, ValueError) as error:
        return {**record, "result": None, "error": f"{type(error).__name__}: {error}", "log": tail(log)}


def tail(log: Path) -> list[str]:
    """The end of what a part printed."""
    return log.read_text(errors="replace").splitlines()[-15:]


def main() -> int:
    """Run the parts; returns how many did not succeed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, to try the script itself")
    parser.add_argument("--output", type=Path, default=ROOT / "runs" / "gpu_check")
    parser.add_argument("--budget", type=float, default=470, help="seconds for all parts (default %(default)s)")
    parser.add_argument("--parts", nargs="+", help="these only (default: all)")
    parser.add_argument("--estimate_beside", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.estimate_beside is not None:
        print(json.dumps(estimate_beside(arguments.estimate_beside)))
        return 0
    if arguments.device == "cpu" and not arguments.smoke:
        parser.error("The sizes are those of a GPU: on a CPU, give --smoke, too.")
    start, output = time.monotonic(), arguments.output.resolve()
    output.mkdir(parents=True, exist_ok=True)
    parts = make_parts(arguments.device, arguments.smoke, output)
    if unknown := sorted(set(arguments.parts or ()) - set(parts)):
        parser.error(f"There is no part {', '.join(unknown)}. Expected some of {', '.join(parts)}.")
    found: dict[str, Any] = {}
    for name in arguments.parts or parts:
        left = arguments.budget - (time.monotonic() - start)
        if left < _LEAST_SECONDS:
            found[name] = {"status": "no time left"}
        else:
            found[name] = run_part(parts[name], output / f"{name}.log", min(parts[name].limit, left))
        (output / "gpu_check.json").write_text(json.dumps(found, indent=2) + "\n")
        print(name, json.dumps(found[name]), flush=True)
    return sum(record["status"] != 0 for record in found.values())


if __name__ == "__main__":
    sys.exit(main())
