"""Figures of all methods as one dictionary, and as tables."""

import argparse
import importlib.util
import json
import os
import platform
import statistics
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks.grpo.geometries import Geometry
from benchmarks.grpo.meter import PHASES, Meter

NOT_INSTALLED = "not installed: pip install -e '.[bench]'"
_PACKAGES = ("torch", "transformers", "lightning", "peft", "trl", "accelerate", "datasets")
_GIB = 2**30


def machine(device: str) -> dict[str, Any]:
    """Processor, cores, threads, and the GPU where it is used."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.machine(),
        "num_cores": os.cpu_count(),
        "num_threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if device == "cuda" else None,
    }


def versions() -> dict[str, str]:
    """Of Python and of the packages that the figures depend on, those that are installed."""
    found = {name: version(name) for name in _PACKAGES if importlib.util.find_spec(name)}
    return {"python": platform.python_version(), **found}


def write(arguments: argparse.Namespace, figures: dict[str, Any]) -> None:
    """Print figures of this machine's CPU with its settings as JSON, and keep them in `arguments.output` if given."""
    settings = {name: value for name, value in vars(arguments).items() if name != "output"}
    facts = {"machine": machine("cpu"), "versions": versions()}
    text = json.dumps({**settings, **facts, **figures}, indent=2, ensure_ascii=False)
    print(text)
    if arguments.output is not None:
        arguments.output.write_text(text + "\n")


def summary(values: Sequence[float]) -> dict[str, float]:
    """Median, smallest and largest."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def timings(meter: Meter, warmup: int, geometry: Geometry) -> dict[str, Any]:
    """Seconds of the step and of its phases, and completion tokens per second."""
    steps = meter.seconds[warmup:]
    tokens = geometry.num_prompts * geometry.group_size * geometry.new_tokens
    seconds = {name: summary([step[name] for step in steps]) for name in ("step", *PHASES)}
    return {
        "seconds": seconds,
        "tokens_per_second": {name: tokens / value["median"] for name, value in seconds.items()},
        "seconds_per_prompt": seconds["step"]["median"] / geometry.num_prompts,
        "steps": steps,
    }


def ratios(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    """How many times faster `ours` is, over rounds in which both had their turn, and its share of the peak memory."""
    faster = {
        name: summary([b[name] / a[name] for a, b in zip(ours["steps"], theirs["steps"], strict=True)])
        for name in ("step", *PHASES)
    }
    share = ours["memory"] and theirs["memory"] and ours["memory"]["peak"] / theirs["memory"]["peak"]
    return {"times_faster": faster, "peak_memory_share": share}


def show(console: Console, report: dict[str, Any]) -> None:
    """Print the report."""
    geometry = report["geometry"]
    prompts = f"{geometry['num_prompts']} prompts of {report['prompt_positions']} positions"
    completions = f"G = {geometry['group_size']} × {geometry['new_tokens']} new tokens"
    console.print(f"{report['arguments']['geometry']}: {prompts} × {completions}, {geometry['dtype']}")
    console.print(", ".join(f"{name} {value}" for name, value in report["machine"].items() if value is not None))
    table = Table(title="Seconds per step, medians (smallest–largest)")
    for column in ("", "step", *PHASES, "tokens/s sampled", "seconds/prompt"):
        table.add_column(column, justify="left" if not column else "right")
    for name, figures in report["methods"].items():
        if figures is None:
            table.add_row(name, escape(NOT_INSTALLED))
            continue
        cells = ["{median:.2f} ({min:.2f}–{max:.2f})".format(**figures["seconds"][key]) for key in ("step", *PHASES)]
        rate, prompt = figures["tokens_per_second"]["sample"], figures["seconds_per_prompt"]
        table.add_row(name, *cells, f"{rate:.0f}", f"{prompt:.2f}")
    console.print(table)
    _show_memory(console, report)
    _show_ratios(console, report)
    _show_limits(console, report)
    for name, figures in report["methods"].items():
        if figures is not None:
            console.print(f"{name}: {figures['description']}")
    console.print("Versions: " + ", ".join(f"{name} {number}" for name, number in report["versions"].items()))
    start, end = report["load_average"]
    console.print(
        f"Load average (1 min) before {start[0]:.1f}, after {end[0]:.1f}; one busy method makes its threads' number."
    )


def _show_memory(console: Console, report: dict[str, Any]) -> None:
    measured = {name: f["memory"] for name, f in report["methods"].items() if f and f["memory"]}
    if not measured:
        return
    table = Table(title="Peak memory in GiB, weights and optimizer included, over an empty process")
    for column in ("", "whole step", *PHASES, "held between steps"):
        table.add_column(column, justify="left" if not column else "right")
    for name, memory in measured.items():
        keys = ("peak", *PHASES, "held")
        table.add_row(name, *(f"{memory[key] / _GIB:.2f}" for key in keys))
    console.print(table)


def _show_ratios(console: Console, report: dict[str, Any]) -> None:
    if not report["ratios"]:
        return
    table = Table(title="shared is so many times faster than ..., needs this share of its peak memory, and agrees")
    columns = ("", "step", *PHASES, "memory", "|Δ logprob|", "|Δ reference|", "Δ loss", "Δ gradient")
    for column in columns:
        table.add_column(column, justify="left" if not column else "right")
    for name, ratio in report["ratios"].items():
        cells = ["{median:.2f} ({min:.2f}–{max:.2f})".format(**ratio["times_faster"][key]) for key in ("step", *PHASES)]
        memory = "–" if ratio["peak_memory_share"] is None else f"{ratio['peak_memory_share']:.0%}"
        agreement = report["agreement"][name]
        keys = ("logprobs", "reference_logprobs", "loss", "gradients")
        differences = ["–" if agreement[key] is None else f"{agreement[key]:.0e}" for key in keys]
        table.add_row(name, *cells, memory, *differences)
    console.print(table)
    fewer = report["work"]["naive_forward_flops"] / report["work"]["forward_flops"]
    console.print(f"FLOP of the language model, prompt once per completion over once per group: {fewer:.2f}")


def _show_limits(console: Console, report: dict[str, Any]) -> None:
    shares = {name: f["limits"] for name, f in report["methods"].items() if f and f["limits"]}
    if not shares:
        return
    table = Table(title="Share of the chip's limits reached (benchmarks/grpo/limits.py)")
    columns = list(next(iter(shares.values())))
    for column in ("", *columns):
        table.add_column(column.replace("_", ", "), justify="left" if not column else "right")
    for name, values in shares.items():
        table.add_row(name, *(f"{values[column]:.1%}" for column in columns))
    console.print(table)
