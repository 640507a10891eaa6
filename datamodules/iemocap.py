"""IEMOCAP: acted dialogues of two people, cut into turns.

As its authors distribute it, per session: `dialog/EmoEvaluation/<dialogue>.txt` has the turns, in lines
`[6.2901 - 8.2357]⇥Ses01F_impro01_F000⇥neu⇥[2.5000, 2.5000, 2.5000]`, and what single raters said below each;
`dialog/avi/DivX/<dialogue>.avi` films both people, `sentences/wav/<dialogue>/<turn>.wav` is the sound of a turn, and
`dialog/transcriptions/<dialogue>.txt` has what is said, `Ses01F_impro01_F000 [006.2901-008.2357]: Excuse me.`
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from datamodules.clip_source import Split
from datamodules.files.text import numbered_lines, read_text
from datamodules.listed import ListedCorpus, Row
from datamodules.manifest_columns import Columns
from datamodules.published import Published

NUM_SESSIONS = 5
_TURN = re.compile(
    r"\[(?P<start>\d+\.\d+) - (?P<end>\d+\.\d+)\]\s+"
    r"(?P<id>Ses0\d[FM]_\w+_(?P<voice>[FM])\w*)\s+(?P<label>[a-z]{3})\s.*",
    re.ASCII,
)
_SPOKEN = re.compile(r"(?P<id>Ses0\d[FM]_\w+) \[[\d.-]+\]: ?(?P<text>.*)", re.ASCII)
_TURNS = {
    "neu": (1708, 384), "fru": (1849, 381), "exc": (1041, 299), "sad": (1084, 245), "ang": (1103, 170),
    "hap": (595, 143), "sur": (107, 18), "fea": (40, 10), "oth": (3, 0), "dis": (2, 0), "xxx": (2507, 520),
}  # fmt: skip
"""Label → turns in all sessions, and in the fifth."""


class IEMOCAP(ListedCorpus):
    """IEMOCAP's 10,039 turns, one session of two speakers to test on and the other four to train on.

    A clip is the stretch of the film in which its turn is spoken. Turns without a class are left out and counted: in
    `iemocap4` all but neutral, happiness (with excitement), sadness and anger, which leaves the usual 5,531.

    Args:
        root: `IEMOCAP_full_release`, with `Session1/` to `Session5/`, or the directory that it is in.
        fold: number of the session to test on.
        modality: `film`, or `sound`, which takes the sound of the turns alone.
        taxonomy: the classes that labels may name: `iemocap4`, `iemocap6`, or another.
        kwargs: see `ClipSource`.

    Raises:
        ValueError: there is no such session or modality.
    """

    may_lack = ("sound", "pictures")
    fields = ("media", "id", "label", "fold", "speaker", "transcript", "start", "end")
    aliases: ClassVar[Mapping[str, str]] = {
        "neu": "neutral", "hap": "happiness", "exc": "excitement", "sad": "sadness", "ang": "anger",
        "fru": "frustration", "sur": "surprise", "fea": "fear", "dis": "disgust", "oth": "other", "xxx": "no agreement",
    }  # fmt: skip

    def __init__(
        self,
        root: str,
        fold: int = 5,
        modality: Literal["film", "sound"] = "film",
        taxonomy: str = "iemocap4",
        **kwargs: Any,
    ) -> None:
        release = Path(root, "IEMOCAP_full_release")
        super().__init__(str(release) if release.is_dir() else root, taxonomy, **kwargs)
        self.fold = fold
        if not 1 <= fold <= NUM_SESSIONS:
            raise ValueError(f"IEMOCAP has sessions 1 to {NUM_SESSIONS}, got fold {fold}.")
        if modality not in ("film", "sound"):
            raise ValueError(f"modality must be film or sound, got {modality!r}.")
        self.modality = modality

    def media_key(self, path: Path) -> str | None:
        """Films of dialogues, or the sound of turns; none of the other files."""
        return super().media_key(path) if ("avi" if self.modality == "film" else "sentences") in path.parts else None

    def published(self, split: Split) -> Published | None:
        """Counts of the fifth session and of the other four; of another fold, none."""
        if self.fold != NUM_SESSIONS:
            return None
        return self.published_words(
            {word: total - fifth if split == "train" else fifth for word, (total, fifth) in _TURNS.items()}
        )

    def listed(self, columns: Columns) -> Iterator[Row]:
        """Turns of all sessions. See `ListedCorpus.listed`."""
        place = "Session[1-5]/dialog/EmoEvaluation/Ses*.txt"
        paths = sorted(self.root.glob(place))
        if not paths:
            raise FileNotFoundError(
                f"No IEMOCAP labels under {self.root}. Looked for: {place}. Set `root` to IEMOCAP_full_release."
            )
        for path in paths:
            if not self.refuses_link(path):
                yield from self._turns(path)

    def _turns(self, path: Path) -> Iterator[Row]:
        """Turns of a dialogue."""
        dialogue, session = path.stem, path.parents[2].name
        spoken = self._spoken(path.parents[1] / "transcriptions" / path.name)
        for line, source in numbered_lines(read_text(path), path):
            if not line.startswith("["):
                continue  # the header, and what single raters said
            turn = _TURN.fullmatch(line)
            if turn is None or not turn["id"].startswith(dialogue):
                self.refuse(
                    f"{source}: got {line!r:.120}. Expected a turn of {dialogue}, e.g. [6.2901 - 8.2357], "
                    f"{dialogue}_F000, neu and three ratings, with tabs between them."
                )
                continue
            row = {
                "media": f"{session}/dialog/avi/DivX/{dialogue}.avi",
                "id": turn["id"],
                "label": turn["label"],
                "fold": session.removeprefix("Session"),
                "speaker": f"{session} {turn['voice']}",
                "transcript": spoken.get(turn["id"]),
            }
            if self.modality == "film":
                row |= {"start": turn["start"], "end": turn["end"]}
            else:
                row["media"] = f"{session}/sentences/wav/{dialogue}/{turn['id']}.wav"
            yield row, source

    def _spoken(self, path: Path) -> dict[str, str]:
        """Turn → what is said; nothing where the file is not there."""
        if not path.is_file() or self.refuses_link(path):
            return {}
        found = (_SPOKEN.fullmatch(line) for line, _ in numbered_lines(read_text(path), path))
        return {turn["id"]: turn["text"] for turn in found if turn is not None}
