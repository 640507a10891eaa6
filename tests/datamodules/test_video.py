"""What of a file is decoded for the frames asked for. That they are the right ones: test_media_formats.py."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from datamodules import demuxing, video
from datamodules.media import MediaError, decode_frames

pytestmark = pytest.mark.unit


def packets(times: list[int], keys: set[int]) -> list[SimpleNamespace]:
    return [SimpleNamespace(time=time, is_key=time in keys) for time in times]


def needed(times: list[int], keys: set[int], wanted: list[int]) -> list[int]:
    """Times of the packets that are given to the decoder."""
    flags = video._needed_packets(packets(times, keys), wanted)
    return [time for time, is_needed in zip(times, flags, strict=True) if is_needed]


def test_a_frame_needs_its_group_of_pictures_up_to_itself() -> None:
    # Two groups: key frames 0 and 4; 2 and 6 are shown after the frame that follows them in the file.
    times = [0, 3, 1, 2, 4, 7, 5, 6]
    assert needed(times, {0, 4}, [1]) == [0, 3, 1]
    assert needed(times, {0, 4}, [5]) == [4, 7, 5]
    assert needed(times, {0, 4}, [3, 7]) == [0, 3, 4, 7]


def test_a_frame_shown_before_its_key_frame_needs_the_group_before_too() -> None:
    # An open group: 3 and 4 stand behind key frame 5 in the file, and refer to 2 and to 5.
    times = [0, 2, 1, 5, 3, 4, 7, 6]
    assert needed(times, {0, 5}, [4]) == [0, 2, 1, 5, 3, 4]
    assert needed(times, {0, 5}, [6]) == [5, 3, 4, 7, 6]


def test_a_film_cut_behind_a_key_frame_is_decoded_from_its_start() -> None:
    assert needed([3, 5, 4, 8, 7], {8}, [5]) == [3, 5]


def test_frames_with_times_are_not_counted(
    write_clip: Callable[[Path, int], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(video, "_decode_all")
    assert decode_frames(write_clip(tmp_path / "a.mp4", 1), 8).shape == (8, 3, 64, 64)


def test_info_of_the_golden_clip(golden_media: Path) -> None:
    info = video.video_info(golden_media / "av_stereo44k.mp4")
    assert info == demuxing.VideoInfo(45, pytest.approx(1.8), 96, 64, 25.0, "h264")


@pytest.mark.parametrize(
    ("num_frames", "span_seconds", "last_seconds", "frames_per_second", "expected"),
    [
        (11, 2.0, 0.5, 25.0, 2.5),  # the last frame is shown for longer than the others
        (11, 2.0, 0.0, 25.0, 2.2),  # for 2 s / 10, whatever the header says
        (10, 0.0, 0.1, 25.0, 1.0),  # no times
        (10, 0.0, 0.0, 20.0, 0.5),
        (1, 0.0, 0.1, 25.0, 0.1),  # a single frame spans no time
        (1, 0.0, 0.0, 20.0, 0.05),
        (1, 0.0, 0.0, None, 0.04),  # a picture that says nothing of time
    ],
)
def test_duration_from_what_the_file_tells(
    num_frames: int, span_seconds: float, last_seconds: float, frames_per_second: float | None, expected: float
) -> None:
    duration = demuxing.duration_seconds(num_frames, span_seconds, last_seconds, frames_per_second)
    assert duration == pytest.approx(expected)


def test_decoded_golden_clip_begins_at_0_and_lasts_its_45_frames(golden_media: Path) -> None:
    decoded = video.decode_video(golden_media / "av_stereo44k.mp4", 8)
    assert [pixels.shape for pixels in decoded.frames] == [(64, 96, 3)] * 8
    assert (decoded.begin_seconds, decoded.duration_seconds) == (0.0, pytest.approx(45 / 25))


@pytest.mark.parametrize(("num_available", "num_frames"), [(45, 8), (300, 8), (75, 32), (16, 16), (5, 8), (1, 4)])
def test_sampled_frames_are_shown_at_about_the_stated_time(num_available: int, num_frames: int) -> None:
    # At 1 frame per second the duration is N seconds, and the frame of index k is shown from k to k + 1.
    for i, index in enumerate(video.frame_indices(num_available, num_frames)):
        stated = num_available * (i + 0.5) / num_frames
        assert abs(stated - (index + 0.5)) <= 1


def test_stream_of_which_nothing_decodes_is_named(
    write_clip: Callable[[Path, int], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_clip(tmp_path / "a.mp4", 1)
    monkeypatch.setattr(video, "_decode_at", lambda *arguments: None)
    monkeypatch.setattr(video, "_decode_in_order", lambda path: iter(()))
    with pytest.raises(MediaError, match=f"{path}: broken video stream .0 of 10 frames decode"):
        decode_frames(path, 8)
