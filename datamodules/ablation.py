"""Clips with a modality taken away or falsified: does a model look and listen?"""

from collections.abc import Iterator
from dataclasses import replace
from random import Random
from typing import Literal, get_args

import torch

from datamodules.batch import Clip, ClipBatch, collate
from datamodules.clip_dataset import ClipDataset
from datamodules.clip_source import ClipRecord
from datamodules.emotions import members
from datamodules.media_settings import MelSettings
from datamodules.mel import log_mel

Ablation = Literal[
    "full",
    "video_only",
    "audio_only",
    "swapped_audio",
    "frozen_first_frame",
    "text_only",
    "no_transcript",
    "swapped_transcript",
]
"""What a model is given of a clip: all of it; no sound; black frames; another clip's sound; its first frame throughout;
neither picture nor sound; not told what is said; told what is said in another clip. A transcript is taken away in the
last two alone."""

Part = Literal["sound", "transcript"]
"""What is taken from another clip."""

SWAPPED: dict[Ablation, Part] = {"swapped_audio": "sound", "swapped_transcript": "transcript"}

ABLATIONS: tuple[Ablation, ...] = get_args(Ablation)

_MEL_FRAMES_PER_SECOND = 100


def ablate(batch: ClipBatch, mode: Ablation, partners: ClipBatch | None = None) -> ClipBatch:
    """The clips as a model is given them under an ablation. The batch itself stays as it is.

    Silence is what a file without an audio track gives: no samples, `has_audio` False, and the loader's features of
    that; darkness is what sound alone gives: black frames, and `has_video` False. A clip keeps its duration,
    instruction and labels in every mode; one that was not decoded stays a failure.

    Args:
        batch: the clips.
        mode: what is taken away.
        partners: one clip per clip of the batch, which a mode of `SWAPPED` takes its part of (`Partners`).

    Raises:
        ValueError: an unknown mode, or one of `SWAPPED` without a partner for each clip or, with sound, with partners
            that have other mel features.
    """
    match mode:
        case "full":
            return batch
        case "video_only":
            return _silenced(batch)
        case "audio_only":
            return _darkened(batch)
        case "text_only":
            return _silenced(_darkened(batch))
        case "frozen_first_frame":
            return replace(batch, frames=batch.frames[:, :1].expand_as(batch.frames).contiguous())
        case "swapped_audio":
            return _dubbed(batch, _checked(batch, mode, partners))
        case "no_transcript":
            return replace(batch, told=[None] * len(batch))
        case "swapped_transcript":
            return replace(batch, told=_checked(batch, mode, partners).told)
    raise ValueError(f"There is no ablation {mode!r}. Expected one of {', '.join(ABLATIONS)}.")


def _darkened(batch: ClipBatch) -> ClipBatch:
    return replace(batch, frames=torch.zeros_like(batch.frames), has_video=torch.zeros_like(batch.has_video))


def _silenced(batch: ClipBatch) -> ClipBatch:
    mel = batch.mel
    if mel is not None:
        settings = MelSettings(num_bins=mel.shape[1], seconds=mel.shape[2] // _MEL_FRAMES_PER_SECOND)
        mel = log_mel(torch.zeros(0), settings).to(mel).expand_as(mel).contiguous()
    return replace(
        batch,
        waveform=batch.waveform.new_zeros(len(batch), 0),
        waveform_lengths=torch.zeros_like(batch.waveform_lengths),
        has_audio=torch.zeros_like(batch.has_audio),
        mel=mel,
    )


def _checked(batch: ClipBatch, mode: Ablation, partners: ClipBatch | None) -> ClipBatch:
    if partners is None or len(partners) != len(batch):
        got = "none" if partners is None else len(partners)
        raise ValueError(f"{mode} needs a partner for each of the {len(batch)} clips; got {got}.")
    return partners


def _dubbed(batch: ClipBatch, partners: ClipBatch) -> ClipBatch:
    shapes = [None if clips.mel is None else tuple(clips.mel.shape) for clips in (batch, partners)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"The partners' mel features are {shapes[1]}, those of the clips {shapes[0]}.")
    partners = partners.to(batch.frames.device)
    return replace(
        batch,
        waveform=partners.waveform,
        waveform_lengths=partners.waveform_lengths,
        has_audio=partners.has_audio,
        mel=partners.mel,
    )


class Partners:
    """For each clip of a dataset another one, whose sound or transcript it is given.

    The partner is drawn uniformly from the clips with that part that share no emotion with the clip; where there is
    none, from all other clips with it. The draw depends on the dataset, the seed and the clip alone: not on the batch
    it comes in, be it the last and smallest, nor on the number of processes.

    Args:
        dataset: the clips; partners are decoded here, in the calling process.
        part: what is taken of them.
        seed: of the draws.
    """

    def __init__(self, dataset: ClipDataset, part: Part = "sound", seed: int = 0) -> None:
        self.dataset = dataset
        self.part = part
        self.seed = seed
        self._without: set[int] = set()
        if part == "transcript":
            template = dataset.transcript_template
            self._without = {i for i, record in enumerate(dataset.records) if record.told(template) is None}

    def of(self, batch: ClipBatch) -> ClipBatch:
        """The partners of a batch, in its order, on the CPU.

        Raises:
            ValueError: no other clip of the dataset has that part.
        """
        clips = zip(batch.datasets, batch.ids, batch.targets, strict=True)
        return collate([self._partner(dataset, identifier, target) for dataset, identifier, target in clips])

    def _partner(self, dataset: str, identifier: str, target: str | None) -> Clip:
        for index in self._candidates(dataset, identifier, target):
            if index in self._without:
                continue
            clip = self.dataset[index]
            if self.part == "transcript" or (clip.has_audio and len(clip.waveform)):
                return clip
            self._without.add(index)
        raise ValueError(
            f"Clip {identifier!r} cannot be given another {self.part}: none of the other {len(self.dataset) - 1} clips "
            f"has any. Leave {next(mode for mode, part in SWAPPED.items() if part == self.part)} out of the modes"
            f"{', or set data.transcript_template' if self.part == 'transcript' else ''}."
        )

    def _candidates(self, dataset: str, identifier: str, target: str | None) -> Iterator[int]:
        """Positions of the other clips in the order in which they are tried: other emotions first."""
        random = Random(f"{self.seed}/{dataset}/{identifier}")
        others = [i for i, r in enumerate(self.dataset.records) if (r.dataset, r.id) != (dataset, identifier)]
        groups: dict[bool, list[int]] = {False: [], True: []}
        for index in others:
            groups[_share_an_emotion(self.dataset.records[index], target)].append(index)
        for group in groups.values():
            yield from random.sample(group, len(group))


def _share_an_emotion(record: ClipRecord, target: str | None) -> bool:
    if record.target is None or target is None:
        return True
    return not set(members(record.target)).isdisjoint(members(target))
