"""RAVDESS: acted speech, for evaluation out of domain.

It has no label file: the name of a clip, `MM-VV-EE-II-SS-RR-AA`, says modality, vocal channel, emotion, intensity,
statement, repetition and actor.
"""

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from datamodules.clip_source import Split
from datamodules.corpus import Corpus, LabelRow
from datamodules.emotions import get_taxonomy
from datamodules.published import Published

_NAME = re.compile(r"\d\d(?:-\d\d){6}")
_FIELDS = {
    "modality": 3,
    "vocal channel": 2,
    "emotion": 8,
    "intensity": 2,
    "statement": 2,
    "repetition": 2,
    "actor": 24,
}
"""What the seven numbers of a name mean, and the largest of each; the smallest is 1."""
_FULL, _SOUND_ALONE = 1, 3
"""Codes of modality: picture and sound, and sound alone."""
_EMOTIONS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
"""RAVDESS' words, by emotion code from 1."""
_CLIPS = {
    "neutral": 96, "happiness": 192, "sadness": 192, "anger": 192, "fear": 192, "disgust": 192, "surprise": 192,
}  # fmt: skip
_NUM_CALM = 192


class RAVDESS(Corpus):
    """RAVDESS' 1,440 speech clips, to test on: 96 neutral ones, 192 of each other emotion.

    Names begin with `01-01` (full audio-video, speech) or `03-01` (its sound alone, which counts where the full clip is
    not there). Its video-only duplicates (`02-…`) and songs (`…-02-…`) are passed over. Labels: 01 neutral, 03 happy →
    happiness, 04 sad → sadness, 05 angry → anger, 06 fearful → fear, 07 disgust, 08 surprised → surprise. 02 calm has
    no class but in `ravdess`; see `calm`.

    Args:
        root: directory with the clips, in `Actor_*/`, `Video_Speech_Actor_*/` or any other folders. With
            `allow_missing: [sound]` sound alone is passed over.
        calm: what becomes of the 192 calm clips where the taxonomy has no such class: `leave_out`, or count them as
            `neutral`.
        taxonomy: the classes that answers may name: `dfew`, RAVDESS' seven without calm, `ravdess` with it, or another.
        kwargs: see `ClipSource`.

    Raises:
        ValueError: `calm` is neither of the two.
    """

    may_lack = ("sound", "pictures")
    aliases: ClassVar[Mapping[str, str]] = {"fearful": "fear", "surprised": "surprise"}

    def __init__(
        self,
        root: str,
        calm: Literal["leave_out", "neutral"] = "leave_out",
        taxonomy: str = "dfew",
        **kwargs: Any,
    ) -> None:
        super().__init__(root, **kwargs)
        if calm not in ("leave_out", "neutral"):
            raise ValueError(f"calm must be leave_out or neutral, got {calm!r}.")
        self.calm = calm
        self.taxonomy = get_taxonomy(taxonomy)

    @property
    def splits(self) -> tuple[Split, ...]:
        """RAVDESS is evaluated on, not trained on."""
        return ("test", "predict")

    def published(self, split: Split) -> Published:
        """Counts of the speech clips, the calm ones among them."""
        calm = Counter(
            {"calm": _NUM_CALM} if self._has_calm else {"neutral": _NUM_CALM} if self.calm == "neutral" else {}
        )
        classes = dict(Counter(_CLIPS) + calm)
        return Published(sum(_CLIPS.values()) + _NUM_CALM, classes, exact=True)

    @property
    def _has_calm(self) -> bool:
        return "calm" in self.taxonomy.classes

    def media_key(self, path: Path) -> str | None:
        """The name of a speech clip with sound; None for any other file. An impossible code is refused."""
        if not _NAME.fullmatch(path.stem):
            return None
        codes = dict(zip(_FIELDS, map(int, path.stem.split("-")), strict=True))
        wrong = [name for name, code in codes.items() if not 1 <= code <= _FIELDS[name]]
        if wrong:
            found = ", ".join(f"{name} {codes[name]:02d} (expected 01..{_FIELDS[name]:02d})" for name in wrong)
            self.refuse(f"{path}: the name has the form of RAVDESS', but {found}. Rename or remove the file.")
            return None
        return path.stem if codes["modality"] in (_FULL, _SOUND_ALONE) and codes["vocal channel"] == 1 else None

    def media_files(self) -> dict[str, Path]:
        """See `Corpus.media_files`; of a performance that is there in full, not its sound alone."""
        files = super().media_files()
        in_full = {name[2:] for name in files if int(name[:2]) == _FULL}
        return {name: path for name, path in files.items() if int(name[:2]) == _FULL or name[2:] not in in_full}

    def rows(self, split: Split) -> list[LabelRow]:
        """One row per clip, from its name, in the order of the names.

        Raises:
            FileNotFoundError: no such directory.
            ValueError: no speech clip there, or an impossible name.
        """
        files = self.media_files()
        if not files:
            raise ValueError(
                f"No RAVDESS clip under {self.root}. Expected names 01-01-EE-II-SS-RR-AA (full audio-video, speech), "
                "e.g. Actor_01/01-01-05-01-02-01-01.mp4, from Video_Speech_Actor_*.zip, or 03-01-EE-II-SS-RR-AA.wav "
                "(sound alone), from Audio_Speech_Actors_01-24.zip."
            )
        return [self._row(name, path) for name, path in sorted(files.items())]

    def _row(self, name: str, path: Path) -> LabelRow:
        emotion = _EMOTIONS[int(name.split("-")[2]) - 1]
        is_neutral = emotion == "calm" and self.calm == "neutral" and not self._has_calm
        label = "neutral" if is_neutral else emotion
        return LabelRow(name, label, str(path))

    def leaves_out(self, row: LabelRow) -> bool:
        """Calm clips, unless they count as neutral or have a class."""
        return row.label == "calm" and not self._has_calm
