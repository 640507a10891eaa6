"""Milliseconds and memory of completions' attention to a shared prompt: merged flash kernels, and written weights.

    python benchmarks/cascade_attention.py [--heads 8] [--kv_heads 2] [--head_size 64] [--prompt 760] [--tokens 128]
        [--rows 4] [--padding 0] [--threads 2] [--repeats 15] [--output FILE.json]

One layer, one prompt, float32, on a CPU; random numbers. The two ways take turns, and their outputs and gradients have
to agree. Figures are medians over the repeats; a ratio's range over them tells how far to trust it. "kept" is what
autograd holds for the backward pass. Both ways are those of lightning_modules/backbones/cascade.py; the written one
goes backward by plain autograd.
"""

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))
from lightning_modules.backbones.cascade import _written_attention, cascade_attention

WAYS: dict[str, Callable[..., Tensor]] = {"merged": cascade_attention, "written": _written_attention}
TOLERANCE = 1e-4


def measure(inputs: list[Tensor], unseen: Tensor | None, repeats: int) -> dict[str, object]:
    """Milliseconds of both directions and kept MiB of both ways, and their ratios with ranges."""
    results = {name: _run(way, inputs, unseen) for name, way in WAYS.items()}
    torch.testing.assert_close(results["merged"], results["written"], atol=TOLERANCE, rtol=0)
    seconds: dict[str, dict[str, list[float]]] = {name: {"forward": [], "backward": []} for name in WAYS}
    for _ in range(repeats):
        for name, way in WAYS.items():
            _run(way, inputs, unseen, seconds[name])
    figures: dict[str, object] = {
        name: {f"{phase}_ms": 1e3 * statistics.median(values) for phase, values in phases.items()}
        | {"kept_mib": _kept_bytes(WAYS[name], inputs, unseen) / 2**20}
        for name, phases in seconds.items()
    }
    for phase in ("forward", "backward"):
        ratios = [
            written / merged
            for written, merged in zip(seconds["written"][phase], seconds["merged"][phase], strict=True)
        ]
        figures[f"{phase}_ratio"] = statistics.median(ratios)
        figures[f"{phase}_ratio_range"] = [min(ratios), max(ratios)]
    return figures


def _run(
    way: Callable[..., Tensor],
    inputs: list[Tensor],
    unseen: Tensor | None,
    seconds: dict[str, list[float]] | None = None,
) -> tuple[Tensor, ...]:
    """Output and gradients; seconds are appended."""
    start = time.perf_counter()
    output = way(*inputs, unseen)
    middle = time.perf_counter()
    gradients = torch.autograd.grad(output, inputs, torch.ones_like(output))
    if seconds is not None:
        seconds["forward"].append(middle - start)
        seconds["backward"].append(time.perf_counter() - middle)
    return (output.detach(), *gradients)


def _kept_bytes(way: Callable[..., Tensor], inputs: list[Tensor], unseen: Tensor | None) -> int:
    kept: dict[int, int] = {}

    def remember(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(remember, lambda tensor: tensor):
        output = way(*inputs, unseen)
    del output
    return sum(kept.values())


def main() -> None:
    """Measure and print as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--kv_heads", type=int, default=2)
    parser.add_argument("--head_size", type=int, default=64)
    parser.add_argument("--prompt", type=int, default=760, help="positions of the prompt")
    parser.add_argument("--tokens", type=int, default=128, help="positions of each completion")
    parser.add_argument("--rows", type=int, default=4, help="completions")
    parser.add_argument("--padding", type=int, default=0, help="positions of the prompt that are not seen")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    kv, rows, size = arguments.kv_heads, arguments.rows, arguments.head_size
    own, prompt = (1, kv, rows, arguments.tokens, size), (1, kv, arguments.prompt, size)
    queries = torch.randn(1, kv, rows, arguments.heads // kv, arguments.tokens, size) * size**-0.5
    others = [torch.randn(shape) for shape in (prompt, prompt, own, own)]
    inputs = [tensor.requires_grad_() for tensor in (queries, *others)]
    unseen = torch.arange(arguments.prompt)[None] < arguments.padding if arguments.padding else None
    figures = measure(inputs, unseen, arguments.repeats)
    settings = {name: value for name, value in vars(arguments).items() if name != "output"}
    report = json.dumps({**settings, "torch": version("torch"), "machine": platform.platform(), **figures}, indent=2)
    print(report)
    if arguments.output is not None:
        arguments.output.write_text(report + "\n")


if __name__ == "__main__":
    main()
