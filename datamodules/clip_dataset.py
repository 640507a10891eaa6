"""The dataset that decodes the clips of records."""

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.batch import Clip
from datamodules.clip_cache import ClipCache
from datamodules.clip_source import ClipRecord
from datamodules.containers import MediaError, UnreadableError
from datamodules.drawing_lots import draw_stratified
from datamodules.files.printable import printable
from datamodules.isolation import IsolatedFunction, Lost
from datamodules.media import DecodedClip, black_frames, decode_clip, import_decoders
from datamodules.media_settings import MediaSettings
from datamodules.mel import log_mel
from datamodules.segments import failure_reason

RETRY_PAUSE_SECONDS = 1.0
"""Before the second and last attempt at a file that could not be read."""


class ClipDataset(Dataset[Clip]):
    """Decodes the clips of records.

    Args:
        records: the rows.
        settings: how clips are decoded.
        instruction: the text the model is asked with, where a record has none of its own.
        on_undecodable: `skip` returns a failed clip (black frames, no audio, `failure` set), `error` raises.
        cache_in_memory: keep decoded clips; each worker process has a cache of its own.
        cache: decoded clips on disk, shared by all workers and later runs; None decodes every time.
        timeout_seconds: longest time for one clip, which then fails; None: no limit, and a decoder that crashes takes
            the run with it.
        transcript_template: see `ClipSource`.
    """

    def __init__(
        self,
        records: Sequence[ClipRecord],
        settings: MediaSettings,
        instruction: str,
        on_undecodable: Literal["skip", "error"],
        cache_in_memory: bool,
        cache: ClipCache | None = None,
        timeout_seconds: float | None = None,
        transcript_template: str | None = None,
    ) -> None:
        self.records = list(records)
        self.settings = settings
        self.instruction = instruction
        self.transcript_template = transcript_template
        self.on_undecodable = on_undecodable
        read = partial(_read_clip, settings=settings, cache=cache)
        # The cache, too, is read in the other process: it asks the media file for its time of modification.
        self._read: Callable[[str], dict[str, Any] | Lost] = (
            read if timeout_seconds is None else IsolatedFunction(read, timeout_seconds)
        )
        self._memory: dict[int, Clip] | None = {} if cache_in_memory else None

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Clip:
        """The clip of a record.

        Raises:
            MediaError: the clip cannot be decoded and `on_undecodable` is `error`.
        """
        if self._memory is not None and index in self._memory:
            return self._memory[index]
        clip = self._load(self.records[index])
        if self._memory is not None and clip.failure is None:  # what has failed once may load the next time
            self._memory[index] = clip
        return clip

    def _load(self, record: ClipRecord) -> Clip:
        failure = None
        try:
            if record.media is None:
                raise MediaError(f"listed in {record.source}, but there is no such file")
            decoded = self._load_media(record.media)
            lack = record.lack(decoded.has_video, decoded.has_audio)
            if lack is not None:
                raise MediaError(f"{record.media}: {lack}")
        except MediaError as error:
            if self.on_undecodable == "error":
                raise
            failure = printable(failure_reason(error, record.media or ""))
            decoded = _failed_clip(self.settings)
        return Clip(
            id=record.id,
            media=record.media or "",
            frames=decoded.frames,
            waveform=decoded.waveform,
            has_audio=decoded.has_audio,
            instruction=record.instruction or self.instruction,
            target=record.target,
            response=record.response,
            failure=failure,
            dataset=record.dataset,
            mel=decoded.mel,
            duration_seconds=decoded.duration_seconds,
            has_video=decoded.has_video,
            transcript=record.transcript,
            told=record.told(self.transcript_template),
        )

    def _load_media(self, path: str) -> DecodedClip:
        import_decoders()  # here, where a process that replaces a lost one finds them imported
        fields = self._read(path)
        if isinstance(fields, Lost):
            raise MediaError(f"{path}: {fields.reason}")
        return DecodedClip(**{n: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for n, v in fields.items()})


def _read_clip(path: str, settings: MediaSettings, cache: ClipCache | None) -> dict[str, Any]:
    """The fields of the decoded clip, with arrays for tensors: these can travel through shared memory.

    What may pass is tried again here, where the time limit of the clip counts it.
    """
    decoded = None if cache is None else cache.load(path, settings)
    if decoded is None:
        try:
            decoded = decode_clip(path, settings)
        except UnreadableError:
            time.sleep(RETRY_PAUSE_SECONDS)
            decoded = decode_clip(path, settings)
        if cache is not None:
            cache.store(path, settings, decoded)
    return {name: value.numpy() if isinstance(value, Tensor) else value for name, value in vars(decoded).items()}


def _failed_clip(settings: MediaSettings) -> DecodedClip:
    """Black frames and silence, so that a clip that does not decode still has its place in an evaluation batch."""
    waveform = torch.zeros(0)
    mel = None if settings.mel is None else log_mel(waveform, settings.mel)
    return DecodedClip(
        black_frames(settings), waveform, has_audio=False, duration_seconds=0.0, mel=mel, has_video=False
    )


def split_validation(
    records: Sequence[ClipRecord], fraction: float, seed: int
) -> tuple[list[ClipRecord], list[ClipRecord]]:
    """Training and validation part of a training split, stratified by class, both in the order of `records`.

    A corpus that holds clips out itself (`ClipRecord.is_validation`) has these for validation, and no others. Of any
    other corpus, each class gives round(fraction · clips) clips, at least one where it has two or more. Depends on the
    label file and the seed only, not on which media files are present. In a concatenation each corpus is stratified by
    itself.

    Args:
        records: the training split.
        fraction: share of validation in [0, 1); 0 leaves none.
        seed: of the draw within each class.
    """
    classes: dict[tuple[str, str | None], list[int]] = defaultdict(list)
    held_out = {position for position, record in enumerate(records) if record.is_validation}
    decided = {records[position].dataset for position in held_out}
    for position, record in enumerate(records):
        if record.dataset not in decided:
            classes[record.dataset, record.target].append(position)
    held_out |= draw_stratified([(emotion, own) for (_, emotion), own in classes.items()], fraction, seed)
    training = [record for position, record in enumerate(records) if position not in held_out]
    return training, [records[position] for position in sorted(held_out)]
