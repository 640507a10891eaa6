"""What a step of stage 1 costs beside other work, by how OpenMP's threads wait for each other.

    python benchmarks/busy_machine.py [--busy 2] [--repeats 3] [--epochs 5] [--output FILE.json]

Trains the demo's tiny models on 240 generated clips with the demo's configuration, in processes of their own: alone,
and beside processes that do nothing but compute. `brief` is what main.py sets, about 50 µs of busy waiting; `default`
is that of GNU's OpenMP, about 3 ms; `passive` waits without. Figures are of the steps after the first epoch, which
decodes: milliseconds of CPU time of all threads and of wall-clock time, median and smallest over the steps of all
repeats. The ways take turns. Other work on the machine counts against "alone": the smallest step is the quietest one.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
import main

ROOT = Path(__file__).parents[1]
WAYS = {"brief": {}, "default": {"GOMP_SPINCOUNT": "300000"}, "passive": {"OMP_WAIT_POLICY": "PASSIVE"}}
FILES = ("trainer/default", "trainer/cpu", "stage/cold_start", "data/emer", "backbone/composed")
DEMO = ("demo/backbone", "demo/data", "demo/cold_start")
PARTS = ("vision", "audio", "language_model")


def prepare(root: Path) -> None:
    """Make clips and tiny models, as the demo does."""
    main.main(["synthesize", "--layout", "emer", "--output", f"{root}/emer", "--num_clips", "240"])
    main.main(["tiny", "--output", f"{root}/tiny", "--texts", f'["{root}/emer/EMER_cold_start.json"]'])


def train(root: Path, epochs: int) -> None:
    """Fit in this process; prints CPU and wall-clock seconds of each step after the first epoch."""
    stack = [part for name in (*FILES, *DEMO) for part in ("-c", f"{ROOT}/configs/{name}.yaml")]
    options = [f"--data.root={root}/emer", f"--trainer.default_root_dir={root}/run", f"--trainer.max_epochs={epochs}"]
    options += [f"--model.backbone.{part}={root}/tiny/{part}" for part in PARTS]
    options += ["--trainer.limit_val_batches=0", "--trainer.enable_progress_bar=false"]
    main.wait_briefly()  # before torch is imported
    from lightning_modules.cold_start import ColdStartModule

    steps: list[tuple[float, float]] = []
    step = ColdStartModule.optimizer_step

    def timed(module: ColdStartModule, *arguments: Any) -> None:
        cpu, wall = time.process_time(), time.perf_counter()
        step(module, *arguments)
        if module.current_epoch:
            steps.append((time.process_time() - cpu, time.perf_counter() - wall))

    ColdStartModule.optimizer_step = timed
    main.main(["fit", *stack, *options])
    for cpu, wall in steps:
        print("step", cpu, wall)


def measure(root: Path, way: str, num_busy: int, epochs: int) -> list[tuple[float, float]]:
    """CPU and wall-clock seconds of the steps of one run, beside as many busy processes."""
    waiting = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
    environment = {name: value for name, value in os.environ.items() if name not in waiting} | WAYS[way]
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(num_busy)]
    try:
        command = [sys.executable, __file__, "--train", str(root), "--epochs", str(epochs)]
        output = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    finally:
        for process in busy:
            process.kill()
            process.wait()
    lines = [line.split() for line in output.splitlines() if line.startswith("step ")]
    return [(float(cpu), float(wall)) for _, cpu, wall in lines]


def summary(steps: list[tuple[float, float]]) -> dict[str, float]:
    """Milliseconds of a step."""
    cpu, wall = [[1e3 * value for value in values] for values in zip(*steps, strict=True)]
    return {
        "cpu_ms": statistics.median(cpu),
        "least_cpu_ms": min(cpu),
        "wall_ms": statistics.median(wall),
        "least_wall_ms": min(wall),
    }


def run(num_busy: int, repeats: int, epochs: int) -> dict[str, Any]:
    """All ways, alone and beside busy processes."""
    steps: dict[tuple[str, int], list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        prepare(root)
        for _ in range(repeats):
            for way in WAYS:
                for others in (0, num_busy):
                    steps.setdefault((way, others), []).extend(measure(root, way, others, epochs))
                    values = summary(steps[way, others])
                    said = ", ".join(f"{name} {value:.1f}" for name, value in values.items())
                    print(f"{way:7} beside {others}: {said}; load {os.getloadavg()[0]:.1f}", flush=True)
    figures = {way: {str(n): summary(steps[way, n]) for n in (0, num_busy)} for way in WAYS}
    ratios = {way: own[str(num_busy)]["cpu_ms"] / own["0"]["least_cpu_ms"] for way, own in figures.items()}
    return {"milliseconds": figures, "cpu_beside_others_over_quietest_alone": ratios}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--busy", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--train", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.train:
        train(Path(arguments.train), arguments.epochs)
    else:
        from benchmarks.grpo import report

        del arguments.train
        report.write(arguments, run(arguments.busy, arguments.repeats, arguments.epochs))
