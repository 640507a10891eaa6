"""Any text on a picture: harmless, wrapped to a width and cut to a length, in fonts that have its characters."""

import unicodedata
from collections.abc import Sequence
from functools import cache, lru_cache
from itertools import groupby

from matplotlib import font_manager
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageDraw, ImageFont

from callbacks.pictures import font

_FALLBACKS = (
    "Noto Sans CJK SC", "Noto Sans CJK JP", "Source Han Sans SC", "WenQuanYi Zen Hei", "WenQuanYi Micro Hei",
    "Microsoft YaHei", "SimHei", "PingFang SC", "Hiragino Sans GB", "Arial Unicode MS", "Noto Emoji", "Symbola",
)  # fmt: skip
"""Font families that are taken, where they are installed, for what DejaVu Sans lacks: Chinese before all."""
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_JOINERS = "\u200c\u200d"
_MAX_COMBINING = 3  # marks upon one letter; a tower of them would reach into the lines above


def cleaned(text: str) -> str:
    """The text with single spaces for white space, and `�` for what would steer the rendering instead of showing.

    That is control characters, directional overrides and other invisible ones, halves of surrogate pairs, and marks
    beyond the third on one letter.
    """
    characters, marks = [], 0
    for character in unicodedata.normalize("NFC", " ".join(text.split())):
        category = unicodedata.category(character)
        marks = marks + 1 if category[0] == "M" else 0
        if marks > _MAX_COMBINING:
            continue
        steers = category[0] == "C" and character not in _JOINERS
        characters.append(_REPLACEMENT if steers else character)
    return "".join(characters)


@cache
def _fallback_files() -> tuple[str, ...]:
    installed = {entry.name: entry.fname for entry in reversed(font_manager.fontManager.ttflist)}
    return tuple(installed[name] for name in _FALLBACKS if name in installed)


@cache
def _fallback(file: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(file, size)


@cache
def _characters(file: str) -> frozenset[int]:
    return frozenset(FT2Font(file).get_charmap())


def runs(text: str, size: int, bold: bool = False) -> list[tuple[str, ImageFont.FreeTypeFont]]:
    """The text in pieces, each with the first font that has its characters: DejaVu Sans, then installed ones.

    A character that no font has stays with DejaVu Sans, which draws a box.
    """
    own = font(size, bold)
    if _characters(str(own.path)).issuperset(map(ord, text)) or not _fallback_files():
        return [(text, own)] if text else []

    def choose(character: str) -> ImageFont.FreeTypeFont:
        if ord(character) not in _characters(str(own.path)):
            for file in _fallback_files():
                if ord(character) in _characters(file):
                    return _fallback(file, size)
        return own

    return [("".join(part), chosen) for chosen, part in groupby(text, choose)]


@lru_cache(maxsize=4096)
def text_width(text: str, size: int, bold: bool = False) -> float:
    """Width in pixels."""
    return sum(chosen.getlength(part) for part, chosen in runs(text, size, bold))


def wrap(text: str, size: int, width: int, max_lines: int) -> tuple[list[str], int]:
    """Break a cleaned text into lines, at spaces where there are any.

    Args:
        text: see `cleaned`.
        size: of the font, in pixels.
        width: that no line exceeds, in pixels; a single character that does stands alone.
        max_lines: at most so many.

    Returns:
        The lines, and how many characters were left out behind them.
    """
    lines: list[str] = []
    rest = text.strip()
    while rest and len(lines) < max_lines:
        end = _fitting(rest, size, width)
        if end < len(rest) and rest[end] != " ":
            space = rest.rfind(" ", 0, end)
            end = space if space > 0 else end
        lines.append(rest[:end].rstrip())
        rest = rest[end:].lstrip()
    return lines, len(rest)


def _fitting(text: str, size: int, width: int) -> int:
    """Length of the longest beginning that is at most `width` wide, and at least one character."""
    fits, too_long = 1, min(len(text), 8 * width // size) + 1
    while too_long - fits > 1:
        middle = (fits + too_long) // 2
        if text_width(text[:middle], size) <= width:
            fits = middle
        else:
            too_long = middle
    while fits > 1 and fits < len(text) and unicodedata.combining(text[fits]):
        fits -= 1
    return fits


def shortened(text: str, size: int, width: int, bold: bool = False) -> str:
    """A cleaned text on one line: its middle gives way to "…" where it is wider than `width` pixels."""
    kept = text[: 2 * width]
    if kept == text and text_width(text, size, bold) <= width:
        return text
    half = len(kept) // 2
    while half > 1 and text_width(f"{text[:half]}…{text[-half:]}", size, bold) > width:
        half -= max(half // 8, 1)
    return f"{text[:half]}…{text[-half:]}"


class Pen:
    """Writes on a picture.

    Args:
        picture: RGB.
    """

    def __init__(self, picture: Image.Image) -> None:
        self.canvas = ImageDraw.Draw(picture)

    def write(self, place: tuple[float, float], text: str, size: int, colour: str, bold: bool = False) -> float:
        """Write one line; returns the x coordinate where it ends.

        Args:
            place: x and y of the line's left end and baseline, in pixels from the upper left corner.
            text: see `cleaned`.
            size: in pixels.
            colour: as PIL names colours.
            bold: in DejaVu Sans' bold face.
        """
        x, baseline = place
        for part, chosen in runs(text, size, bold):
            self.canvas.text((x, baseline), part, fill=colour, font=chosen, anchor="ls")
            x += chosen.getlength(part)
        return x

    def write_right(self, place: tuple[float, float], text: str, size: int, colour: str, bold: bool = False) -> float:
        """Write one line that ends at `place`; returns the x coordinate where it begins."""
        left = place[0] - text_width(text, size, bold)
        self.write((left, place[1]), text, size, colour, bold)
        return left

    def blend(self, box: Sequence[float], colours: Sequence[str]) -> None:
        """Fill a box with colours below each other, in equal parts."""
        left, top, right, bottom = box
        height = (bottom - top) / len(colours)
        for i, colour in enumerate(colours):
            self.canvas.rectangle((left, round(top + i * height), right, round(top + (i + 1) * height) - 1), colour)
