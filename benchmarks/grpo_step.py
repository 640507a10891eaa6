"""Seconds and memory of one GRPO step: this project, the naive computation, TRL and the published procedure.

    python benchmarks/grpo_step.py [--geometry cpu] [--device cpu] [--baseline naive,trl,published] [--steps 5]
        [--warmup 1] [--seed 0] [--prompts B] [--compiled] [--liger] [--no_memory]
        [--output FILE.json]

Geometries: `cpu` (text only, 20 million parameters), `towers` (SigLIP + Whisper + projectors + Qwen2 at a quarter of
HumanOmni-0.5B's width and depth, real frame and mel sizes), `humanomni_0.5b` (for a GPU), and `smoke`, `smoke_text` and
`smoke_humanomni` (tiny, to try the benchmark itself). Weights, clips and rewards are random.

Every method has the same weights, prompts and rewards, and samples completions of exactly the same length. One process;
the methods take turns step by step; figures are medians over the steps after the warm-up, with the smallest and the
largest, and ratios are medians of the ratios within a round. Before that, each method's peak memory is measured in a
process of its own (see benchmarks/grpo/meter.py), and all methods score the same completions: their log-probabilities,
loss and gradients have to agree. Three phases: "sample" (towers, prompts, completions), "reference" (its
log-probabilities), "update" (policy's log-probabilities, loss, backward pass, gradient clipping, AdamW).
"""

import argparse
import importlib.util
import json
import multiprocessing
import os
import sys
import tempfile
from dataclasses import asdict, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.grpo import limits, report
from benchmarks.grpo.geometries import GEOMETRIES, Geometry
from benchmarks.grpo.meter import PHASES, Memory, Meter
from benchmarks.grpo.methods import Evaluation, Method, Naive, PlainLinear, Published, Shared, rewards_of_step
from benchmarks.grpo.models import build, make_batch
from tools.estimate.limits import limits_of

OURS = Shared.name
OWN_METHODS: dict[str, type[Shared]] = {method.name: method for method in (Shared, PlainLinear, Naive, Published)}
TRL = "trl"
BASELINES = (PlainLinear.name, Naive.name, TRL, Published.name)
_MEMORY_STEPS = 2  # the first makes the optimizer's state


def trl_is_installed() -> bool:
    """Whether the `bench` extra is."""
    return importlib.util.find_spec("trl") is not None


def make(name: str, geometry: Geometry, directory: Path, device: str, seed: int, steps: int) -> Method:
    """A method with its own policy and reference, of the same weights for the same seed."""
    directory = directory / name
    backbone = build(geometry, directory, seed)
    batch = make_batch(geometry, seed).to(device)
    if name == TRL:
        # Imported here: it is heavy, and not always installed.
        from benchmarks.grpo.trl_baseline import TRL as Trainer

        return Trainer(directory, batch, geometry, device, seed, steps)
    return OWN_METHODS[name](backbone.to(device), batch, geometry, seed)


def run(methods: dict[str, Method], meters: dict[str, Meter], steps: int, seed: int) -> None:
    """All steps of all methods, in turns; TRL's own training loop, where it takes part, leads."""
    own = {name: method for name, method in methods.items() if isinstance(method, Shared)}

    def step_of_each(step: int) -> None:
        for name, method in own.items():
            method.step(meters[name], seed + step)

    if TRL in methods:
        methods[TRL].train(meters[TRL], step_of_each)
    else:
        for step in range(steps):
            step_of_each(step)


def _send_memory(connection: Connection, name: str, geometry: Geometry, device: str, seed: int) -> None:
    if name == TRL:
        import benchmarks.grpo.trl_baseline  # noqa: F401 - libraries count as the empty process
    memory = Memory(device)
    with tempfile.TemporaryDirectory() as scratch:
        # Without compilation: what a compiler leaves in the process would count as the step's.
        method = make(name, replace(geometry, compiled=False), Path(scratch), device, seed, _MEMORY_STEPS)
        meter = Meter(device, memory)
        run({name: method}, {name: meter}, _MEMORY_STEPS, seed)
        peaks = meter.peaks[-1]
        connection.send({"held": memory.held(), **peaks, "peak": max(peaks.values())})


def measure_memory(name: str, geometry: Geometry, device: str, seed: int) -> dict[str, int]:
    """Peak bytes of each phase and of the step, and what is held after it, in a process of its own.

    Raises:
        RuntimeError: that process failed; its output says why.
    """
    # A fork is quick and may not follow CUDA's start; this process has not computed anything yet.
    context = multiprocessing.get_context("spawn" if device == "cuda" else "fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send_memory, args=(sender, name, geometry, device, seed))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError as error:
        raise RuntimeError(f"Measuring the memory of {name} failed; see above.") from error
    finally:
        process.join()


def compare(ours: Evaluation, theirs: Evaluation) -> dict[str, float | None]:
    """Largest differences of log-probabilities, difference of the losses, and relative one of the gradients."""
    gradients = None
    if ours.gradients is not None and theirs.gradients is not None:
        squared = {
            name: (
                float((theirs.gradients[name] - gradient).float().square().sum()),
                float(gradient.float().square().sum()),
            )
            for name, gradient in ours.gradients.items()
        }
        difference, norm = (sum(values) ** 0.5 for values in zip(*squared.values(), strict=True))
        gradients = difference / norm
    return {
        "logprobs": float((ours.logprobs - theirs.logprobs).abs().max()),
        "reference_logprobs": float((ours.reference_logprobs - theirs.reference_logprobs).abs().max()),
        "loss": abs(ours.loss - theirs.loss),
        "gradients": gradients,
    }


def agreement(methods: dict[str, Method], geometry: Geometry, device: str, seed: int) -> dict[str, Any]:
    """What the methods compute for the same completions, with advantages that do not sum to 0."""
    torch.manual_seed(seed)
    ours = methods[OURS]
    assert isinstance(ours, Shared)
    completions = ours.sample()
    advantages = rewards_of_step(geometry, seed, device) - 0.25
    expected = ours.evaluate(completions, advantages)
    compared = {
        name: compare(expected, method.evaluate(completions, advantages))
        for name, method in methods.items()
        if name != OURS
    }
    return {OURS: {"loss": expected.loss, "mean_logprob": float(expected.logprobs.mean())}, **compared}


def measure(names: list[str], geometry: Geometry, arguments: argparse.Namespace) -> dict[str, Any]:
    """The whole report."""
    device, seed, steps = arguments.device, arguments.seed, arguments.warmup + arguments.steps
    load_before = os.getloadavg()
    has_memory = not arguments.no_memory and Memory.is_measurable(device)
    memory = {name: measure_memory(name, geometry, device, seed) if has_memory else None for name in names}
    with tempfile.TemporaryDirectory() as scratch:
        methods = {name: make(name, geometry, Path(scratch), device, seed, steps) for name in names}
        meters = {name: Meter(device) for name in names}
        agrees = agreement(methods, geometry, device, seed)
        run(methods, meters, steps, seed)
    ours = methods[OURS]
    assert isinstance(ours, Shared)
    with torch.no_grad():
        positions = ours.policy.encode(ours.batch, ours.policy.perceive(ours.batch)).attention_mask.shape[1]
    chip = limits_of(torch.cuda.get_device_name()) if device == "cuda" else None
    work = limits.work_of(ours.policy.language_model, geometry, positions)
    figures = {}
    for name, method in methods.items():
        timed = report.timings(meters[name], arguments.warmup, geometry)
        medians = {phase: timed["seconds"][phase]["median"] for phase in PHASES}
        reached = limits.shares(work, chip, medians) if chip else None
        figures[name] = {"description": method.description, **timed, "memory": memory[name], "limits": reached}
    return {
        "arguments": {name: value if value is None else str(value) for name, value in vars(arguments).items()},
        "geometry": asdict(geometry),
        "prompt_positions": positions,
        "machine": report.machine(device),
        "load_average": (load_before, os.getloadavg()),
        "versions": report.versions(),
        "chip_limits": chip and asdict(chip),
        "work": asdict(work),
        "methods": figures,
        "ratios": {name: report.ratios(figures[OURS], figures[name]) for name in names if name != OURS},
        "agreement": agrees,
    }


def parse_arguments() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--geometry", choices=GEOMETRIES, default="cpu", help="what is measured (default cpu)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--baseline", default="", help=f"comma list of {', '.join(BASELINES)} (default none)")
    parser.add_argument("--steps", type=int, default=5, help="steps per method that are timed (default 5)")
    parser.add_argument("--warmup", type=int, default=1, help="steps before those (default 1)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--prompts", type=int, help="prompts per step (default: the geometry's)")
    parser.add_argument("--compiled", action="store_true", help="shared samples with `compiled: true`")
    parser.add_argument("--liger", action="store_true", help="shared scores with `use_liger_kernel: true`; on a GPU")
    parser.add_argument("--no_memory", action="store_true", help="leave the measurement of memory out")
    parser.add_argument("--output", type=Path, help="JSON file for the figures, with machine, versions and settings")
    arguments = parser.parse_args()
    arguments.baseline = [name for name in arguments.baseline.split(",") if name]
    if unknown := sorted(set(arguments.baseline) - set(BASELINES)):
        parser.error(f"Unknown --baseline {', '.join(unknown)}. Expected a comma list of {', '.join(BASELINES)}.")
    if TRL in arguments.baseline and GEOMETRIES[arguments.geometry].backbone != "text":
        parser.error("TRL's GRPOTrainer takes no clips with sound: --baseline trl needs --geometry cpu or smoke_text.")
    if arguments.steps < 1 or arguments.warmup < 0 or (arguments.prompts is not None and arguments.prompts < 1):
        parser.error("Expected --steps >= 1, --warmup >= 0, --prompts >= 1.")
    return arguments


def main() -> None:
    """Measure, print and write."""
    arguments = parse_arguments()
    console = Console(width=150)
    geometry = GEOMETRIES[arguments.geometry]
    if arguments.prompts is not None:
        geometry = replace(geometry, num_prompts=arguments.prompts)
    geometry = replace(geometry, compiled=arguments.compiled, liger=arguments.liger)
    names = [OURS, *dict.fromkeys(arguments.baseline)]
    missing = [name for name in names if name == TRL and not trl_is_installed()]
    figures = measure([name for name in names if name not in missing], geometry, arguments)
    figures["methods"] |= dict.fromkeys(missing)
    report.show(console, figures)
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(figures, indent=2) + "\n")
        console.print(f"Wrote {arguments.output}")


if __name__ == "__main__":
    main()
