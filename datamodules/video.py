"""Uniformly spaced frames of a video file, exactly those and at least cost, decoded with PyAV.

Frame i is the i-th in order of presentation. Only what a wanted frame needs is decoded: the group of pictures from the
key frame before it, without the frames that no other one refers to (`skip_frame`, which torchcodec does not offer).
Whether the frames that came are those asked for is seen from their times; where these prove nothing (AVI without
presentation times, cuts without encoding), all frames are decoded and counted.

Shape legend: N frames of the file, T frames asked for, H × W pixels.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import torch
from torch import Tensor

from datamodules.containers import MediaError, UnreadableError, check_file, decoder_path

_WITHOUT_TIMES = ("avi",)
"""Containers that have no presentation times: FFmpeg makes them up, and wrongly where there are B-frames."""

_DEFAULT_FRAMES_PER_SECOND = 25
"""Where a file tells nothing of its frame rate; FFmpeg's own choice for such streams."""


def frame_indices(num_available: int, num_frames: int) -> list[int]:
    """Indices of uniformly spaced frames: round((N-1)/T · (i + 0.5) + 1e-6), halves to even (spec "Frames").

    A clip with fewer frames than asked for repeats some of them. Sampled frame i is shown at about
    duration · (i + 0.5) / T seconds, give or take one frame interval; a variable frame rate may put it further off,
    since frames are counted and not time.

    Args:
        num_available: N, frames in the file.
        num_frames: T, frames wanted.

    Raises:
        ValueError: either number is below 1.
    """
    if num_available < 1 or num_frames < 1:
        raise ValueError(f"Cannot take {num_frames} frames of {num_available}. Expected at least 1 of each.")
    step = (num_available - 1) / num_frames
    return np.round(step * (np.arange(num_frames) + 0.5) + 1e-6).astype(int).tolist()


@dataclass(frozen=True)
class DecodedVideo:
    """Uniformly spaced frames of a video track, and when the track begins and how long it lasts.

    Sampled frame i of T is at about duration_seconds · (i + 0.5) / T after the begin, see `frame_indices`.

    Args:
        frames: uint8 RGB `[T, 3, H, W]`, whose memory is `[T, H, W, 3]`.
        begin_seconds: time of the first frame of all, by the clock of the file; 0 where it has no times.
        duration_seconds: from the begin of the first frame that decodes to the end of the last; finite and above 0.
    """

    frames: Tensor
    begin_seconds: float
    duration_seconds: float


def decode_video(path: str | Path, num_frames: int) -> DecodedVideo:
    """Uniformly spaced frames, turned upright if the file says so, with begin and duration of the track.

    Args:
        path: a video file.
        num_frames: T.

    Raises:
        MediaError: no such file, an empty or cut file, no video stream, or one that does not decode, or whose data is
            damaged where it is needed.
    """
    scan = _Scan(path)
    try:
        frames, num_missing = None, 0
        if scan.has_times:
            wanted = [scan.times[index] for index in frame_indices(scan.num_frames, num_frames)]
            frames = _decode_at(path, scan.packets, scan.times[0], wanted)
        if frames is None:
            frames, num_missing = _decode_all(path, scan.num_frames, scan.times, num_frames)
    except av.FFmpegError as error:
        raise _media_error(error, f"{path}: broken video stream") from error
    pixels = torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2)
    return DecodedVideo(pixels, scan.begin_seconds, scan.duration_seconds(num_missing))


def _media_error(error: av.FFmpegError, message: str) -> MediaError:
    """PyAV's errors of the system, e.g. a failed read, are Python's OSError as well."""
    kind = UnreadableError if isinstance(error, OSError) else MediaError
    return kind(f"{message} ({error.strerror})")


@dataclass(frozen=True)
class VideoInfo:
    """What a video stream is like.

    Args:
        num_frames: frames that are shown, by the packets of the stream; a header may be wrong about it.
        duration_seconds: from the first frame's begin to the last one's end; finite and above 0.
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


def video_info(path: str | Path) -> VideoInfo:
    """Facts about the video stream of a file, without decoding it.

    Raises:
        MediaError: no such file, an empty or cut file, or no video stream.
    """
    scan = _Scan(path)
    return VideoInfo(
        scan.num_frames, scan.duration_seconds(), scan.width, scan.height, scan.frames_per_second, scan.codec
    )


class _Scan:
    """The packets of a video stream, which are read but not decoded.

    Raises:
        MediaError: see `decode_video`; but for a stream that does not decode.
    """

    def __init__(self, path: str | Path) -> None:
        check_file(path)
        try:
            with av.open(decoder_path(path)) as container:
                stream = container.streams.best("video")
                if stream is None:
                    raise MediaError(f"{path}: no video stream")
                self.packets = [_Packet(packet) for packet in _demux(container, stream)]
                self.width, self.height, self.codec = stream.width, stream.height, stream.codec_context.name
                rate, self._time_base = stream.average_rate, stream.time_base
                is_timed = container.format.name not in _WITHOUT_TIMES
        except av.FFmpegError as error:
            raise _media_error(error, f"{path}: cannot open the video") from error
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
        return _duration_seconds(self.num_frames - first, span, self._last_seconds, self.frames_per_second)


def _duration_seconds(
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
        return num_frames * (last_seconds or 1 / (frames_per_second or _DEFAULT_FRAMES_PER_SECOND))
    return span_seconds + (last_seconds or span_seconds / (num_frames - 1))


class _Packet:
    """What of a packet tells the order of the frames; its data is read again where it is decoded."""

    def __init__(self, packet: av.Packet) -> None:
        self.time, self.duration = packet.pts, packet.duration
        self.is_key, self.is_discarded = packet.is_keyframe, packet.is_discard


def _demux(container: av.container.InputContainer, stream: av.VideoStream) -> Iterator[av.Packet]:
    return (packet for packet in container.demux(stream) if packet.size)


def _open_decoder(container: av.container.InputContainer) -> av.VideoStream:
    stream = container.streams.best("video")
    stream.codec_context.thread_count = 1  # a worker has one core
    return stream


def _needed_packets(packets: Sequence[_Packet], wanted: Iterable[int]) -> list[bool]:
    """Which packets a decoder must be given for the frames of some times, by position in the file.

    Those from the last key frame that is shown no later than the frame, up to the frame itself. (A frame that is shown
    before the key frame it follows in the file refers to the group before that, whose key frame comes earlier.)
    """
    positions = {packet.time: position for position, packet in enumerate(packets)}
    keys = [(packet.time, position) for position, packet in enumerate(packets) if packet.is_key]
    needed = [False] * len(packets)
    for time in wanted:
        begin = max((position for key_time, position in keys if key_time <= time), default=0)
        for position in range(begin, positions[time] + 1):
            needed[position] = True
    return needed


def _decode_at(
    path: str | Path, packets: Sequence[_Packet], first: int, wanted: Sequence[int]
) -> list[np.ndarray] | None:
    """Frames `[H, W, 3]` of the wanted times; None where not each of them came, or not the first frame of all.

    The first frame shows whether the packets of a cut film all have frames; mostly the wanted ones need it anyway.
    """
    missing, found = {first, *wanted}, {}
    needed = _needed_packets(packets, missing)

    def keep(frames: Iterable[av.VideoFrame]) -> None:
        for frame in frames:
            _check_frame(path, frame)
            missing.discard(frame.pts)
            if frame.pts in wanted:
                found[frame.pts] = _upright_rgb(frame)

    with av.open(decoder_path(path)) as container:
        stream = _open_decoder(container)
        decoder = stream.codec_context
        was_needed = True
        for packet, is_needed in zip(_demux(container, stream), needed, strict=True):
            if is_needed:
                decoder.skip_frame = "DEFAULT" if packet.pts in missing else "NONREF"
                try:
                    keep(decoder.decode(packet))
                except av.FFmpegError:
                    return None
            elif was_needed:
                keep(decoder.decode(None))  # what it still holds back
                decoder.flush_buffers()
            was_needed = is_needed
            if not missing:
                break
        else:
            keep(decoder.decode(None))
    return None if missing else [found[time] for time in wanted]


def _decode_all(
    path: str | Path, num_packets: int, times: Sequence[int], num_frames: int
) -> tuple[list[np.ndarray], int]:
    """Frames `[H, W, 3]` by decoding all in order; slower, and right also where packets have no times.

    Also the number of packets, all of them the first, that have no frame.

    Args:
        path: a video file.
        num_packets: packets of frames that are to be shown.
        times: of these packets, ascending. Fewer frames than packets are accepted only if all the missing ones come
            first, as where a film was cut inside an open group of pictures.
        num_frames: T.

    Raises:
        MediaError: not every frame decodes, or not without damage.
    """
    wanted = frame_indices(num_packets, num_frames)
    found, decoded = _decode_counting(path, wanted)
    num_missing = num_packets - len(decoded)
    if num_missing:
        is_known = decoded and None not in decoded and len(times) == num_packets
        if not is_known or sorted(decoded) != list(times[num_missing:]):
            raise MediaError(f"{path}: broken video stream ({len(decoded)} of {num_packets} frames decode)")
        wanted = frame_indices(len(decoded), num_frames)
        found, _ = _decode_counting(path, wanted)
    return [found[index] for index in wanted], num_missing


def _decode_counting(path: str | Path, wanted: Sequence[int]) -> tuple[dict[int, np.ndarray], list[int | None]]:
    """Frames `[H, W, 3]` by their index among those that decode, and the times of all that do."""
    found, times = {}, []
    for index, frame in enumerate(_decode_in_order(path)):
        _check_frame(path, frame)
        times.append(frame.pts)
        if index in wanted:
            found[index] = _upright_rgb(frame)
    return found, times


def _decode_in_order(path: str | Path) -> Iterator[av.VideoFrame]:
    with av.open(decoder_path(path)) as container:
        yield from container.decode(_open_decoder(container))


def _check_frame(path: str | Path, frame: av.VideoFrame) -> None:
    """Refuse a frame whose data is damaged; the decoder made up a part of it, and others may be built on it.

    Raises:
        MediaError: the decoder says so.
    """
    if frame.is_corrupt:
        raise MediaError(f"{path}: broken video stream (the data of the frame at {frame.time:.2f} s is damaged)")


def _upright_rgb(frame: av.VideoFrame) -> np.ndarray:
    """Pixels `[H, W, 3]`, turned as the file's display matrix says."""
    pixels = frame.to_ndarray(format="rgb24")
    return np.rot90(pixels, frame.rotation // 90) if frame.rotation else pixels
