"""A stretch of a media file, written behind its path as a media fragment (W3C): `film.mp4#t=3.5,9`.

So whatever knows a clip by its path (caches, checks, bad clips, predictions) tells the segments of a file apart, and a
browser plays the right one.
"""

import re
from pathlib import Path
from typing import NamedTuple

_FRAGMENT = re.compile(r"#t=(\d+(?:\.\d+)?)(?:,(\d+(?:\.\d+)?))?\Z", re.ASCII)


class Segment(NamedTuple):
    """From the first frame of a file on.

    Args:
        start_seconds: its begin.
        end_seconds: its end; None: that of the file.
    """

    start_seconds: float
    end_seconds: float | None = None

    def __str__(self) -> str:
        return f"{self.start_seconds:g}–{'end' if self.end_seconds is None else f'{self.end_seconds:g}'} s"

    @property
    def fragment(self) -> str:
        """What stands behind the path."""
        return "#t=" + ",".join(_decimal(seconds) for seconds in self if seconds is not None)


def _decimal(seconds: float) -> str:
    return f"{seconds:.6f}".rstrip("0").rstrip(".")


def split_media(media: str | Path) -> tuple[str, Segment | None]:
    """The path of a clip's file, and the segment behind it; None where the clip is the whole file."""
    path = str(media)
    found = _FRAGMENT.search(path)
    if found is None:
        return path, None
    start, end = found.groups()
    return path[: found.start()], Segment(float(start), None if end is None else float(end))


def failure_reason(error: Exception, media: str | Path) -> str:
    """What is wrong with a clip, without its path in front."""
    return str(error).removeprefix(f"{split_media(media)[0]}: ")
