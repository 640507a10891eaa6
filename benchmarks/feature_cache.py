"""Seconds per clip of the towers, and of reading what they returned from the feature cache.

    python benchmarks/feature_cache.py [--geometry towers] [--clips 4] [--repeats 7] [--device cpu] [--output FILE.json]

Geometries are those of benchmarks/grpo_step.py that have towers: random weights, random clips of real media sizes with
30 s of sound. The two take turns, on one thread where the device is a CPU; figures are medians over the repeats, and
the ratio's range over them tells how far to trust it. The files were just written, and are read from memory.
"""

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.grpo.geometries import GEOMETRIES
from benchmarks.grpo.models import build, make_batch
from datamodules.batch import SAMPLE_RATE, ClipBatch
from lightning_modules.backbones.feature_cache import FeatureCache
from lightning_modules.backbones.interface import Backbone


def measure(backbone: Backbone, batch: ClipBatch, directory: str, repeats: int) -> dict[str, float | list[float]]:
    """Milliseconds per clip of both ways, their ratio with its range, and megabytes per clip on disk."""
    cache = FeatureCache(directory, max_gigabytes=10.0)
    cache.perceive(backbone, batch)
    seconds: dict[str, list[float]] = {"towers": [], "cache": []}
    for _ in range(repeats):
        seconds["towers"].append(_seconds(lambda: backbone.perceive(batch)))
        seconds["cache"].append(_seconds(lambda: cache.perceive(backbone, batch)))
    sizes = [file.stat().st_size for file in cache.directory.glob("*/*.safetensors")]
    ratios = [towers / cached for towers, cached in zip(seconds["towers"], seconds["cache"], strict=True)]
    medians = {f"{name}_ms": 1e3 * statistics.median(values) / len(batch) for name, values in seconds.items()}
    return {
        **medians,
        "ratio": statistics.median(ratios),
        "ratio_range": [min(ratios), max(ratios)],
        "megabytes": statistics.mean(sizes) / 1e6,
    }


@torch.no_grad()
def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    """Measure and print as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    named = [name for name, geometry in GEOMETRIES.items() if geometry.vision is not None]
    parser.add_argument("--geometry", choices=named, default="towers")
    parser.add_argument("--clips", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    if arguments.device == "cpu":
        torch.set_num_threads(1)
    geometry = replace(GEOMETRIES[arguments.geometry], num_prompts=arguments.clips)
    with tempfile.TemporaryDirectory() as directory:
        backbone = build(geometry, Path(directory, "model"), seed=0).to(arguments.device)
        batch = make_batch(geometry, seed=0)
        waveform = torch.rand(len(batch), 30 * SAMPLE_RATE) - 0.5
        lengths = torch.full((len(batch),), waveform.shape[1])
        batch = replace(batch, waveform=waveform, waveform_lengths=lengths).to(arguments.device)
        figures = measure(backbone, batch, f"{directory}/cache", arguments.repeats)
    settings = {name: value for name, value in vars(arguments).items() if name != "output"}
    versions = {package: version(package) for package in ("torch", "transformers", "safetensors")}
    report = json.dumps({**settings, "versions": versions, "machine": platform.platform(), **figures}, indent=2)
    print(report)
    if arguments.output is not None:
        arguments.output.write_text(report + "\n")


if __name__ == "__main__":
    main()
