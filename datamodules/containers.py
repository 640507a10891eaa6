"""What a media file is by its first bytes, and whether it is whole by its own container.

FFmpeg takes a text that names other files or addresses for a clip (playlists, manifests, lists to join), whatever it is
called, and decodes what it names. Here a clip is one file: only containers that hold their pictures and sound are read.

FFmpeg decodes what is left of a cut file without a word: fewer frames, and a shorter sound. The containers that clips
come in (MP4 and MOV, Matroska and WebM, RIFF: AVI and WAV, AIFF) all state in a few bytes how long they are; streams
without a declared length (MPEG-TS, FLV, MP3, live WebM) cannot be judged.
"""

import os
import re
import struct
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import BinaryIO, Concatenate, ParamSpec, TypeVar

from datamodules.files.printable import is_unicode

Options = ParamSpec("Options")
Decoded = TypeVar("Decoded")

VIDEO_SUFFIXES = (
    *(".mp4", ".avi", ".mkv", ".mov", ".webm", ".m4v", ".3gp", ".3g2", ".flv", ".f4v", ".wmv", ".asf"),
    *(".mpg", ".mpeg", ".vob", ".m2v", ".ts", ".mts", ".m2ts", ".ogv"),
)
SOUND_SUFFIXES = (".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".m4a", ".aac", ".aif", ".aiff", ".wma", ".mka")
PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".webp")
MEDIA_SUFFIXES = VIDEO_SUFFIXES + SOUND_SUFFIXES + PICTURE_SUFFIXES
"""In lower case. What a file holds is told by its content; a folder is looked through by suffix."""

_BOXES = set(b"ftyp styp pdin moov moof mfra mdat meta udta uuid free skip wide pnot sidx ssix emsg prft".split())
_EBML_MAGIC = b"\x1a\x45\xdf\xa3"
_MATROSKA_SEGMENT = b"\x18\x53\x80\x67"
_RIFF_FORMS = (b"AVI ", b"AVIX", b"AMV ", b"WAVE", b"CDXA")
_AIFF_FORMS = (b"AIFF", b"AIFC")
_FLAC = b"fLaC"
_OTHER_MAGIC = (
    _FLAC,
    b"FLV\x01",
    b"OggS\x00",
    bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c"),  # ASF: WMV
    b"\x00\x00\x01\xba",  # MPEG-PS
    b"\x00\x00\x01\xb3",  # MPEG video without a container
    b"\x00\x00\x00\x01",  # H.264 or H.265 without a container
)
_PICTURES = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
}
"""First bytes → PIL's name of a picture format. WebP, a RIFF form, is told apart in `picture_format`."""
_TAG = re.compile(rb"ID3[^\xff][^\xff].[\0-\x7f]{4}", re.DOTALL)
_TAG_HEADER, _TAG_HAS_FOOTER = 10, 0x10
_TS_SYNC, _TS_PACKET, _M2TS_PREFIX = 0x47, 188, 4
_TS_PACKETS_CHECKED = 5
_LISTS = re.compile(rb"(?i)^(#EXTM3U|ffconcat|# VobSub)|[\r\n]c=IN IP|<MPD|<CompositionPlaylist")
"""What FFmpeg takes for HLS, a list to join, VobSub, SDP, DASH and IMF: text in front of the first zero byte."""
_PROBE_BYTES = 1 << 20  # of a file, at most, FFmpeg looks at to tell its kind
_RIFF_UNKNOWN_SIZES = {0, 0xFFFFFFFF}  # of a recording that was never finished, or streamed


class MediaError(ValueError):
    """A media file that cannot be decoded; the message is `path: reason`."""


class NoVideoError(MediaError):
    """A media file without a video track."""


class UnreadableError(MediaError):
    """A media file that is not there, or that the system does not read or has no memory for.

    All of it may pass, as when a mount blinks.
    """


def one_clip(
    decode: Callable[Concatenate[str | Path, Options], Decoded],
) -> Callable[Concatenate[str | Path, Options], Decoded]:
    """Let whatever decoding a file raises be a `MediaError` of that file, which costs one clip and no run.

    Broken files make decoders raise nearly anything. Only ImportError goes through as it is: without FFmpeg's libraries
    no clip decodes.

    Args:
        decode: its first argument is the path.
    """

    @wraps(decode)
    def decode_one(path: str | Path, *args: Options.args, **kwargs: Options.kwargs) -> Decoded:
        try:
            return decode(path, *args, **kwargs)
        except (MediaError, ImportError):
            raise
        except Exception as error:
            kind = UnreadableError if isinstance(error, OSError | MemoryError) else MediaError
            reason = ": ".join([type(error).__name__, *str(error).splitlines()[:1]])
            raise kind(f"{path}: cannot be decoded ({reason})") from error

    return decode_one


def check_file(path: str | Path) -> None:
    """Look at a media file before a decoder does.

    Raises:
        UnreadableError: no such file, or the system refuses to read it.
        MediaError: an empty file, one that was cut short, or none of a container that holds its own media.
    """
    file = Path(path)
    try:
        if not file.is_file():
            raise UnreadableError(f"{path}: no such file")
        num_bytes = file.stat().st_size
        expected, is_known = declared_bytes(file), holds_media(file) or picture_format(file) is not None
    except OSError as error:
        raise UnreadableError(f"{path}: cannot be read ({error.strerror})") from error
    if num_bytes == 0:
        raise MediaError(f"{path}: the file has zero bytes")
    if not is_known:
        raise MediaError(
            f"{path}: cannot open the file: by its first bytes it is no MP4, MOV, Matroska, WebM, AVI, WAV, FLV, Ogg, "
            "ASF, MPEG, MP3, AAC, FLAC or AIFF, and no JPEG, PNG, GIF or WebP. (Playlists, which name other files, are "
            "not followed.)"
        )
    if expected is not None and num_bytes < expected:
        raise MediaError(f"{path}: the file is cut short ({num_bytes} bytes of {expected}); copy or download it again")


def decoder_path(path: str | Path) -> str:
    """The path as FFmpeg is given it: absolute, so that no name of a file reads as a protocol (`http:/host/a.mp4`)."""
    return str(Path(path).absolute())


def decoder_source(path: str | Path) -> str | bytes:
    """What torchcodec is given: the path, or the file's content where the bytes of its name are no UTF-8."""
    return decoder_path(path) if is_unicode(str(path)) else Path(path).read_bytes()


def holds_media(path: str | Path) -> bool:
    """Whether a file begins as one of the containers that hold their own pictures and sound, and as no list."""
    with Path(path).open("rb") as file:
        start, is_list = _start(file)
        if is_list:
            return False
        if _TAG.match(start):  # FFmpeg passes over it, and takes what follows for what it is
            file.seek(_end_of_tag(start))
            start, is_list = _start(file)
            return not is_list and (start.startswith(_FLAC) or _is_mpeg_sound(start.lstrip(b"\0")))
    if start[:4] == b"RIFF":
        return start[8:12] in _RIFF_FORMS
    if start[:4] == b"FORM":
        return start[8:12] in _AIFF_FORMS
    if start[4:8] in _BOXES or start.startswith((_EBML_MAGIC, *_OTHER_MAGIC)) or _is_mpeg_sound(start):
        return True
    # Packets of 188 bytes, or of 192 with a time in front (M2TS), each of which begins with the same byte.
    return any(
        len(sync := start[prefix :: prefix + _TS_PACKET]) > 1 and set(sync) == {_TS_SYNC}
        for prefix in (0, _M2TS_PREFIX)
    )


def picture_format(path: str | Path) -> str | None:
    """PIL's name of a picture file's format, by its first bytes; None for whatever else."""
    with Path(path).open("rb") as file:
        start = file.read(12)
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return "WEBP"
    return next((name for magic, name in _PICTURES.items() if start.startswith(magic)), None)


def _start(file: BinaryIO) -> tuple[bytes, bool]:
    """Bytes of a file from where it stands, and whether FFmpeg would take them for a list."""
    start = file.read(_TS_PACKETS_CHECKED * (_M2TS_PREFIX + _TS_PACKET))
    text = start if b"\0" in start else start + file.read(_PROBE_BYTES - len(start))
    return start, _LISTS.search(text.partition(b"\0")[0]) is not None


def _end_of_tag(start: bytes) -> int:
    """End of the ID3 tag that a file begins with (ID3v2.4 §3.1: four times seven bits of size; a flag for a footer)."""
    size = 0
    for byte in start[6:_TAG_HEADER]:
        size = size << 7 | byte
    return size + _TAG_HEADER * (2 if start[5] & _TAG_HAS_FOOTER else 1)


def _is_mpeg_sound(start: bytes) -> bool:
    """Whether bytes begin as a frame of MP3 or MP2 (ISO 11172-3 §2.4.1.3), or of AAC in ADTS (ISO 13818-7 §6.2)."""
    if len(start) < 4 or start[0] != 0xFF or start[1] & 0xE0 != 0xE0:
        return False
    if start[1] & 0xF6 == 0xF0:
        return True
    version, layer, bit_rate, sample_rate = start[1] >> 3 & 3, start[1] >> 1 & 3, start[2] >> 4, start[2] >> 2 & 3
    return version != 1 and layer in (1, 2) and bit_rate not in (0, 15) and sample_rate != 3


def declared_bytes(path: str | Path) -> int | None:
    """Bytes that a media file must have according to its container, or None where the container does not say.

    Args:
        path: a file; only the headers of its outermost elements are read.
    """
    with Path(path).open("rb") as file:
        start = file.read(12)
        if start[4:8] in _BOXES:
            return _end_of_boxes(file)
        if start[:4] == b"RIFF":
            return _end_of_riff(file)
        if start[:4] == b"FORM" and start[8:12] in _AIFF_FORMS:
            return 8 + int.from_bytes(start[4:8])
        if start[:4] == _EBML_MAGIC:
            return _end_of_segment(file)
    return None


def _end_of_boxes(file: BinaryIO) -> int:
    """End of the last top-level box (ISO 14496-12 §4.2: a 32-bit size and a type, then a 64-bit size if that is 1)."""
    end, num_bytes = 0, os.fstat(file.fileno()).st_size
    while True:
        file.seek(min(end, num_bytes))  # a size may be beyond what a file can have
        header = file.read(16)
        size = int.from_bytes(header[:4])
        if size == 1 and len(header) == 16:
            size = int.from_bytes(header[8:])
        if len(header) < 8 or size < 8 or header[4:8] not in _BOXES:  # the end, a box up to the end, or no box
            return end
        end += size


def _end_of_riff(file: BinaryIO) -> int | None:
    """End of the last RIFF chunk; an AVI beyond 1 GB has several (OpenDML)."""
    end = 0
    while True:
        file.seek(end)
        header = file.read(8)
        if len(header) < 8 or header[:4] != b"RIFF":
            return end
        (size,) = struct.unpack("<I", header[4:])
        if size in _RIFF_UNKNOWN_SIZES:
            return None
        end += 8 + size


def _end_of_segment(file: BinaryIO) -> int | None:
    """End of the segment after the EBML header (RFC 8794 §4 and §6.2)."""
    file.seek(len(_EBML_MAGIC))
    header_bytes = _read_vint(file)
    if header_bytes is None:
        return None
    file.seek(header_bytes, 1)
    if file.read(4) != _MATROSKA_SEGMENT:
        return None
    segment_bytes = _read_vint(file)
    return None if segment_bytes is None else file.tell() + segment_bytes


def _read_vint(file: BinaryIO) -> int | None:
    """EBML variable-length size: as many bytes as the first has leading zero bits, plus one; all ones is unknown."""
    first = file.read(1)
    if not first or not first[0]:
        return None
    num_more = 8 - first[0].bit_length()
    value = int.from_bytes(first + file.read(num_more)) & ((1 << 7 * (num_more + 1)) - 1)
    return None if value == (1 << 7 * (num_more + 1)) - 1 else value
