"""Files that are pictures and no film: JPEG, PNG, WebP and GIF, with the frames of those that move.

PIL reads them, and not FFmpeg, which takes a `%d` in a picture's name for a series of files.
"""

from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from datamodules.containers import MediaError, UnreadableError, check_file, picture_format
from datamodules.demuxing import DEFAULT_FRAMES_PER_SECOND, VideoInfo, check_size

_MOVING = ("GIF", "PNG", "WEBP")
_GIF_END = b";"


def read_stills(
    path: str | Path, choose: Callable[[int], Container[int]], keep: Callable[[int, np.ndarray], None]
) -> VideoInfo:
    """Go through the pictures of a file, upright as viewers show them, and say what they are like.

    A frame that does not say how long it is shown lasts as in a film that does not say so.

    Args:
        path: a picture file.
        choose: number of pictures → indices of those wanted.
        keep: given the index and the pixels, uint8 RGB `[H, W, 3]`, of each that is wanted.

    Raises:
        MediaError: no such file, an empty, cut or damaged one, or a picture that is too large.
    """
    with _opened(path) as image:
        num_pictures = getattr(image, "n_frames", 1) if image.format in _MOVING else 1
        wanted, milliseconds = choose(num_pictures), 0.0
        for index in range(num_pictures):
            image.seek(index)
            image.load()
            milliseconds += image.info.get("duration") or 1000 / DEFAULT_FRAMES_PER_SECOND
            if index in wanted:
                keep(index, np.asarray(ImageOps.exif_transpose(image).convert("RGB")))
        seconds = milliseconds / 1000
        rate = num_pictures / seconds if num_pictures > 1 else None
        return VideoInfo(num_pictures, seconds, image.width, image.height, rate, str(image.format).lower())


@contextmanager
def _opened(path: str | Path) -> Iterator[Image.Image]:
    check_file(path)
    name = str(picture_format(path))
    if name == "GIF" and not Path(path).read_bytes().rstrip(b"\0").endswith(_GIF_END):
        raise MediaError(f"{path}: the file is cut short (its end is missing); copy or download it again")
    try:
        with Image.open(path, formats=[name]) as image:
            check_size(path, image.width, image.height)
            yield image
    except (OSError, SyntaxError) as error:  # a fault of the file has no number; PNG's reader calls one of its syntax
        kind = MediaError if getattr(error, "errno", None) is None else UnreadableError
        raise kind(f"{path}: broken picture ({error})") from error
