"""MELD: utterances of a television series, with what is said and who speaks.

As its authors distribute it: `train_sent_emo.csv`, `dev_sent_emo.csv` and `test_sent_emo.csv`, and an archive of clips
for each, `dia<dialogue>_utt<utterance>.mp4`. `StartTime` and `EndTime` are those of the episode, not of the clip.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from datamodules.clip_source import Split
from datamodules.files.tables import read_csv
from datamodules.listed import ListedCorpus, Row
from datamodules.manifest_columns import Columns
from datamodules.published import Published

_PARTS = {"train": "train_splits", "dev": "dev_splits_complete", "test": "output_repeated_splits_test"}
"""Name of the CSV and of the archive → folder in the archive."""
_COLUMNS = ["Utterance", "Speaker", "Emotion", "Dialogue_ID", "Utterance_ID"]
_CLIPS = {
    "neutral": (4710 + 470, 1256), "joy": (1743 + 163, 402), "anger": (1109 + 153, 345), "surprise": (1205 + 150, 281),
    "sadness": (683 + 111, 208), "disgust": (271 + 22, 68), "fear": (268 + 40, 50),
}  # fmt: skip
"""Emotion → clips of the published CSV files to train on (with those for validation), and to test on."""


class MELD(ListedCorpus):
    """MELD's 9,989 utterances to train on, 1,109 for validation and 2,610 to test on.

    The published archive has no `dev/…/dia110_utt7.mp4`, and its `train/…/dia125_utt3.mp4` does not decode.

    Args:
        root: directory with the CSV files, and with `train_splits/`, `dev_splits_complete/` and
            `output_repeated_splits_test/`; or with `train/`, `dev/` and `test/`, which have these.
        taxonomy: the classes that labels may name; joy is happiness in others than `meld`.
        kwargs: see `ClipSource`.
    """

    fields = ("media", "id", "label", "split", "speaker", "transcript")
    aliases: ClassVar[Mapping[str, str]] = {emotion: "happiness" if emotion == "joy" else emotion for emotion in _CLIPS}
    label_files = ("{split}_sent_emo.csv", "{split}/{split}_sent_emo.csv", "data/MELD/{split}_sent_emo.csv")

    def __init__(self, root: str, taxonomy: str = "meld", **kwargs: Any) -> None:
        super().__init__(root, taxonomy, **kwargs)

    def published(self, split: Split) -> Published:
        """Counts of the published CSV files."""
        counts = {word: clips[split != "train"] for word, clips in _CLIPS.items()}
        return self.published_words(counts)

    def listed(self, columns: Columns) -> Iterator[Row]:
        """Rows of the three CSV files. See `ListedCorpus.listed`."""
        for part, folder in _PARTS.items():
            path = self.find(self.label_files, f"{part} labels", split=part)
            clips = next((own for own in (f"{part}/{folder}", folder) if Path(self.root, own).is_dir()), folder)
            for row, source in read_csv(path, _COLUMNS, refuse=self.refuse):
                clip = f"dia{row['Dialogue_ID']}_utt{row['Utterance_ID']}"
                yield (
                    {
                        "media": f"{clips}/{clip}.mp4",
                        "id": f"{part}/{clip}",  # each part counts from dia0_utt0
                        "label": row["Emotion"],
                        "split": part,
                        "speaker": row["Speaker"],
                        "transcript": row["Utterance"],
                    },
                    source,
                )
