"""What a media file is by its first bytes, and whether it is whole by its own container.

FFmpeg takes a text that names other files or addresses for a clip (playlists, manifests, lists to join), whatever it is
called, and decodes what it names. Here a clip is one file: only containers that hold their pictures and sound are read.

FFmpeg decodes what is left of a cut file without a word: fewer frames, and a shorter sound. The containers that clips
come in (MP4 and MOV, Matroska and WebM, RIFF: AVI and WAV) all state in a few bytes how long they are; streams without
a declared length (MPEG-TS, FLV, live WebM) cannot be judged.
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

_BOXES = set(b"ftyp styp pdin moov moof mfra mdat meta udta uuid free skip wide pnot sidx ssix emsg prft".split())
_EBML_MAGIC = b"\x1a\x45\xdf\xa3"
_MATROSKA_SEGMENT = b"\x18\x53\x80\x67"
_RIFF_FORMS = (b"AVI ", b"AVIX", b"AMV ", b"WAVE", b"CDXA")
_OTHER_MAGIC = (
    b"FLV\x01",
    b"OggS\x00",
    bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c"),  # ASF: WMV
    b"\x00\x00\x01\xba",  # MPEG-PS
    b"\x00\x00\x01\xb3",  # MPEG video without a container
    b"\x00\x00\x00\x01",  # H.264 or H.265 without a container
)
_TS_SYNC, _TS_PACKET, _M2TS_PREFIX = 0x47, 188, 4
_TS_PACKETS_CHECKED = 5
_LISTS = re.compile(rb"(?i)^(#EXTM3U|ffconcat|# VobSub)|[\r\n]c=IN IP|<MPD|<CompositionPlaylist")
"""What FFmpeg takes for HLS, a list to join, VobSub, SDP, DASH and IMF: text in front of the first zero byte."""
_PROBE_BYTES = 1 << 20  # of a file, at most, FFmpeg looks at to tell its kind
_RIFF_UNKNOWN_SIZES = {0, 0xFFFFFFFF}  # of a recording that was never finished, or streamed


class MediaError(ValueError):
    """A media file that cannot be decoded; the message is `path: reason`."""


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
        expected, is_container = declared_bytes(file), holds_media(file)
    except OSError as error:
        raise UnreadableError(f"{path}: cannot be read ({error.strerror})") from error
    if num_bytes == 0:
        raise MediaError(f"{path}: the file has zero bytes")
    if not is_container:
        raise MediaError(
            f"{path}: cannot open the file: by its first bytes it is no MP4, MOV, Matroska, WebM, AVI, WAV, FLV, Ogg, "
            "ASF or MPEG. (Playlists, which name other files, are not followed.)"
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
        start = file.read(_TS_PACKETS_CHECKED * (_M2TS_PREFIX + _TS_PACKET))
        text = start if b"\0" in start else start + file.read(_PROBE_BYTES - len(start))
    if _LISTS.search(text.partition(b"\0")[0]):
        return False
    if start[:4] == b"RIFF":
        return start[8:12] in _RIFF_FORMS
    if start[4:8] in _BOXES or start.startswith((_EBML_MAGIC, *_OTHER_MAGIC)):
        return True
    # Packets of 188 bytes, or of 192 with a time in front (M2TS), each of which begins with the same byte.
    return any(
        len(sync := start[prefix :: prefix + _TS_PACKET]) > 1 and set(sync) == {_TS_SYNC}
        for prefix in (0, _M2TS_PREFIX)
    )


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
