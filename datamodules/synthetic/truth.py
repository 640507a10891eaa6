"""The truth about the clips of a generated corpus, as `synthesize` writes it beside them, read back."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path, PurePath
from typing import Any

from datamodules.files.json_files import read_json_object, shown
from datamodules.synthetic.grammar import Claim

TRUTH_FILE = "synthetic.json"


@dataclass(frozen=True)
class ClipTruth:
    """What a generated clip shows. A body is not drawn: nothing can support what is said of it.

    Args:
        label: the clip's emotion.
        face_emotion: what the face shows.
        voice_emotion: what the voice carries; at most one of the two differs from `label`.
    """

    label: str
    face_emotion: str
    voice_emotion: str

    def shown(self, channel: str) -> str | None:
        """Emotion of `face` or `voice`; None of a channel that the clip does not have."""
        return {"face": self.face_emotion, "voice": self.voice_emotion}.get(channel)

    def supports(self, claim: Claim) -> bool | None:
        """Whether a claim is true; None where nothing in the clip can tell."""
        channel, emotion = claim
        own = self.shown(channel)
        return None if own is None else own == emotion


@dataclass(frozen=True)
class CorpusTruth:
    """The truth about a generated corpus.

    Args:
        path: the file.
        clips: path of the media file below the corpus' root → what it shows.
    """

    path: Path
    clips: Mapping[str, ClipTruth]

    def of(self, media: str | None) -> ClipTruth | None:
        """What a clip shows, by the path of its media file, wherever the corpus lies; None for a clip of no truth."""
        parts = PurePath(media or "").parts
        ends = ("/".join(parts[start:]) for start in range(len(parts)))
        return next((self.clips[end] for end in ends if end in self.clips), None)


def read_truth(path: str | Path) -> CorpusTruth:
    """Read the `synthetic.json` of a generated corpus.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not such a file, or no valid JSON.
    """
    content = read_json_object(path)
    clips = content.get("clips")
    if not isinstance(clips, list) or not clips:
        raise ValueError(
            f"{path}: clips is {shown(clips)}. Expected the {TRUTH_FILE} that `synthesize` writes into a corpus."
        )
    return CorpusTruth(Path(path), dict(_clip(clip, f"{path}: clip {row}") for row, clip in enumerate(clips)))


def _clip(clip: Any, where: str) -> tuple[str, ClipTruth]:
    names = ["media", *(field.name for field in fields(ClipTruth))]
    if not isinstance(clip, dict) or not all(isinstance(clip.get(name), str) for name in names):
        raise ValueError(f"{where} is {shown(clip)}. Expected {', '.join(names)} as text, as `synthesize` writes them.")
    media, *emotions = (clip[name] for name in names)
    return media, ClipTruth(*emotions)
