"""Decoded clips on disk: frames, waveform, duration and mel features, shared by workers, processes and later runs."""

import hashlib
import json
import os
from dataclasses import asdict
from functools import cache
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor

from datamodules.files.json_log import json_digest
from datamodules.media import DecodedClip
from datamodules.media_settings import MediaSettings
from datamodules.segments import split_media
from datamodules.tensor_store import TensorStore

_FORMAT = 3  # raise it when decoding gives other values, or more of them, for the same settings
_DECODERS = ("av", "pillow", "torchcodec", "transformers")  # packages whose release may change a value, too


class ClipCache(TensorStore):
    """A directory of decoded clips that never grows beyond a limit.

    An entry belongs to the absolute path (with the segment), size and modification time of a media file, to all
    `MediaSettings`, and to the versions of the decoding packages; when one of them changes, the clip is decoded again.

    When the limit is reached, those that are there stay, as `TensorStore` explains. Room is made only at opening: for a
    lowered limit in the constructor, and for other settings in `prune`.

    Args:
        directory: of the cache; made if it is not there. Nothing else may be in it.
        max_gigabytes: largest size of all its files together, in 10⁹ bytes.

    Raises:
        ValueError: `max_gigabytes` is not positive.
        OSError: the directory cannot be made or written to.
    """

    content = "decoded clips"
    remedy = "decoding the clip again"

    def load(self, path: str | Path, settings: MediaSettings) -> DecodedClip | None:
        """The decoded clip, equal to the last bit, or None if it is not stored or the media file has changed since.

        An entry that cannot be read is removed with a warning.

        Args:
            path: the media file.
            settings: how it is decoded.
        """

        def restore(tensors: dict[str, Tensor], metadata: dict[str, str]) -> DecodedClip | None:
            return _restore(tensors, metadata, settings) if metadata.get("source") == _source(path) else None

        return self._get(self._entry(path, settings), restore, owner=str(path))

    def store(self, path: str | Path, settings: MediaSettings, decoded: DecodedClip) -> bool:
        """Add a decoded clip; False, and no entry, where the limit is reached or the disk refuses.

        The disk's first refusal is warned of, and ends the storing of this process.

        Args:
            path: the media file.
            settings: how it was decoded.
            decoded: what came of it.
        """
        try:
            source = _source(path)
        except OSError:
            return False
        return self._put(self._entry(path, settings), *_pack(decoded, source))

    def prune(self, settings: MediaSettings) -> int:
        """Make room for clips decoded with `settings`, where entries of other settings fill the cache.

        From 90 % of the limit on, those are removed, least recently used first, until the cache is half full.

        Returns:
            the number of entries removed.
        """
        return self._prune_others(keep=self.directory / _settings_key(settings))

    def _entry(self, path: str | Path, settings: MediaSettings) -> Path:
        name = hashlib.sha256(os.fsencode(Path(path).absolute())).hexdigest()
        return self.directory / _settings_key(settings) / f"{name}.safetensors"


@cache
def _settings_key(settings: MediaSettings) -> str:
    """Name of the directory for entries of these settings."""
    versions = {package: version(package) for package in _DECODERS}
    return json_digest([_FORMAT, versions, asdict(settings)])


def _source(path: str | Path) -> str:
    status = Path(split_media(path)[0]).stat()
    return f"{status.st_size} bytes, modified at {status.st_mtime_ns} ns"


def _pack(decoded: DecodedClip, source: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of an entry. Mel features end in one constant (there is no sound): stored as a number."""
    tensors = {"frames": decoded.frames.contiguous(), "waveform": decoded.waveform.contiguous()}
    metadata = {
        "source": source,
        "has_audio": json.dumps(decoded.has_audio),
        "has_video": json.dumps(decoded.has_video),
        "duration_seconds": repr(decoded.duration_seconds),  # the shortest text that gives the same number again
    }
    if decoded.mel is not None:
        # Compared as bits, where 0.0 is not -0.0 and a NaN is itself.
        differs = (decoded.mel.view(torch.int32) != decoded.mel[-1, -1].view(torch.int32)).any(dim=0)
        num_stored = int(differs.nonzero().max()) + 1 if differs.any() else 0
        tensors["mel"] = decoded.mel[:, :num_stored].contiguous()
        tensors["mel_tail"] = decoded.mel[-1, -1].clone()
        metadata["num_mel_frames"] = str(decoded.mel.shape[1])
    return tensors, metadata


def _restore(tensors: dict[str, Tensor], metadata: dict[str, str], settings: MediaSettings) -> DecodedClip:
    """What `_pack` packed.

    Raises:
        LookupError, ValueError, RuntimeError: it does not hold what `settings` ask for.
    """
    frames, waveform, mel = tensors["frames"], tensors["waveform"], None
    expected = (settings.num_frames, 3, settings.image_size, settings.image_size)
    if frames.dtype != torch.uint8 or frames.shape != expected:
        raise ValueError(f"frames are {frames.dtype} {list(frames.shape)}, expected uint8 {list(expected)}")
    if waveform.dtype != torch.float32 or waveform.ndim != 1:
        raise ValueError(f"waveform is {waveform.dtype} {list(waveform.shape)}, expected float32 [S]")
    if settings.mel is not None:
        stored, tail = tensors["mel"], tensors["mel_tail"]
        mel = tail.expand(len(stored), int(metadata["num_mel_frames"])).clone()
        mel[:, : stored.shape[1]] = stored
    has_audio, duration_seconds = json.loads(metadata["has_audio"]) is True, float(metadata["duration_seconds"])
    has_video = json.loads(metadata.get("has_video", "true")) is True  # entries of before sound alone was a clip
    return DecodedClip(frames, waveform, has_audio, duration_seconds, mel, has_video)
