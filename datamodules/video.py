"""Uniformly spaced frames of a video or picture file, exactly those and at least cost, decoded with PyAV.

Frame i is the i-th in order of presentation. Only what a wanted frame needs is decoded: the group of pictures from the
key frame before it, without the frames that no other one refers to (`skip_frame`, which torchcodec does not offer).
Whether the frames that came are those asked for is seen from their times; where these prove nothing (AVI without
presentation times, cuts without encoding), all frames are decoded and counted.

Shape legend: N frames of the file, T frames asked for, H × W pixels.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import isnan
from pathlib import Path

import av
import numpy as np

from datamodules.containers import VIDEO_SUFFIXES, MediaError, one_clip, picture_format
from datamodules.demuxing import Packet, Scan, VideoInfo, check_size, demux, media_error, open_film, open_media
from datamodules.segments import Segment
from datamodules.stills import read_stills

Fit = Callable[[np.ndarray], np.ndarray]
"""Makes of the pixels of a frame `[H, W, 3]` what is kept of it."""


def frame_indices(num_available: int, num_frames: int) -> list[int]:
    """Indices of uniformly spaced frames: round((N-1)/T · (i + 0.5) + 1e-6), halves to even.

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
        frames: T times uint8 RGB `[H, W, 3]`, whose size may change within a film; or what the fit made of each.
        begin_seconds: time of the first frame of all, by the clock of the file, where it has one, or of the segment.
        duration_seconds: from the begin of the first frame that decodes to the end of the last, or of the segment;
            finite and above 0.
    """

    frames: list[np.ndarray]
    begin_seconds: float
    duration_seconds: float


@one_clip
def decode_video(
    path: str | Path, num_frames: int, fit: Fit = np.asarray, segment: Segment | None = None
) -> DecodedVideo:
    """Uniformly spaced frames, turned upright if the file says so, with begin and duration of the track.

    Args:
        path: a video file, or a picture, which is all frames.
        num_frames: T.
        fit: applied to each frame as soon as it is decoded, so that only one is there at its full size.
        segment: which part of the file; None: all of it.

    Raises:
        NoVideoError: no video stream.
        MediaError: no such file, an empty or cut file, a video stream that does not decode, or whose data is damaged
            where it is needed, or whose pictures are too large; or a segment outside it.
    """
    if _is_picture(path, segment):
        found: dict[int, np.ndarray] = {}
        info = read_stills(
            path,
            lambda available: frame_indices(available, num_frames),
            lambda index, pixels: found.update({index: fit(pixels)}),
        )
        indices = frame_indices(info.num_frames, num_frames)
        return DecodedVideo([found[index] for index in indices], 0.0, info.duration_seconds)
    scan = Scan(path)
    available = scan.frames_of(segment)
    try:
        frames, num_missing = None, 0
        if scan.has_times:
            wanted = [scan.times[index] for index in _spread(available, num_frames)]
            frames = _decode_at(path, scan.packets, scan.times[0], wanted, fit)
        if frames is None:
            frames, num_missing = _decode_all(path, scan, available, num_frames, fit)
    except av.FFmpegError as error:
        raise media_error(error, f"{path}: broken video stream") from error
    if segment is not None:
        return DecodedVideo(frames, scan.begin_seconds + segment.start_seconds, scan.segment_seconds(segment))
    return DecodedVideo(frames, scan.begin_seconds, scan.duration_seconds(num_missing))


@one_clip
def video_info(path: str | Path, segment: Segment | None = None) -> VideoInfo:
    """Facts about the pictures of a file, or a segment of it; a film is not decoded for them.

    Raises:
        NoVideoError: no video stream.
        MediaError: no such file, an empty or cut file, or a segment outside it.
    """
    if _is_picture(path, segment):
        return read_stills(path, lambda available: (), lambda index, pixels: None)
    scan = Scan(path)
    return VideoInfo(
        len(scan.frames_of(segment)),
        scan.segment_seconds(segment),
        scan.width,
        scan.height,
        scan.frames_per_second,
        scan.codec,
    )


def _is_picture(path: str | Path, segment: Segment | None) -> bool:
    """Whether a file is a picture and no film.

    Raises:
        MediaError: it is one, and is called a film, or a segment of it is wanted.
    """
    if not Path(path).is_file() or picture_format(path) is None:
        return False
    if str(path).lower().endswith(VIDEO_SUFFIXES):
        raise MediaError(f"{path}: by its first bytes it is a picture, and by its name a film. Restore the film")
    if segment is not None:
        raise MediaError(f"{path}: a picture has no segment {segment}. Take its start and end out")
    return True


def _spread(available: range, num_frames: int) -> list[int]:
    """Indices of uniformly spaced frames among those available."""
    return [available[index] for index in frame_indices(len(available), num_frames)]


def _needed_packets(packets: Sequence[Packet], wanted: Iterable[int]) -> list[bool]:
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
    path: str | Path, packets: Sequence[Packet], first: int, wanted: Sequence[int], fit: Fit
) -> list[np.ndarray] | None:
    """Frames of the wanted times, fitted; None where not each of them came, or not the first frame of all.

    The first frame shows whether the packets of a cut film all have frames; mostly the wanted ones need it anyway.
    """
    missing, found = {first, *wanted}, {}
    needed = _needed_packets(packets, missing)

    def keep(frames: Iterable[av.VideoFrame]) -> None:
        for frame in frames:
            _check_frame(path, frame)
            missing.discard(frame.pts)
            if frame.pts in wanted:
                found[frame.pts] = fit(_upright_rgb(frame))

    with open_media(path) as container:
        stream = open_film(container, path)
        decoder = stream.codec_context
        was_needed = True
        for packet, is_needed in zip(demux(container, stream), needed, strict=True):
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
    path: str | Path, scan: Scan, available: range, num_frames: int, fit: Fit
) -> tuple[list[np.ndarray], int]:
    """Fitted frames by decoding all in order; slower, and right also where packets have no times.

    Also the number of packets, all of them the first, that have no frame.

    Args:
        path: a video file.
        scan: its packets. Fewer frames than packets are accepted only if all the missing ones come first, as where a
            film was cut inside an open group of pictures.
        available: indices of the frames to choose from.
        num_frames: T.
        fit: see `decode_video`.

    Raises:
        MediaError: not every frame decodes, or not without damage.
    """
    wanted = _spread(available, num_frames)
    found, decoded = _decode_counting(path, wanted, fit)
    num_missing = scan.num_frames - len(decoded)
    if num_missing:
        is_known = decoded and None not in decoded and len(scan.times) == scan.num_frames
        if not is_known or sorted(decoded) != list(scan.times[num_missing:]):
            raise MediaError(f"{path}: broken video stream ({len(decoded)} of {scan.num_frames} frames decode)")
        left = range(max(available.start, num_missing), max(available.stop, num_missing + 1))
        wanted = [index - num_missing for index in _spread(left, num_frames)]
        found, _ = _decode_counting(path, wanted, fit)
    return [found[index] for index in wanted], num_missing


def _decode_counting(
    path: str | Path, wanted: Sequence[int], fit: Fit
) -> tuple[dict[int, np.ndarray], list[int | None]]:
    """Fitted frames by their index among those that decode, and the times of all that do."""
    found, times = {}, []
    for index, frame in enumerate(_decode_in_order(path)):
        _check_frame(path, frame)
        times.append(frame.pts)
        if index in wanted:
            found[index] = fit(_upright_rgb(frame))
    return found, times


def _decode_in_order(path: str | Path) -> Iterator[av.VideoFrame]:
    with open_media(path) as container:
        yield from container.decode(open_film(container, path))


def _check_frame(path: str | Path, frame: av.VideoFrame) -> None:
    """Refuse a frame that is too large, or whose data is damaged: the decoder made up a part of it, and others may be
    built on it.

    Raises:
        MediaError: it is.
    """
    check_size(path, frame.width, frame.height)
    if frame.is_corrupt:
        where = "a frame" if frame.time is None or isnan(frame.time) else f"the frame at {frame.time:.2f} s"
        raise MediaError(f"{path}: broken video stream (the data of {where} is damaged)")


def _upright_rgb(frame: av.VideoFrame) -> np.ndarray:
    """Pixels `[H, W, 3]`, turned as the file's display matrix says."""
    pixels = frame.to_ndarray(format="rgb24")
    return np.rot90(pixels, frame.rotation // 90) if frame.rotation else pixels
