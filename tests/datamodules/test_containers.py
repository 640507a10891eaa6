"""Kinds and declared lengths of containers, from hand-made headers; real files are in test_media_formats.py."""

import struct
from pathlib import Path

import pytest

from datamodules.containers import declared_bytes, holds_media

pytestmark = pytest.mark.unit


def _box(kind: bytes, num_bytes: int) -> bytes:
    return struct.pack(">I4s", num_bytes, kind) + bytes(num_bytes - 8)


SDP = b"c=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n"
FTYP = _box(b"ftyp", 16)
WIDE_MDAT = struct.pack(">I4sQ", 1, b"mdat", 100) + bytes(84)
EBML_HEADER = b"\x1a\x45\xdf\xa3\x84" + bytes(4)
SEGMENT = b"\x18\x53\x80\x67"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        pytest.param(FTYP + _box(b"mdat", 40) + _box(b"moov", 24), 80, id="boxes"),
        pytest.param(FTYP + _box(b"mdat", 40)[:20], 56, id="last box cut"),
        pytest.param(FTYP + WIDE_MDAT, 116, id="64-bit box size"),
        pytest.param(FTYP + WIDE_MDAT[:12], 16, id="cut inside a 64-bit size"),
        pytest.param(FTYP + struct.pack(">I4s", 0, b"mdat") + bytes(50), 16, id="box up to the end of the file"),
        pytest.param(FTYP + _box(b"moov", 24) + bytes(200), 40, id="zeros after the last box"),
        pytest.param(FTYP + _box(b"moov", 24) + b"TAGsomebody's words", 40, id="words after the last box"),
        pytest.param(b"RIFF" + struct.pack("<I", 50) + b"AVI " + bytes(46), 58, id="AVI"),
        pytest.param(
            b"RIFF" + struct.pack("<I", 4) + b"AVI " + b"RIFF" + struct.pack("<I", 90) + b"AVIX", 110, id="OpenDML AVI"
        ),
        pytest.param(b"RIFF" + struct.pack("<I", 0xFFFFFFFF) + b"WAVE", None, id="streamed WAV"),
        pytest.param(b"RIFF" + struct.pack("<I", 0) + b"AVI ", None, id="AVI that was never finished"),
        pytest.param(EBML_HEADER + SEGMENT + b"\x01" + (500).to_bytes(7), 9 + 4 + 8 + 500, id="Matroska"),
        pytest.param(EBML_HEADER + SEGMENT + b"\x90", 9 + 4 + 1 + 16, id="Matroska with a one-byte size"),
        pytest.param(EBML_HEADER + SEGMENT + b"\x01" + b"\xff" * 7, None, id="live WebM"),
        pytest.param(EBML_HEADER[:6], None, id="cut inside the EBML header"),
        pytest.param(b"\x47" + bytes(187), None, id="MPEG-TS"),
        pytest.param(b"these are words", None, id="not a media file"),
        pytest.param(b"RI", None, id="two bytes"),
    ],
)
def test_declared_bytes(tmp_path: Path, content: bytes, expected: int | None) -> None:
    path = tmp_path / "clip"
    path.write_bytes(content)
    assert declared_bytes(path) == expected


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        pytest.param(FTYP, True, id="MP4"),
        pytest.param(WIDE_MDAT, True, id="MOV that begins with its media"),
        pytest.param(EBML_HEADER, True, id="Matroska"),
        pytest.param(b"RIFF....WAVE", True, id="RIFF"),
        pytest.param(b"FLV\x01\x05", True, id="FLV"),
        pytest.param(b"OggS\x00", True, id="Ogg"),
        pytest.param(bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c"), True, id="WMV"),
        pytest.param(bytes.fromhex("000001ba44"), True, id="MPEG-PS"),
        pytest.param(bytes.fromhex("000001b316"), True, id="MPEG video"),
        pytest.param(bytes.fromhex("0000000167640028"), True, id="H.264"),
        pytest.param((b"G" + bytes(187)) * 2, True, id="MPEG-TS"),
        pytest.param((bytes(4) + b"G" + bytes(187)) * 2, True, id="M2TS"),
        pytest.param(b"G" + bytes(400), False, id="a byte as in MPEG-TS, once"),
        pytest.param(b"Goodness\n" * 50, False, id="text that begins as MPEG-TS"),
        pytest.param(b"#EXTM3U\n" + FTYP, False, id="playlist before a container"),
        pytest.param(b"ffconcat version 1.0\n\x00\x01", False, id="list with bytes in it"),
        pytest.param(b"<?xml version='1.0'?><MPD", False, id="manifest"),
        pytest.param(b"", False, id="nothing"),
        pytest.param((b"G" + bytes(187)) * 4 + b"x" + bytes(187), False, id="MPEG-TS that breaks off"),
        pytest.param(b"RIFF....text", False, id="RIFF of another form"),
        pytest.param(b"v=0\n" + (b"G" + b"x" * 190 + b"\n") * 2 + SDP, False, id="SDP with sync bytes of M2TS"),
        pytest.param((b"G" + b"x" * 186 + b"\n") * 6 + SDP, False, id="SDP with sync bytes of MPEG-TS"),
        pytest.param(b"skipfree\n" + SDP, False, id="SDP that begins as MOV"),
        pytest.param(b"RIFF....WAVE\r" + SDP, False, id="SDP that begins as WAV"),
        pytest.param(EBML_HEADER[:4] + b"\n" + SDP, False, id="SDP that begins as Matroska"),
        pytest.param(b"skipfree<MPD>" + b"x" * 5000, False, id="DASH that begins as MOV"),
        pytest.param(b"skipfree" + b"x" * 5000 + b"<mpd>", False, id="DASH far behind"),
        pytest.param(b"skipfree<CompositionPlaylist>", False, id="IMF that begins as MOV"),
        pytest.param(FTYP + b"\nc=IN IP4 1.2.3.4\n<MPD", True, id="words behind the zero bytes of a container"),
    ],
)
def test_only_what_holds_its_own_media_is_a_container(tmp_path: Path, content: bytes, expected: bool) -> None:
    path = tmp_path / "clip"
    path.write_bytes(content)
    assert holds_media(path) is expected
