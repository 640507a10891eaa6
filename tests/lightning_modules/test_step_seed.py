"""The seed of a training step."""

from itertools import product

import pytest

from lightning_modules.step_seed import step_seed

pytestmark = pytest.mark.unit


def test_every_place_in_a_run_has_a_seed_of_its_own() -> None:
    places = list(product(range(3), range(4), range(5), range(2)))
    seeds = [step_seed(*place) for place in places]
    assert len(set(seeds)) == len(places) and all(0 <= seed < 2**64 for seed in seeds)
    assert seeds == [step_seed(*place) for place in places]
    assert len({seed % 2**32 for seed in seeds}) == len(places), "NumPy takes 32 bits"
