"""The page on adding a dataset, taken at its word: its two blocks are written to files and used as a reader would."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]


def documented_blocks() -> tuple[str, str]:
    page = (ROOT / "docs" / "extending.md").read_text()
    section = page.split("## Add a dataset")[1].split("\n## ")[0]
    (python,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    (yaml,) = re.findall(r"```yaml\n(.*?)```", section, re.DOTALL)
    return python, yaml


@pytest.fixture
def toy_corpus(tmp_path: Path, write_clip: Callable[[Path, int], Path]) -> Path:
    """A directory with the page's module and configuration, and a corpus of nine clips where that looks for it."""
    python, yaml = documented_blocks()
    (tmp_path / "csv_corpus.py").write_text(python)
    # A reader puts the module into datamodules/; the test may not write there.
    (tmp_path / "csv_corpus.yaml").write_text(yaml.replace("datamodules.csv_corpus", "csv_corpus"))
    root = tmp_path / "data" / "csv_corpus"
    rows = {
        "train": ["a,happy", "b,sadness", "c,sad", "d,happiness", "e,fear", "f,fear"],
        "test": ["g,anger", "h,fear"],
    }
    for split, lines in rows.items():
        for number, line in enumerate(lines):
            write_clip(root / "clips" / f"{line[0]}.mp4", number)
        (root / f"{split}.csv").write_text("file,emotion\n" + "".join(f"{line[0]}.mp4,{line[2:]}\n" for line in lines))
    write_clip(root / "clips" / "surplus.mp4", 1)
    return tmp_path


def run(directory: Path, code: str) -> subprocess.CompletedProcess[str]:
    environment = {"PYTHONPATH": f"{ROOT}:{directory}", "PATH": "/usr/bin:/bin", "HOME": str(directory)}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=directory, env=environment, capture_output=True, text=True, check=False
    )


def test_documented_corpus_loads_batches(toy_corpus: Path) -> None:
    result = run(
        toy_corpus,
        "from csv_corpus import CsvCorpus\n"
        "from datamodules.clip_datamodule import ClipDataModule\n"
        "data = ClipDataModule(CsvCorpus('data/csv_corpus', batch_size=2, validation_fraction=0.2))\n"
        "data.setup('fit'); data.setup('test')\n"
        "batches = [*data.train_dataloader(), *data.val_dataloader(), *data.test_dataloader()]\n"
        "import json; print(json.dumps({i: t for batch in batches for i, t in zip(batch.ids, batch.targets)}))",
    )
    assert result.returncode == 0, result.stderr
    expected = {"b": "sadness", "c": "sadness", "a": "happiness", "d": "happiness", "e": "fear", "f": "fear"}
    pairs = json.loads(result.stdout.splitlines()[-1])
    trained = {clip.removesuffix(".mp4"): target for clip, target in pairs.items()}
    assert trained.pop("g") == "anger"
    assert trained.pop("h") == "fear"
    # Three clips are held out and three are left to train on: one batch of two, and one clip that fills no batch.
    assert trained.items() <= expected.items()
    assert len(trained) == 5


def test_documented_corpus_is_inspected(toy_corpus: Path) -> None:
    with (toy_corpus / "data" / "csv_corpus" / "train.csv").open("a") as file:
        file.write("missing.mp4,fear\nx.mp4,joyful\n")
    result = run(
        toy_corpus,
        "import main; raise SystemExit(main.main(['inspect_data', '-c', 'csv_corpus.yaml', '--json', 'true',"
        " '--num_workers', '1']))",
    )
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert "missing" in json.dumps(report)
    assert "joyful" in json.dumps(report)
    assert "surplus" in json.dumps(report)
