"""Media files that are lists of other files or addresses: FFmpeg would read those, whatever the file is called."""

import socket
from collections.abc import Callable
from pathlib import Path

import av
import pytest
import torch
from torchcodec.decoders import AudioDecoder

from datamodules.clip_dataset import ClipDataset
from datamodules.clip_source import ClipRecord
from datamodules.containers import MediaError
from datamodules.inspection.checks import check_clip
from datamodules.media import decode_audio, decode_clip, decode_frames
from datamodules.media_settings import MediaSettings
from datamodules.video import video_info
from tools.report.media import clip_media, draw_pictures

pytestmark = pytest.mark.unit

SETTINGS = MediaSettings(num_frames=2, image_size=32, max_audio_seconds=1.0)
_MPD = """<?xml version="1.0"?>
<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" profiles="urn:mpeg:dash:profile:isoff-on-demand:2011" type="static"
 mediaPresentationDuration="PT2S"><Period><AdaptationSet mimeType="video/mp4"><Representation id="1" bandwidth="1000">
<SegmentList duration="2"><SegmentURL media="{url}"/></SegmentList></Representation></AdaptationSet></Period></MPD>
"""
_HLS = "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{url}\n#EXT-X-ENDLIST\n"
_SDP = "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 5004 RTP/AVP 0\n"
LISTS = {
    "concat.mp4": "ffconcat version 1.0\nfile private.mp4\n",
    "concat_with_binary.mp4": "ffconcat version 1.0\n# \x00\x01\x02\nfile private.mp4\n",
    "hls.mp4": _HLS.format(url="private.mp4"),
    "hls_absolute.mp4": _HLS.format(url="{directory}/private.mp4"),
    "hls.m3u8": _HLS.format(url="{directory}/private.mp4"),
    "hls_http.avi": _HLS.format(url="{http}"),
    "dash.mp4": _MPD.format(url="private.mp4"),
    "dash_http.mp4": _MPD.format(url="{http}"),
    "sdp.mp4": _SDP,
}
OPENED = ("concat.mp4", "hls.mp4", "hls_absolute.mp4", "dash.mp4")
"""Those with which FFmpeg 5 to 8, asked directly, opens the private file."""


@pytest.fixture
def server() -> socket.socket:
    """Listens; nobody may come."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0)
        yield listening
        with pytest.raises(BlockingIOError):
            listening.accept()


@pytest.fixture
def planted(request: pytest.FixtureRequest, tmp_path: Path, write_clip: Callable, server: socket.socket) -> Path:
    """A list in the place of a clip, beside somebody's private clip."""
    write_clip(tmp_path / "private.mp4")
    http = f"http://127.0.0.1:{server.getsockname()[1]}/a.mp4"
    path = tmp_path / request.param
    content = LISTS[request.param].replace("{directory}", str(tmp_path)).replace("{http}", http)
    path.write_text(content)
    return path


@pytest.mark.parametrize("planted", LISTS, indirect=True)
def test_a_list_is_no_clip(planted: Path) -> None:
    for read in (
        lambda: decode_clip(planted, SETTINGS),
        lambda: decode_frames(planted, 2),
        lambda: decode_audio(planted, 1.0),
        lambda: video_info(planted),
    ):
        with pytest.raises(MediaError, match=f"{planted.name}: cannot open the file: .*Playlists.* are not followed"):
            read()


@pytest.mark.parametrize("planted", OPENED, indirect=True)
def test_the_lists_are_such_that_ffmpeg_reads_what_they_name(planted: Path) -> None:
    """Otherwise the test above would show nothing."""
    if planted.name == "concat.mp4":
        with av.open(str(planted)) as container:
            assert next(container.decode(video=0)).width > 0
    else:
        assert AudioDecoder(str(planted)).metadata.sample_rate == 44_100


@pytest.mark.parametrize("planted", ["concat.mp4", "hls.mp4"], indirect=True)
def test_a_list_among_clips_is_counted_and_named(planted: Path) -> None:
    data = ClipDataset([ClipRecord("a", str(planted), "anger", None, "train.csv:1")], SETTINGS, "Which?", "skip", False)
    clip = data[0]
    assert clip.failure is not None and "Playlists" in clip.failure
    assert not clip.frames.any() and not len(clip.waveform)
    assert "Playlists" in str(check_clip(str(planted), SETTINGS).failure)


@pytest.mark.parametrize("planted", ["concat.mp4", "hls.m3u8"], indirect=True)
@pytest.mark.parametrize("embed", [False, True])
def test_a_report_shows_nothing_of_what_a_list_names(planted: Path, embed: bool) -> None:
    pictures = draw_pictures(str(planted), 2)
    assert pictures.strip is None and pictures.spectrogram is None
    shown = clip_media(str(planted), {str(planted): pictures}, planted.parent, embed)
    assert shown.source == f"./{planted.name}" and shown.strip is None


@pytest.mark.parametrize("embed", [False, True])
def test_a_report_does_not_hold_files_that_are_no_clips(tmp_path: Path, embed: bool) -> None:
    """A prediction file may name any file of the machine of whoever makes the report."""
    key = tmp_path / "id_rsa"
    key.write_text("-----BEGIN OPENSSH PRIVATE KEY-----\n")
    shown = clip_media(str(key), {str(key): draw_pictures(str(key), 2)}, tmp_path, embed)
    assert shown.source == "./id_rsa" and shown.strip is None and shown.spectrogram is None


def test_a_name_that_reads_as_an_address_is_a_name(
    tmp_path: Path, write_clip: Callable, server: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = Path(f"http:/127.0.0.1:{server.getsockname()[1]}/a.mp4")
    write_clip(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    clip = decode_clip(name, SETTINGS)
    assert clip.has_audio and not torch.equal(clip.frames, torch.zeros_like(clip.frames))
