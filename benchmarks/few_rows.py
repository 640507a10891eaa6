"""Milliseconds of a decoding step's linear layers on a CPU: x Wᵀ, and W xᵀ as `TallProducts` computes them.

    python benchmarks/few_rows.py [--geometry cpu] [--rows 8] [--threads 2] [--repeats 30] [--output FILE.json]

All linear layers of the geometry's language model, one after the other, so that weights do not stay in a near cache;
random numbers, float32. The two ways take turns, and their results have to agree. Figures are medians over the repeats,
the ratio is the median of the ratios within a round, with the smallest and the largest; above 1, W xᵀ is faster.
"""

import argparse
import statistics
import sys
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.grpo import report
from benchmarks.grpo.geometries import GEOMETRIES, Language
from lightning_modules.backbones.tall_products import TALL_IS_FASTER, TallProducts

WAYS: dict[str, type[AbstractContextManager[Any]]] = {"x Wᵀ": nullcontext, "W xᵀ": TallProducts}


def layers_of(sizes: Language) -> list[nn.Linear]:
    """The linear layers of a decoding step, in order, the head last."""
    hidden, keys = sizes.hidden, sizes.hidden // sizes.heads * sizes.kv_heads
    inner = sizes.intermediate
    attention = [(hidden, hidden, True), (hidden, keys, True), (hidden, keys, True), (hidden, hidden, False)]
    mlp = [(hidden, inner, False), (hidden, inner, False), (inner, hidden, False)]
    shapes = (attention + mlp) * sizes.layers + [(hidden, sizes.vocabulary, False)]
    return [nn.Linear(*shape) for shape in shapes]


@torch.no_grad()
def measure(sizes: Language, rows: int, repeats: int) -> dict[str, Any]:
    """Milliseconds of both ways and their ratio."""
    layers = layers_of(sizes)
    inputs = {width: torch.randn(rows, 1, width) for width in (sizes.hidden, sizes.intermediate)}

    def run(way: str) -> list[Tensor]:
        with WAYS[way]():
            return [layer(inputs[layer.in_features]) for layer in layers]

    results = [run(way) for way in WAYS]
    torch.testing.assert_close(results[0], results[1], atol=1e-4, rtol=1e-4)
    milliseconds: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(repeats):
        for way in WAYS:
            start = time.perf_counter()
            run(way)
            milliseconds[way].append(1e3 * (time.perf_counter() - start))
    plain, tall = milliseconds.values()
    ratios = [before / after for before, after in zip(plain, tall, strict=True)]
    medians = {way: statistics.median(values) for way, values in milliseconds.items()}
    return {"milliseconds": medians, "ratio": statistics.median(ratios), "ratio_range": [min(ratios), max(ratios)]}


def main() -> None:
    """Measure and print as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--geometry", choices=GEOMETRIES, default="cpu")
    parser.add_argument("--rows", type=int, default=8, help="completions that are being written (default 8)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    figures = measure(GEOMETRIES[arguments.geometry].language, arguments.rows, arguments.repeats)
    report.write(arguments, figures | {"tall_is_taken_to_be_faster": TALL_IS_FASTER})


if __name__ == "__main__":
    main()
