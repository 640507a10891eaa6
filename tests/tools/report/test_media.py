"""Pictures and players of clips."""

import base64
import shutil
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from tools.report import media
from tools.report.media import Pictures, clip_media, draw_pictures

pytestmark = pytest.mark.unit


def test_a_clip_is_drawn_as_frames_above_its_sound(clip: Path) -> None:
    drawn = draw_pictures(str(clip), num_frames=3)
    strip, sound = (Image.open(BytesIO(content)) for content in (drawn.strip, drawn.spectrogram))
    assert strip.format == "JPEG" and strip.width == sound.width > 2 * strip.height and not drawn.problems


def test_a_silent_clip_has_no_spectrogram(clip: Path) -> None:
    drawn = draw_pictures(str(clip.with_name("no_audio.mp4")), num_frames=1)
    assert drawn.strip is not None and drawn.spectrogram is None and drawn.problems == ("the file has no audio track",)


def test_a_broken_file_has_no_picture_but_a_reason(tmp_path: Path) -> None:
    path = tmp_path / "broken.mp4"
    path.write_bytes(b"no video")
    drawn = draw_pictures(str(path), num_frames=2)
    assert drawn.strip is None and len(drawn.problems) == 1 and str(path) not in drawn.problems[0]


def test_media_are_linked_relative_to_the_page(tmp_path: Path) -> None:
    path = tmp_path / "data" / "a b#c%?:<é>.mp4"
    shown = clip_media(str(path), {str(path): Pictures(b"j", None, ("no sound",))}, tmp_path / "out", embed=False)
    assert shown.source == "./../data/a%20b%23c%25%3F%3A%3C%C3%A9%3E.mp4"
    assert shown.strip == "data:image/jpeg;base64," + base64.b64encode(b"j").decode()
    assert shown.spectrogram is None and shown.notes == ("Not shown: no sound.",)


def test_media_can_be_embedded_up_to_a_size(clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = shutil.copy(clip, tmp_path / "x.mp4")
    drawn = {str(path): Pictures(b"j", None, ())}
    shown = clip_media(str(path), drawn, tmp_path, embed=True)
    assert shown.source.startswith("data:video/mp4;base64,")
    assert base64.b64decode(shown.source.partition(",")[2]) == clip.read_bytes()
    unread = {str(path): Pictures(None, None, ("no video stream",))}
    assert clip_media(str(path), unread, tmp_path, embed=True).source == "./x.mp4", "no video: it may be any file"
    monkeypatch.setattr(media, "LARGEST_EMBEDDED", 10)
    assert clip_media(str(path), drawn, tmp_path, embed=True).source == "./x.mp4"


def test_missing_media_are_said() -> None:
    assert clip_media(None, {}, Path(), embed=False).notes == ("The prediction file names no media file.",)
    assert clip_media("/no/x.mp4", {}, Path(), embed=False).notes == ("The media file is not at hand: /no/x.mp4",)
