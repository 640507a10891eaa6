"""RAVDESS: acted speech, for evaluation out of domain.

It has no label file: the name of a clip, `MM-VV-EE-II-SS-RR-AA`, says modality, vocal channel, emotion, intensity,
statement, repetition and actor.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from datamodules.name_coded import NameCoded

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
_NOUNS = {"happy": "happiness", "sad": "sadness", "angry": "anger", "fearful": "fear", "surprised": "surprise"}


class RAVDESS(NameCoded):
    """RAVDESS' 1,440 speech clips: 96 neutral ones, 192 of each other emotion.

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
        test_fraction: see `NameCoded`.
        kwargs: see `ClipSource`.

    Raises:
        ValueError: `calm` is neither of the two.
    """

    names = re.compile(r"\d\d-\d\d-(?P<label>\d\d)(?:-\d\d){3}-(?P<speaker>\d\d)")
    words: ClassVar[Mapping[str, str]] = {f"{code:02d}": word for code, word in enumerate(_EMOTIONS, 1)}
    clips: ClassVar[Mapping[str, int]] = {word: 96 if word == "neutral" else 192 for word in _EMOTIONS}
    aliases: ClassVar[Mapping[str, str]] = {word: _NOUNS.get(word, word) for word in _EMOTIONS}
    expected = (
        "names 01-01-EE-II-SS-RR-AA (full audio-video, speech), e.g. Actor_01/01-01-05-01-02-01-01.mp4, from "
        "Video_Speech_Actor_*.zip, or 03-01-EE-II-SS-RR-AA.wav (sound alone), from Audio_Speech_Actors_01-24.zip"
    )

    def __init__(
        self,
        root: str,
        calm: Literal["leave_out", "neutral"] = "leave_out",
        taxonomy: str = "dfew",
        test_fraction: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(root, taxonomy, test_fraction, **kwargs)
        if calm not in ("leave_out", "neutral"):
            raise ValueError(f"calm must be leave_out or neutral, got {calm!r}.")
        if calm == "neutral" and self.labels["calm"] is None:
            self.labels["calm"] = "neutral"

    def media_key(self, path: Path) -> str | None:
        """The name of a speech clip with sound; None for any other file. An impossible code is refused."""
        if super().media_key(path) is None:
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
