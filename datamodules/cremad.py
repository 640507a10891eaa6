"""CREMA-D: acted English sentences, with the emotion in the name of the clip: `1001_DFA_ANG_XX` says actor, sentence,
emotion and its level.
"""

import re
from collections.abc import Mapping
from typing import Any, ClassVar

from datamodules.name_coded import NameCoded


class CREMAD(NameCoded):
    """CREMA-D's 7,442 clips of 91 actors: 1,271 of each emotion, 1,087 neutral ones.

    Labels are what the actor was asked to show: ANG anger, DIS disgust, FEA fear, HAP happiness, NEU neutral, SAD
    sadness; not what raters saw.

    Args:
        root: of the repository: films in `VideoFlash/`, else sound alone in `AudioWAV/` or `AudioMP3/`; or any other
            directory with clips of these names.
        taxonomy: the classes that labels may name.
        test_fraction: see `NameCoded`; the corpus has no split of its own.
        kwargs: see `ClipSource`.
    """

    clip_directories = ("VideoFlash", "AudioWAV", "AudioMP3", ".")
    names = re.compile(r"(?P<speaker>1\d{3})_[A-Z]{3}_(?P<label>ANG|DIS|FEA|HAP|NEU|SAD)_(?:LO|MD|HI|XX?)", re.ASCII)
    expected = "names such as 1001_DFA_ANG_XX.flv in VideoFlash/, or .wav in AudioWAV/ (fetched with git lfs)"
    clips: ClassVar[Mapping[str, int]] = {"ang": 1271, "dis": 1271, "fea": 1271, "hap": 1271, "neu": 1087, "sad": 1271}
    aliases: ClassVar[Mapping[str, str]] = {
        "ang": "anger", "dis": "disgust", "fea": "fear", "hap": "happiness", "neu": "neutral", "sad": "sadness",
    }  # fmt: skip

    def __init__(self, root: str, taxonomy: str = "cremad", test_fraction: float | None = None, **kwargs: Any) -> None:
        super().__init__(root, taxonomy, test_fraction, **kwargs)
