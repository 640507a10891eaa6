"""Generated corpora and tiny models, which the tests through `main.py` share."""

from pathlib import Path

import pytest

import main


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Generated corpora and tiny models, made by the tools."""
    root = tmp_path_factory.mktemp("world")
    for layout, count in (("emer", 28), ("dfew", 70), ("sentences", 200)):
        main.run(
            ["synthesize", "--layout", layout, "--output", str(root / layout), "--num_clips", str(count)]
            + ["--num_workers", "1"]
        )
    main.run(
        ["tiny", "--output", str(root / "tiny"), "--texts", f'["{root}/emer/EMER_cold_start.json"]']
        + ["--verifier_texts", f'["{root}/sentences/train.jsonl"]', "--hidden_size", "64", "--num_layers", "2"]
    )
    return root
