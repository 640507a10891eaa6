"""The benchmark of completions of different lengths, on tiny models."""

import pytest

from benchmarks.grpo.geometries import GEOMETRIES
from benchmarks.ragged_completions import PASSES, draw_completions, measure

pytestmark = pytest.mark.e2e


def test_every_pass_is_measured_both_ways() -> None:
    """Whether both give the same log-probabilities is checked inside."""
    figures = measure(GEOMETRIES["smoke_text"], shortest=0.25, repeats=1, seed=0)
    lengths = draw_completions(GEOMETRIES["smoke_text"], 0.25, 0).lengths
    assert len(set(lengths.tolist())) > 1 and int(lengths[0]) == GEOMETRIES["smoke_text"].new_tokens
    assert figures["tokens_share"] == pytest.approx(float(lengths.sum()) / (len(lengths) * int(lengths[0])))
    for name in PASSES:
        assert figures[name]["ratio"] == figures[name]["padded_seconds"] / figures[name]["ragged_seconds"] > 0
