"""Pictures and players of a report's clips. What cannot be shown is named on the page, and does not end the tool."""

import base64
import mimetypes
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache, partial
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import numpy as np
from PIL import Image, ImageOps

from datamodules.containers import MediaError, NoVideoError
from datamodules.files.printable import is_unicode, readable_name
from datamodules.isolation import Lost, run_isolated
from datamodules.segments import failure_reason, split_media
from datamodules.video import decode_video

if TYPE_CHECKING:
    from torch import Tensor

LARGEST_EMBEDDED = 4 * 1024**2
"""Bytes of the largest media file that is put into the page; a larger one is linked."""

_FRAME_HEIGHT, _SPECTROGRAM_HEIGHT = 112, 44
_WIDEST_FRAME = 4 * _FRAME_HEIGHT  # a JPEG has at most 65,500 pixels on a side
_JPEG_QUALITY = 72


@dataclass(frozen=True)
class Pictures:
    """What a clip looks and sounds like.

    Args:
        strip: frames side by side, JPEG; None where the video does not decode.
        spectrogram: of the sound, as wide as the strip, JPEG; None where there is no strip or no sound.
        problems: why something is missing.
    """

    strip: bytes | None
    spectrogram: bytes | None
    problems: tuple[str, ...]


@dataclass(frozen=True)
class ClipMedia:
    """What a clip's page shows beside the text.

    Args:
        source: address of the media file for the player, relative to the page or a data URI; None without a file.
        strip: data URI of the frames, or None.
        spectrogram: data URI of the spectrogram, or None.
        notes: what is missing, and why.
    """

    source: str | None
    strip: str | None
    spectrogram: str | None
    notes: tuple[str, ...]


def draw_pictures(path: str, num_frames: int) -> Pictures:
    """Decode a clip and draw it.

    Args:
        path: a media file, or a segment of one.
        num_frames: uniformly spaced frames in the strip.

    Raises:
        ImportError: FFmpeg's libraries are missing.
    """
    # Torch takes a second to import: the workers do it, the parent does not.
    import torch

    from callbacks.pictures import frame_strip, spectrogram
    from datamodules.media import decode_audio, decode_sound_alone
    from datamodules.media_settings import MediaSettings

    file, segment = split_media(path)
    max_seconds = MediaSettings().max_audio_seconds
    try:
        video = decode_video(file, num_frames, _thumbnail, segment)
    except NoVideoError:
        try:
            waveform, _ = decode_sound_alone(file, max_seconds, segment=segment)
        except MediaError as error:
            return Pictures(None, None, (failure_reason(error, path),))
        strip = frame_strip(
            torch.zeros(num_frames, 3, _FRAME_HEIGHT, _FRAME_HEIGHT, dtype=torch.uint8), _FRAME_HEIGHT, has_video=False
        )
        return Pictures(jpeg(strip), jpeg(spectrogram(waveform, _SPECTROGRAM_HEIGHT, strip.width)), ())
    except MediaError as error:
        return Pictures(None, None, (failure_reason(error, path),))
    strip = frame_strip(_same_width(video.frames), _FRAME_HEIGHT)
    try:
        waveform = decode_audio(
            file,
            max_seconds,
            video_start_seconds=video.begin_seconds,
            segment_seconds=None if segment is None else video.duration_seconds,
        )
    except MediaError as error:
        return Pictures(jpeg(strip), None, (failure_reason(error, path),))
    if waveform is None:
        return Pictures(jpeg(strip), None, ("the file has no audio track",))
    return Pictures(jpeg(strip), jpeg(spectrogram(waveform, _SPECTROGRAM_HEIGHT, strip.width)), ())


def _thumbnail(pixels: np.ndarray) -> np.ndarray:
    height, width, _ = pixels.shape
    size = (min(max(round(width * _FRAME_HEIGHT / height), 1), _WIDEST_FRAME), _FRAME_HEIGHT)
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))


def _same_width(thumbnails: Sequence[np.ndarray]) -> "Tensor":
    """`[T, 3, H, W]`: where the picture changes its shape within a film, the narrower frames get black bars."""
    size = (max(pixels.shape[1] for pixels in thumbnails), _FRAME_HEIGHT)
    frames = [np.asarray(ImageOps.pad(Image.fromarray(pixels), size)) for pixels in thumbnails]
    import torch

    return torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2)


def jpeg(image: Image.Image) -> bytes:
    """A picture as a JPEG file."""
    buffer = BytesIO()
    image.save(buffer, "JPEG", quality=_JPEG_QUALITY, optimize=True)
    return buffer.getvalue()


def draw_all(
    paths: list[str], num_frames: int, num_workers: int, timeout_seconds: float, advance: Callable[[], None]
) -> dict[str, Pictures]:
    """Draw clips in worker processes: a file that crashes a decoder or holds it up costs its own pictures only.

    Args:
        paths: media files that exist.
        num_frames: in each strip.
        num_workers: processes.
        timeout_seconds: longest time for one clip.
        advance: called after each clip.

    Raises:
        ImportError: FFmpeg's libraries are missing.
    """
    drawn = {}
    outcomes = run_isolated(partial(draw_pictures, num_frames=num_frames), paths, num_workers, timeout_seconds)
    with closing(outcomes):
        for path, outcome in outcomes:
            drawn[path] = Pictures(None, None, (outcome.reason,)) if isinstance(outcome, Lost) else outcome
            advance()
    return drawn


def find_media(name: str) -> str | None:
    """The path of the media file that a result names; None where it is not at hand.

    A result names a file whose own name is in other bytes than UTF-8 as `readable_name` does.
    """
    file, segment = split_media(name)
    if os.path.isfile(file):  # noqa: PTH113 (False, too, for a name that no system takes)
        return name
    path = Path(file)
    found = _odd_files(path.parent).get(path.name)
    return found if found is None or segment is None else found + segment.fragment


@lru_cache
def _odd_files(directory: Path) -> dict[str, str]:
    """Readable name → path of the files in a directory whose names are no UTF-8."""
    try:
        return {readable_name(path.name): str(path) for path in directory.iterdir() if not is_unicode(path.name)}
    except OSError:
        return {}


def clip_media(path: str | None, drawn: Mapping[str, Pictures], directory: Path, embed: bool) -> ClipMedia:
    """What the page shows of a clip.

    Args:
        path: the media file that the predictions name; None or empty where they name none.
        drawn: path → pictures, of the files that exist.
        directory: of the page.
        embed: put the media file itself into the page, if it decodes and has at most `LARGEST_EMBEDDED` bytes.
    """
    if not path:
        return ClipMedia(None, None, None, ("The prediction file names no media file.",))
    if path not in drawn:
        return ClipMedia(None, None, None, (f"The media file is not at hand: {readable_name(path)}",))
    pictures = drawn[path]
    # What does not decode stays outside: a prediction file may name any file of this machine.
    embed = embed and pictures.strip is not None and Path(split_media(path)[0]).stat().st_size <= LARGEST_EMBEDDED
    return ClipMedia(
        source=_embedded(path) if embed else _link(path, directory),
        strip=data_uri("image/jpeg", pictures.strip),
        spectrogram=data_uri("image/jpeg", pictures.spectrogram),
        notes=tuple(f"Not shown: {problem}." for problem in pictures.problems),
    )


def _link(path: str, directory: Path) -> str:
    """Address relative to the page; `./` keeps a colon in a name from being read as a scheme."""
    file, segment = split_media(path)
    relative = Path(os.path.relpath(file, directory)).as_posix()
    return f"./{quote(os.fsencode(relative))}" + ("" if segment is None else segment.fragment)


def _embedded(path: str) -> str | None:
    file, segment = split_media(path)
    content = data_uri(mimetypes.guess_type(file)[0] or "video/mp4", Path(file).read_bytes())
    return content if content is None or segment is None else content + segment.fragment


def data_uri(kind: str, content: bytes | None) -> str | None:
    """A file's content as an address; `kind` is its MIME type."""
    return None if content is None else f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
