"""Base of the corpora of acted speech, which have no label files: the name of a clip says what is in it."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from datamodules.clip_source import Split
from datamodules.listed import ListedCorpus, Row
from datamodules.manifest_columns import Columns
from datamodules.published import Published


class NameCoded(ListedCorpus):
    """Clips whose names tell emotion and speaker, to test on or to draw from.

    Args:
        root: directory with the clips, in any folders.
        taxonomy: the classes that answers may name.
        test_fraction: share of the speakers, with all of their clips, that is drawn for the test, while the others are
            trained on; null tests on all.
        kwargs: see `ListedCorpus`.
    """

    may_lack = ("sound", "pictures")
    fields = ("media", "id", "label", "speaker")
    names: ClassVar[re.Pattern[str]]
    """Form of a clip's name, with the groups `label` and `speaker`."""
    words: ClassVar[Mapping[str, str]] = {}
    """Label in the name → the corpus' word for it, where it is another."""
    expected: ClassVar[str]
    """What clips are called and where they come from, for messages."""
    clips: ClassVar[Mapping[str, int]]
    """The corpus' words for emotions → published clips."""

    def __init__(self, root: str, taxonomy: str, test_fraction: float | None = None, **kwargs: Any) -> None:
        super().__init__(root, taxonomy, **kwargs)
        self.draw(test_fraction or 0.0, by_speaker=True)
        self.is_drawn = test_fraction is not None
        self._part_of[""] = "test"

    def find_columns(self) -> Columns:
        """Without a draw all rows are to test on. See `ListedCorpus.find_columns`."""
        return Columns({name: name for name in (*self.fields, *(() if self.is_drawn else ("split",)))})

    def media_key(self, path: Path) -> str | None:
        """The name of a clip; None for any other file."""
        return path.stem if self.names.fullmatch(path.stem) else None

    def published(self, split: Split) -> Published | None:
        """Counts of all clips; None where a draw divides them."""
        return None if self.is_drawn else self.published_words(self.clips)

    def listed(self, columns: Columns) -> Iterator[Row]:
        """One row per clip, in the order of the names. See `ListedCorpus.listed`."""
        files = self.media_files()
        if not files:
            raise ValueError(f"No {self.name} clip under {self.root}. Expected {self.expected}.")
        for name, path in sorted(files.items()):
            found = self.names.fullmatch(name)
            assert found is not None, "see media_key"
            label = self.words.get(found["label"], found["label"])
            medium = str(path.relative_to(self.root))
            yield {"media": medium, "id": name, "label": label, "speaker": found["speaker"]}, str(path)
