"""What of a file is decoded for the frames asked for. That they are the right ones: test_media_formats.py."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from datamodules import video
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
    assert info == video.VideoInfo(45, pytest.approx(1.8), 96, 64, 25.0, "h264")


def test_stream_of_which_nothing_decodes_is_named(
    write_clip: Callable[[Path, int], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_clip(tmp_path / "a.mp4", 1)
    monkeypatch.setattr(video, "_decode_at", lambda *arguments: None)
    monkeypatch.setattr(video, "_decode_in_order", lambda path: iter(()))
    with pytest.raises(MediaError, match=f"{path}: broken video stream .0 of 10 frames decode"):
        decode_frames(path, 8)
