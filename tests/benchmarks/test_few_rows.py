"""The benchmark of linear layers of few rows, on a tiny model."""

import pytest

from benchmarks.few_rows import WAYS, layers_of, measure
from benchmarks.grpo.geometries import GEOMETRIES

pytestmark = pytest.mark.e2e


def test_both_ways_are_measured() -> None:
    """Whether their results agree is checked inside."""
    sizes = GEOMETRIES["smoke_text"].language
    assert len(layers_of(sizes)) == 7 * sizes.layers + 1
    figures = measure(sizes, rows=3, repeats=1)
    assert set(figures["milliseconds"]) == set(WAYS) and figures["ratio"] > 0
