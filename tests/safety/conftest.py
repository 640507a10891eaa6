"""What an attacker plants, and the mark that it would leave."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

GOLDEN = Path(__file__).parents[1] / "golden"


class Payload:
    """Unpickling this creates a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.file,))


@pytest.fixture
def mark(tmp_path: Path) -> Iterator[Path]:
    """The file that planted code creates; a test fails where it is there at the end."""
    file = tmp_path / "mark"
    yield file
    assert not file.exists(), "planted code has run"


@pytest.fixture
def payload(mark: Path) -> Payload:
    return Payload(mark)


@pytest.fixture
def write_clip() -> Callable[[Path], Path]:
    """Write a clip with picture and sound to a path."""

    def write(path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        return Path(shutil.copy(GOLDEN / "preprocess" / "av_stereo44k.mp4", path))

    return write


@pytest.fixture
def verifier(tmp_path: Path) -> Path:
    """A copy of the tiny verifier, to change."""
    return Path(shutil.copytree(GOLDEN / "tiny_verifier", tmp_path / "verifier"))
