"""Small generated corpora, one per layout, made once per session."""

from collections.abc import Callable
from pathlib import Path

import pytest

from datamodules.synthetic.synthesize import synthesize

NUM_CLIPS = 66


@pytest.fixture(scope="session")
def make_corpus(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Root of a corpus of `NUM_CLIPS` tiny clips in the given layout."""
    made: dict[str, Path] = {}

    def make(layout: str) -> Path:
        if layout not in made:
            made[layout] = tmp_path_factory.mktemp("synthetic") / layout
            synthesize(
                layout,
                str(made[layout]),
                NUM_CLIPS,
                seed=3,
                image_size=48,
                duration_seconds=0.24,
                sample_rate=8000,
                num_workers=1,
            )
        return made[layout]

    return make
