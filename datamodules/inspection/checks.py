"""What is looked at in each media file, and the record of it, so that no file is checked twice.

A file is probed and then decoded exactly as training decodes it; a clip that passes here fails nowhere else.
"""

import json
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from datamodules.containers import MediaError, UnreadableError, decoder_source, one_clip
from datamodules.files.json_log import JsonLog, json_digest
from datamodules.isolation import Lost, run_isolated
from datamodules.media_settings import MediaSettings
from datamodules.segments import failure_reason, split_media
from datamodules.video import video_info

_FORMAT = 4  # raise it when a check says something else of the same file


@dataclass(frozen=True)
class ClipCheck:
    """What was found in a media file.

    Args:
        failure: why it cannot be decoded; None when it can, and only then are the other fields known.
        duration_seconds: of the video track, or of the sound where there is none.
        num_frames: frames in the video track; this and what follows of it is None when there are no pictures.
        width: of the picture, in pixels.
        height: of the picture, in pixels.
        frames_per_second: average frame rate; None for a single frame that does not say how long it is shown.
        video_codec: FFmpeg's name, e.g. `h264`, or the format of a picture.
        audio_codec: FFmpeg's name; None when there is no audio track.
        sample_rate: of the audio track, in Hz.
        num_channels: of sound.
        peak: greatest magnitude of a sample as training hears it; 0 is silence, None is no audio track.
        may_pass: the failure is the machine's and perhaps not the file's, so that it is not kept.
    """

    failure: str | None
    duration_seconds: float | None = None
    num_frames: int | None = None
    width: int | None = None
    height: int | None = None
    frames_per_second: float | None = None
    video_codec: str | None = None
    audio_codec: str | None = None
    sample_rate: int | None = None
    num_channels: int | None = None
    peak: float | None = None
    may_pass: bool = False


def check_clip(path: str, settings: MediaSettings) -> ClipCheck:
    """Decode a clip as training does, and read its metadata.

    Raises:
        ImportError: FFmpeg's libraries are missing.
    """
    try:
        return _decode_and_describe(path, settings)
    except MediaError as error:
        return ClipCheck(failure_reason(error, path), may_pass=isinstance(error, UnreadableError))


@one_clip
def _decode_and_describe(path: str | Path, settings: MediaSettings) -> ClipCheck:
    from datamodules.media import decode_clip  # with torch, which only decoding needs

    decoded = decode_clip(path, settings)
    # Here and not above: torchcodec loads FFmpeg's libraries, and `decode_clip` says what to do when it cannot.
    from torchcodec.decoders import AudioDecoder

    file, segment = split_media(path)
    video = video_info(file, segment) if decoded.has_video else None
    audio = AudioDecoder(decoder_source(file)).metadata if decoded.has_audio else None
    peak = float(decoded.waveform.abs().max()) if decoded.waveform.numel() else 0.0
    return ClipCheck(
        failure=None,
        duration_seconds=round(video.duration_seconds if video else decoded.duration_seconds, 4),
        num_frames=video.num_frames if video else None,
        width=video.width if video else None,
        height=video.height if video else None,
        frames_per_second=round(video.frames_per_second, 2) if video and video.frames_per_second else None,
        video_codec=video.codec if video else None,
        audio_codec=audio.codec if audio else None,
        sample_rate=audio.sample_rate if audio else None,
        num_channels=audio.num_channels if audio else None,
        peak=round(peak, 6) if audio else None,
    )


class FileStamp(NamedTuple):
    """What a file is known by; its content may have changed when one of these has.

    Args:
        path: absolute, with the segment of a clip that is not the whole file.
        size: in bytes.
        mtime_ns: time of the last modification, in nanoseconds.
    """

    path: str
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, path: str) -> "FileStamp":
        """The stamp of a file now; one that the system does not show, as a link to nowhere, has size 0."""
        try:
            status = Path(split_media(path)[0]).stat()
        except OSError:
            return cls(str(Path(path).absolute()), 0, 0)
        return cls(str(Path(path).absolute()), status.st_size, status.st_mtime_ns)


class CheckCache:
    """Results of earlier checks: a file of JSON lines, one appended as soon as a clip is done.

    A killed run loses at most the clips it was at; a torn line is passed over. A result holds for one size and
    modification time of the file, one `MediaSettings` and one release of PyAV and torchcodec; remove the file to check
    everything anew.

    Args:
        path: the file; need not exist.
        settings: how clips are decoded.
    """

    def __init__(self, path: Path, settings: MediaSettings) -> None:
        self.path = path
        self._settings = json_digest([_FORMAT, version("av"), version("torchcodec"), asdict(settings)])[:16]
        self._log = JsonLog(path)
        self._checks = dict(self._read())

    def _read(self) -> Iterator[tuple[FileStamp, ClipCheck]]:
        for row in self._log.rows():
            with suppress(KeyError, TypeError):  # a cut line, or another version's
                if row["settings"] == self._settings:
                    yield FileStamp(row["path"], row["size"], row["mtime_ns"]), ClipCheck(**row["check"])

    def get(self, stamp: FileStamp) -> ClipCheck | None:
        """The result for a file, or None."""
        return self._checks.get(stamp)

    def add(self, stamp: FileStamp, check: ClipCheck) -> None:
        """Write down a result."""
        self._checks[stamp] = check
        self._log.append(json.dumps({**stamp._asdict(), "settings": self._settings, "check": asdict(check)}))


def check_clips(
    paths: Iterable[str], settings: MediaSettings, cache: CheckCache, num_workers: int, timeout_seconds: float
) -> tuple[dict[str, ClipCheck], int]:
    """Check files in parallel, with a progress bar on standard error; those that the cache knows are not read.

    A clip whose decoder crashes or hangs, or that the system does not read, counts as undecodable in this run and is
    checked again in the next: a machine short of memory or time may have been the cause.

    Args:
        paths: media files.
        settings: how training decodes them.
        cache: of earlier results; this run's are added to it.
        num_workers: processes.
        timeout_seconds: longest time for one clip.

    Returns:
        path → result, in the order of `paths`; and how many came from the cache.

    Raises:
        ImportError: FFmpeg's libraries are missing.
    """
    stamps = {path: FileStamp.of(path) for path in paths}  # before the check: a change during it is then noticed
    checks = {path: cache.get(stamp) for path, stamp in stamps.items()}
    pending = [path for path, check in checks.items() if check is None]
    num_known = len(checks) - len(pending)
    columns = (TextColumn("checking clips"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=len(checks), completed=num_known)
        outcomes = run_isolated(partial(check_clip, settings=settings), pending, num_workers, timeout_seconds)
        with closing(outcomes):
            for path, outcome in outcomes:
                check = ClipCheck(outcome.reason, may_pass=True) if isinstance(outcome, Lost) else outcome
                checks[path] = check
                if not check.may_pass:
                    cache.add(stamps[path], check)
                progress.advance(task)
    return checks, num_known
