"""The batch contract between DataModules and models.

Shape legend: B clips, T frames per clip, H × W pixels, S audio samples (16 kHz mono) of the longest clip, M mel bins,
F feature frames.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Self

import torch
from torch import Tensor, nn

from datamodules.files.printable import readable_name

SAMPLE_RATE = 16_000
"""Sample rate of every waveform in a batch, in Hz."""


@dataclass
class Clip:
    """One decoded clip.

    Args:
        id: the clip's id as distributed.
        media: path of the media file.
        frames: uint8 RGB `[T, 3, H, W]`; black when the clip has no pictures.
        waveform: float32 mono 16 kHz `[S]`, about in [-1, 1] (a downmix of loud stereo may exceed it).
            Empty when the clip has no audio.
        has_audio: False when the file has no audio track (the model then hears silence, decision 8).
        instruction: the question that the model is asked.
        target: canonical emotion, or None where there is no label (`predict`); several are joined by `_`.
        response: the completion to learn in stage 1, or None.
        failure: why the clip could not be decoded, or None. A failed clip has black frames and no audio.
        dataset: name of the corpus.
        mel: float32 `[M, F]` log-mel features of the waveform, where the loader computes them (`MediaSettings.mel`).
        duration_seconds: of the video track, or of the sound where there is none; 0 for a failed clip. The frames are
            uniformly spaced by index, round((N-1)/T · (i + 0.5) + 1e-6) of N, so that frame i is at about
            duration_seconds · (i + 0.5) / T.
        has_video: False when the file is sound alone (the model then sees black frames).
        transcript: what is said in the clip, or None.
        told: the line before the question that tells the model so, or None where it is not told.
    """

    id: str
    media: str
    frames: Tensor
    waveform: Tensor
    has_audio: bool
    instruction: str
    target: str | None = None
    response: str | None = None
    failure: str | None = None
    dataset: str = ""
    mel: Tensor | None = None
    duration_seconds: float = 0.0
    has_video: bool = True
    transcript: str | None = None
    told: str | None = None


@dataclass(frozen=True)
class BadClip:
    """A clip that could not be loaded.

    Args:
        id: the clip's id as distributed.
        media: path of its media file, as `readable_name` writes it.
        reason: why.
    """

    id: str
    media: str
    reason: str

    @classmethod
    def of(cls, clip_id: str, media: str, reason: str) -> Self:
        """The bad clip of a media file."""
        return cls(clip_id, readable_name(media), reason)

    def __str__(self) -> str:
        return f"{self.media}: {self.reason}"


@dataclass
class ClipBatch:
    """A batch of clips; fields as in `Clip`, one entry per clip.

    Args:
        frames: uint8 `[B, T, 3, H, W]`.
        waveform: float32 `[B, S]`, zero-padded on the right.
        waveform_lengths: int64 `[B]`, samples before the padding.
        has_audio: bool `[B]`.
        has_video: bool `[B]`.
        durations_seconds: float32 `[B]`; frame i is at about durations_seconds · (i + 0.5) / T.
        mel: float32 `[B, M, F]`, or None where the loader computes no features.
        skipped: clips left out because they could not be decoded (training only).
    """

    ids: list[str]
    media: list[str]
    frames: Tensor
    waveform: Tensor
    waveform_lengths: Tensor
    has_audio: Tensor
    has_video: Tensor
    durations_seconds: Tensor
    instructions: list[str]
    targets: list[str | None]
    responses: list[str | None]
    failures: list[str | None]
    datasets: list[str]
    transcripts: list[str | None]
    told: list[str | None]
    mel: Tensor | None = None
    skipped: list[BadClip] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def questions(self) -> list[str]:
        """The text that the model is asked with: what it is told is said in the clip, and the instruction."""
        pairs = zip(self.told, self.instructions, strict=True)
        return [instruction if told is None else f"{told}\n{instruction}" for told, instruction in pairs]

    @property
    def bad_clips(self) -> list[BadClip]:
        """The clips that could not be decoded, left out or kept; not those whose row never had a file."""
        kept = zip(self.ids, self.media, self.failures, strict=True)
        return self.skipped + [BadClip.of(i, media, failure) for i, media, failure in kept if failure and media]

    def rows(self, start: int, stop: int) -> Self:
        """Clips `start` to `stop`, as views, with the padding of the whole batch; `skipped` is empty."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        parts: dict[str, Any] = {name: value[start:stop] for name, value in values.items() if value is not None}
        return replace(self, **{**parts, "skipped": []})

    def take(self, rows: Sequence[int]) -> Self:
        """The given clips, with the padding of the whole batch; `skipped` is empty."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "skipped"}
        picked: dict[str, Any] = {
            name: value[torch.tensor(rows, dtype=torch.long, device=value.device)]
            if isinstance(value, Tensor)
            else [value[row] for row in rows]
            for name, value in values.items()
            if value is not None
        }
        return replace(self, **picked, skipped=[])

    def _map_tensors(self, fn: Callable[[Tensor], Tensor]) -> Self:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        changed: dict[str, Any] = {name: fn(value) for name, value in values.items() if isinstance(value, Tensor)}
        return replace(self, **changed)

    def to(self, device: torch.device | str, **kwargs: Any) -> Self:
        """The batch with its tensors on `device`. Lightning calls this."""
        return self._map_tensors(lambda t: t.to(device, **kwargs))

    def pin_memory(self) -> Self:
        """The batch with its tensors in page-locked memory. The DataLoader calls this."""
        return self._map_tensors(Tensor.pin_memory)


def _stack_mel(clips: list[Clip]) -> Tensor | None:
    features = [clip.mel for clip in clips if clip.mel is not None]
    return torch.stack(features) if features else None


def collate(clips: list[Clip], drop_failures: bool = False) -> ClipBatch:
    """Stack clips into a batch, padding the waveforms with zeros on the right.

    Args:
        clips: at least one clip.
        drop_failures: leave clips with a `failure` out and list them in `skipped` (training); the batch may then be
            empty. Evaluation keeps them: there a clip that cannot be decoded counts as a wrong answer.

    Raises:
        ValueError: no clips, or frames of different shapes.
    """
    if not clips:
        raise ValueError("Cannot make a batch of no clips.")
    shapes = {tuple(clip.frames.shape) for clip in clips}
    if len(shapes) > 1:
        raise ValueError(f"Frames of one batch must have one shape [T, 3, H, W]; got {sorted(shapes)}.")
    kept = [clip for clip in clips if not (drop_failures and clip.failure)]
    return ClipBatch(
        ids=[clip.id for clip in kept],
        media=[clip.media for clip in kept],
        frames=torch.stack([clip.frames for clip in kept]) if kept else clips[0].frames.new_zeros(0, *shapes.pop()),
        waveform=nn.utils.rnn.pad_sequence([clip.waveform for clip in kept], batch_first=True)
        if kept
        else torch.zeros(0, 0),
        waveform_lengths=torch.tensor([clip.waveform.shape[0] for clip in kept], dtype=torch.long),
        has_audio=torch.tensor([clip.has_audio for clip in kept], dtype=torch.bool),
        has_video=torch.tensor([clip.has_video for clip in kept], dtype=torch.bool),
        durations_seconds=torch.tensor([clip.duration_seconds for clip in kept], dtype=torch.float32),
        instructions=[clip.instruction for clip in kept],
        targets=[clip.target for clip in kept],
        responses=[clip.response for clip in kept],
        failures=[clip.failure for clip in kept],
        datasets=[clip.dataset for clip in kept],
        transcripts=[clip.transcript for clip in kept],
        told=[clip.told for clip in kept],
        mel=_stack_mel(kept),
        skipped=[BadClip.of(clip.id, clip.media, clip.failure) for clip in clips if drop_failures and clip.failure],
    )
