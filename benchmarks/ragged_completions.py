"""Seconds to score completions of different lengths, with and without computing their padding.

    python benchmarks/ragged_completions.py [--geometry cpu] [--shortest 0.25] [--repeats 7] [--seed 0]
        [--output FILE.json]

The completions of benchmarks/grpo_step.py's geometry, one as long as it says, the others by a uniform draw from
`--shortest` of that to all of it. "padded" computes every position up to the longest completion, "ragged" those that
predict a token. Three passes: "reference" (no gradient), "update" (forward and backward), and "update again" (the same
with gradient checkpointing). Both ways take turns; figures are medians over the repeats, ratios medians of the ratios
within a round, in brackets the smallest and the largest. Log-probabilities have to agree.
"""

import argparse
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.grpo import report
from benchmarks.grpo.geometries import GEOMETRIES, Geometry
from benchmarks.grpo.models import build, make_batch
from datamodules.batch import ClipBatch
from lightning_modules.backbones.decoder_backbone import DecoderBackbone
from lightning_modules.backbones.interface import Completions
from lightning_modules.backbones.percept import Percept

TOLERANCE = 1e-4
PASSES = ("reference", "update", "update again")


def draw_completions(geometry: Geometry, shortest: float, seed: int) -> Completions:
    """Random tokens; the first completion is the longest."""
    generator = torch.Generator().manual_seed(seed)
    count, width = geometry.num_prompts * geometry.group_size, geometry.new_tokens
    shares = shortest + (1 - shortest) * torch.rand(count, generator=generator)
    lengths = (shares * width).ceil().long()
    lengths[0] = width
    token_ids = torch.randint(1, geometry.language.vocabulary, (count, width), generator=generator)
    mask = torch.arange(width) < lengths[:, None]
    return Completions(token_ids, mask, torch.zeros(mask.shape), torch.ones(count, dtype=torch.bool))


def padded(completions: Completions) -> Completions:
    """The same, with padding that counts as tokens."""
    return replace(completions, mask=torch.ones_like(completions.mask))


def run_pass(
    name: str, policy: DecoderBackbone, batch: ClipBatch, percept: Percept, completions: Completions
) -> Tensor:
    """Log-probabilities; an update's gradients are made and dropped."""
    if name == "reference":
        with torch.no_grad():
            return policy.logprobs(policy.encode(batch, percept), completions)
    logprobs = policy.logprobs(policy.encode(batch, percept), completions)
    logprobs.sum().backward()
    policy.zero_grad()
    return logprobs.detach()


def measure(geometry: Geometry, shortest: float, repeats: int, seed: int) -> dict[str, Any]:
    """Seconds and ratios of each pass."""
    with tempfile.TemporaryDirectory() as scratch:
        policy = build(geometry, Path(scratch), seed)
    batch, completions = make_batch(geometry, seed), draw_completions(geometry, shortest, seed)
    with torch.no_grad():
        percept = policy.perceive(batch)
    ways = {"padded": padded(completions), "ragged": completions}
    figures: dict[str, Any] = {"tokens_share": float(completions.mask.float().mean())}
    for name in PASSES:
        if name == "update again":
            policy.decoder.body.activation_checkpointing_enable({"use_reentrant": False})
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        for repeat in range(repeats + 1):
            logprobs = {}
            for way, given in ways.items():
                start = time.perf_counter()
                logprobs[way] = run_pass(name, policy, batch, percept, given)
                if repeat:
                    seconds[way].append(time.perf_counter() - start)
            expected = logprobs["padded"].masked_fill(~completions.mask, 0.0)
            torch.testing.assert_close(logprobs["ragged"], expected, atol=TOLERANCE, rtol=0)
        figures[name] = _summary(seconds)
    return figures


def _summary(seconds: dict[str, list[float]]) -> dict[str, Any]:
    ratios = [before / after for before, after in zip(seconds["padded"], seconds["ragged"], strict=True)]
    medians: dict[str, Any] = {f"{way}_seconds": statistics.median(values) for way, values in seconds.items()}
    return medians | {"ratio": statistics.median(ratios), "ratio_range": [min(ratios), max(ratios)]}


def main() -> None:
    """Measure and print as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--geometry", choices=GEOMETRIES, default="cpu")
    parser.add_argument("--shortest", type=float, default=0.25, help="share of the longest (default 0.25)")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    geometry = GEOMETRIES[arguments.geometry]
    figures = measure(geometry, arguments.shortest, arguments.repeats, arguments.seed)
    report.write(arguments, figures)


if __name__ == "__main__":
    main()
