"""Opening a media file, and what its packets tell of its film before anything is decoded.

FFmpeg is held to the containers that `check_file` lets through, to this one file, and to pictures of a size that films
have: a few kilobytes can declare a picture of gigabytes.
"""

import re
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import av
from av.container import InputContainer

from datamodules.containers import MediaError, NoVideoError, UnreadableError, check_file, decoder_path
from datamodules.segments import Segment

MAX_SIDE, MAX_PIXELS = 8192, 8192 * 4352
"""Of a picture, in pixels: an 8K film has no more, nor do the levels of H.264 and HEVC for one (6 to 6.2)."""

_FORMATS = "mov,matroska,avi,wav,flv,ogg,asf,mpeg,mpegts,mpegvideo,h264,hevc,mp3,aac,flac,aiff"  # FFmpeg's names
_OPTIONS = {"format_whitelist": _FORMATS, "protocol_whitelist": "file", "max_pixels": str(MAX_PIXELS)}
_WITHOUT_TIMES = ("avi",)
"""Containers that have no presentation times: FFmpeg makes them up, and wrongly where there are B-frames."""

_OVERSHOOT_SECONDS = 0.5
"""A segment may end so much after its file, as rounded times do."""
_ROUNDING_SECONDS = 1e-4
"""Less than between two frames; times of segments are decimal, those of frames fractions."""

DEFAULT_FRAMES_PER_SECOND = 25
"""Where a file tells nothing of its frame rate; FFmpeg's own choice for such streams."""


def media_error(error: av.FFmpegError, message: str) -> MediaError:
    """PyAV's errors of the system, e.g. a failed read, are Python's OSError as well."""
    kind = UnreadableError if isinstance(error, OSError) else MediaError
    return kind(f"{message} ({error.strerror})")


@contextmanager
def open_media(path: str | Path) -> Iterator[InputContainer]:
    """A media file, opened; titles and other texts in it may be of any encoding.

    Raises:
        MediaError: FFmpeg does not open it.
    """
    try:
        container = av.open(decoder_path(path), metadata_errors="replace", options=_OPTIONS)
    except av.FFmpegError as error:
        raise media_error(error, f"{path}: cannot open the file") from error
    with container:
        yield container


def open_film(container: InputContainer, path: str | Path) -> av.VideoStream:
    """The stream of moving pictures, with a decoder that is held to one core and to the largest picture.

    Raises:
        NoVideoError: there is none, a cover picture apart.
        MediaError: there is none that can be decoded.
    """
    films = [stream for stream in container.streams.video if not _is_cover(stream)]
    if not films:
        raise NoVideoError(f"{path}: no video stream" + (", only a cover picture" if container.streams.video else ""))
    best = container.streams.best("video")
    stream = best if best in films else films[0]
    if stream.codec_context is None:
        raise MediaError(f"{path}: FFmpeg has no decoder for the video ({_codec(container, stream)})")
    check_size(path, stream.width, stream.height)
    stream.codec_context.thread_count = 1  # a worker has one core
    stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
    return stream


def _is_cover(stream: av.VideoStream) -> bool:
    return bool(stream.disposition & av.stream.Disposition.attached_pic)


def check_size(path: str | Path, width: int, height: int) -> None:
    """Refuse a picture that would take gigabytes.

    Raises:
        MediaError: it is too large.
    """
    if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        raise MediaError(
            f"{path}: a picture of {width} × {height} pixels; expected at most {MAX_SIDE} on a side and {MAX_PIXELS:,} "
            "in all (8K). Scale the film down"
        )


def undecodable_sound(path: str | Path) -> str | None:
    """Codec of a file's first sound track, in FFmpeg's words for one that nothing decodes; None without a track.

    Raises:
        MediaError: the file does not open.
    """
    with open_media(path) as container:
        return _codec(container, container.streams.audio[0]) if container.streams.audio else None


def _codec(container: InputContainer, stream: av.stream.Stream) -> str:
    """Name and tag of a stream's codec, e.g. `none (vvc9 / 0x39637676)`.

    From FFmpeg's own listing: PyAV tells nothing of a codec that has no decoder, and lists nothing where it is silent.
    """
    level = av.logging.get_level()
    av.logging.set_level(av.logging.INFO)
    try:
        listing = container.dumps_format()
    finally:
        av.logging.set_level(level)
    found = re.search(rf"Stream #0:{stream.index}\b.*?: (?:Video|Audio): ([^,\n]*)", listing)
    return found[1].strip() if found else "unknown codec"


@dataclass(frozen=True)
class VideoInfo:
    """What a video stream is like.

    Args:
        num_frames: frames that are shown, by the packets of the stream; a header may be wrong about it.
        duration_seconds: from the first frame's begin to the last one's end, or of the segment; finite and above 0.
        width: of the frames as stored, in pixels.
        height: of the frames as stored, in pixels.
        frames_per_second: on average; None where the file does not say.
        codec: FFmpeg's name of it.
    """

    num_frames: int
    duration_seconds: float
    width: int
    height: int
    frames_per_second: float | None
    codec: str


class Packet:
    """What of a packet tells the order of the frames; its data is read again where it is decoded."""

    def __init__(self, packet: av.Packet) -> None:
        self.time, self.duration = packet.pts, packet.duration
        self.is_key, self.is_discarded = packet.is_keyframe, packet.is_discard


def demux(container: InputContainer, stream: av.VideoStream) -> Iterator[av.Packet]:
    """The packets of a stream that hold anything, in the order of the file."""
    return (packet for packet in container.demux(stream) if packet.size)


class Scan:
    """The packets of a video stream, which are read but not decoded.

    Raises:
        NoVideoError: no video stream.
        MediaError: no such file, an empty or cut file, or a video stream that has no decoder or no frames.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = path
        check_file(path)
        with open_media(path) as container:
            stream = open_film(container, path)
            try:
                self.packets = [Packet(packet) for packet in demux(container, stream)]
            except av.FFmpegError as error:
                raise media_error(error, f"{path}: broken video stream") from error
            self.width, self.height, self.codec = stream.width, stream.height, stream.codec_context.name
            rate, self._time_base = stream.average_rate, stream.time_base
            is_timed = container.format.name not in _WITHOUT_TIMES
        shown = [packet for packet in self.packets if not packet.is_discarded]
        if not shown:
            raise MediaError(f"{path}: the video stream has no frames")
        self.num_frames = len(shown)
        self.times = sorted(packet.time for packet in shown if packet.time is not None)
        self.has_times = is_timed and len(shown) == len(self.times) == len(set(self.times))
        self.begin_seconds = float(self.times[0] * self._time_base) if self.times else 0.0
        self.frames_per_second = float(rate) if rate else None
        last = max((packet for packet in shown if packet.time is not None), key=lambda p: p.time, default=shown[-1])
        self._last_seconds = float((last.duration or 0) * self._time_base)

    def duration_seconds(self, first: int = 0) -> float:
        """From the begin of a frame, by its index among those that are shown, to the end of the last."""
        # Times that are made up (`_WITHOUT_TIMES`) may be given to the wrong frames, but what they span is right.
        times = self.times[first:] if len(self.times) == self.num_frames else []
        span = float((times[-1] - times[0]) * self._time_base) if times else 0.0
        return duration_seconds(self.num_frames - first, span, self._last_seconds, self.frames_per_second)

    def segment_seconds(self, segment: Segment | None) -> float:
        """Length of a segment, as far as there are frames; of the whole film for None."""
        whole = self.duration_seconds()
        if segment is None:
            return whole
        return segment_seconds(self.path, segment, whole)

    def frames_of(self, segment: Segment | None) -> range:
        """Indices of the frames that begin within a segment; where none does, of the one that is on show.

        Raises:
            MediaError: the segment is not within the film.
        """
        if segment is None:
            return range(self.num_frames)
        start, whole = segment.start_seconds, self.duration_seconds()
        end = start + segment_seconds(self.path, segment, whole)
        if len(self.times) == self.num_frames:
            begins = [float((time - self.times[0]) * self._time_base) for time in self.times]
        else:
            begins = [index * whole / self.num_frames for index in range(self.num_frames)]
        first, stop = (bisect_left(begins, seconds - _ROUNDING_SECONDS) for seconds in (start, end))
        return range(first, stop) if first < stop else range(max(first - 1, 0), max(first, 1))


def segment_seconds(path: str | Path, segment: Segment, whole_seconds: float) -> float:
    """Length of a segment, as far as its file goes.

    Args:
        path: for the message.
        segment: of the file.
        whole_seconds: length of the file.

    Raises:
        MediaError: the segment is not within the file.
    """
    start, end = segment.start_seconds, whole_seconds if segment.end_seconds is None else segment.end_seconds
    if start >= whole_seconds or end > whole_seconds + _OVERSHOOT_SECONDS:
        raise MediaError(
            f"{path}: the segment {segment} is not within the file, which lasts {whole_seconds:.2f} s. Correct its "
            "start and end"
        )
    return min(end, whole_seconds) - start


def duration_seconds(
    num_frames: int, span_seconds: float, last_seconds: float, frames_per_second: float | None
) -> float:
    """From the begin of the first frame to the end of the last; finite and above 0.

    Args:
        num_frames: at least 1.
        span_seconds: from the begin of the first frame to the begin of the last; 0 where times are not known.
        last_seconds: how long the last frame is shown; 0 where the file does not say.
        frames_per_second: by the header, or None.
    """
    if not span_seconds:
        return num_frames * (last_seconds or 1 / (frames_per_second or DEFAULT_FRAMES_PER_SECOND))
    return span_seconds + (last_seconds or span_seconds / (num_frames - 1))
