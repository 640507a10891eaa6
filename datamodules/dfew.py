"""DFEW (Dynamic Facial Expression in the Wild): 11,697 single-label film clips, seven emotions, five folds.

Layouts, label codes and counts as distributed (docs/data.md). The protocol of the paper is fold 5 alone.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datamodules.clip_source import Split
from datamodules.corpus import Corpus, LabelRow
from datamodules.emotions import DFEW_TAXONOMY
from datamodules.files.tables import read_csv
from datamodules.published import NUM_FOLDS, Coding, Published, published_fold

_MOST_DIGITS = 20  # of a clip's number and a code; Python refuses thousands
_TOTALS = dict(zip(DFEW_TAXONOMY.classes, (2445, 1894, 2669, 2173, 1469, 145, 902), strict=True))


class DFEW(Corpus):
    """DFEW, in its official layout or in that of R1-Omni and ERV, found by looking.

    Args:
        root: directory that holds `EmoLabel_DataSplit/` and `Clip/`, or `label/` and `clip/`.
        fold: which of the five published splits, 1 to 5; the paper reports fold 5.
        kwargs: see `ClipSource`.
    """

    taxonomy = DFEW_TAXONOMY
    # Official (folder and archive spelling), then R1-Omni's and ERV's.
    label_files = (
        "EmoLabel_DataSplit/{split}(single-labeled)/set_{corpus.fold}.csv",
        "EmoLabel_DataSplit/{split}(single_labeled)/set_{corpus.fold}.csv",
        "label/single_{split}set_{corpus.fold}.csv",
    )
    # Official, in `part_*` or not, then R1-Omni's and ERV's.
    clip_directories = ("Clip/original", "clip")
    other_codings = (Coding("S2D's copies", DFEW_TAXONOMY.classes, 0),)

    def __init__(self, root: str, fold: int = 5, **kwargs: Any) -> None:
        super().__init__(root, **kwargs)
        if not 1 <= fold <= NUM_FOLDS:
            raise ValueError(f"DFEW has folds 1 to {NUM_FOLDS}, got {fold}.")
        self.fold = fold

    def key(self, clip_id: str) -> str:
        """`00012` and `12` are the same clip."""
        return str(int(clip_id))

    def media_key(self, path: Path) -> str | None:
        """The clip's number, whatever its zero-padding."""
        return self.key(path.stem) if path.stem.isdecimal() else None

    def published(self, split: Split) -> Published:
        """Counts of the official README, and of the published split files."""
        return published_fold(_TOTALS, self.fold, split, exact=True)

    def read_labels(self, path: Path) -> Iterator[LabelRow]:
        """Rows `video_name,label`: a clip number and a code from 1."""
        for row, source in read_csv(path, ["video_name", "label"], refuse=self.refuse):
            number, code = row["video_name"], row["label"]
            if not (number.isdecimal() and code.isdecimal() and len(number + code) < _MOST_DIGITS):
                self.refuse(
                    f"{source}: got {number:.200},{code:.200}. Expected a clip number and a label code, e.g. 12,4."
                )
                continue
            yield LabelRow(number, int(code), source)
