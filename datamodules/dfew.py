"""DFEW (Dynamic Facial Expression in the Wild): 11,697 single-label film clips, seven emotions, five folds.

Layouts and label codes as distributed (spec "datasets" §2). The protocol of the paper is fold 5 alone.
"""

import csv
from pathlib import Path
from typing import Any

from datamodules import emotions
from datamodules.clip_datamodule import VIDEO_SUFFIXES, ClipDataModule, ClipRecord, Split
from datamodules.emotions import Taxonomy

LABEL_FILES = (
    "EmoLabel_DataSplit/{split}(single-labeled)/set_{fold}.csv",
    "EmoLabel_DataSplit/{split}(single_labeled)/set_{fold}.csv",
    "label/single_{split}set_{fold}.csv",
)
"""Where label files are looked for, in this order: official (folder and archive spelling), then R1-Omni's and ERV's."""

CLIP_DIRECTORIES = ("Clip/original", "clip")
"""Where clips are looked for, in this order and recursively: official (`part_*` or not), then R1-Omni's and ERV's."""

HEADER = ["video_name", "label"]


class DFEW(ClipDataModule):
    """DFEW, in its official layout or in that of R1-Omni and ERV, found by looking.

    Args:
        root: directory that holds `EmoLabel_DataSplit/` and `Clip/`, or `label/` and `clip/`.
        fold: which of the five published splits, 1 to 5; the paper reports fold 5.
        kwargs: see `ClipDataModule`.
    """

    def __init__(self, root: str, fold: int = 5, **kwargs: Any) -> None:
        super().__init__(root, **kwargs)
        if not 1 <= fold <= 5:
            raise ValueError(f"DFEW has folds 1 to 5, got {fold}.")
        self.fold = fold
        self._clips: dict[int, Path] | None = None

    @property
    def taxonomy(self) -> Taxonomy:
        """DFEW's seven classes."""
        return emotions.DFEW

    def key(self, clip_id: str) -> str:
        """`00012` and `12` are the same clip."""
        return str(int(clip_id))

    def records(self, split: Split) -> list[ClipRecord]:
        """Rows of the fold's CSV; `predict` is the test split. See `ClipDataModule.records`."""
        path = self._label_file("train" if split == "train" else "test")
        clips = self._index_clips()
        rows = []
        for number, code, source in _read_labels(path):
            media = clips.get(int(number))
            rows.append(
                ClipRecord(number, str(media) if media else None, self.taxonomy.from_code(code, source), None, source)
            )
        return rows

    def _label_file(self, split: str) -> Path:
        candidates = [self.root / place.format(split=split, fold=self.fold) for place in LABEL_FILES]
        for path in candidates:
            if path.is_file():
                return path
        raise FileNotFoundError(
            f"No DFEW {split} labels of fold {self.fold} under {self.root}. Looked for: "
            + ", ".join(map(str, candidates))
            + ". `root` must be the directory that holds EmoLabel_DataSplit/ and Clip/, or label/ and clip/."
        )

    def _index_clips(self) -> dict[int, Path]:
        """Video files by clip number, whatever the zero-padding of their names."""
        if self._clips is not None:
            return self._clips
        candidates = [self.root / place for place in CLIP_DIRECTORIES]
        directory = next((path for path in candidates if path.is_dir()), None)
        if directory is None:
            raise FileNotFoundError(
                f"No DFEW clips under {self.root}. Looked for the directories: {', '.join(map(str, candidates))}."
            )
        clips: dict[int, Path] = {}
        for path in sorted(directory.rglob("*")):
            if path.suffix.lower() not in VIDEO_SUFFIXES or not path.stem.isdecimal():
                continue
            first = clips.setdefault(int(path.stem), path)
            if first is not path:
                raise ValueError(f"Two files are DFEW clip {int(path.stem)}: {first} and {path}. Remove one.")
        self._clips = clips
        return clips


def _read_labels(path: Path) -> list[tuple[str, int, str]]:
    """(video_name as written, label code, file:row) of each row.

    Raises:
        ValueError: a wrong header, a malformed row, or no row.
    """
    rows = []
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file)
        header = [name.strip() for name in next(reader, [])]
        if header != HEADER:
            raise ValueError(f"{path}:1: header {header} is not DFEW's. Expected {','.join(HEADER)}.")
        for row in reader:
            if not row:
                continue
            source = f"{path}:{reader.line_num}"
            fields = [value.strip() for value in row]
            if len(fields) != 2 or not all(value.isdecimal() for value in fields):
                raise ValueError(f"{source}: got {row}. Expected a clip number and a label code, e.g. 12,4.")
            rows.append((fields[0], int(fields[1]), source))
    if not rows:
        raise ValueError(f"{path} lists no clips.")
    return rows
