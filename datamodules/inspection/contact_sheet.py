"""A picture of a corpus: for some clips of each class, what the model sees and hears of them.

The frames stand above the sound at the time that they were taken at: frame i of T is the middle of the i-th part.
"""

import random
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from math import ceil
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from datamodules.batch import SAMPLE_RATE
from datamodules.clip_source import ClipRecord, ClipSource
from datamodules.files.writing import written_whole
from datamodules.inspection.checks import ClipCheck
from datamodules.inspection.corpus_report import UNLABELLED, Checks, Rows
from datamodules.media import DecodedClip, MediaError, decode_clip

_DPI = 100
_NUM_COLUMNS = 3
# In pixels.
_CLIP_WIDTH, _SMALLEST_FRAME = 820, 64
_MARGIN, _CLIP_GAP = 30, 40
_TITLE, _CLASS_LINE, _CLIP_LINE, _WAVEFORM, _TIME_AXIS = 56, 44, 24, 56, 34
_FRAME_GAP = 0.02  # of a frame's width
_MAX_ID = 48  # characters; the end of an id tells clips apart
_SOUND_COLOUR, _QUIET_COLOUR = "#3a7ca5", "#6b7280"

Chosen = dict[str, list[tuple[str, ClipRecord]]]


def choose_clips(data: ClipSource, rows: Rows, checks: Checks, clips_per_class: int, seed: int) -> Chosen:
    """Some decodable clips of each class, of all splits together, with their split or `validation`.

    Args:
        data: the corpus; its classes come first, in its order, also those without clips.
        rows: split → its rows.
        checks: path → check.
        clips_per_class: at most so many.
        seed: of the choice; a class' choice does not depend on the other classes.
    """
    classes: Chosen = defaultdict(list, {name: [] for name in (data.taxonomy.classes if data.taxonomy else ())})
    for split, records in rows.items():
        for record in records:
            clips = classes[record.target or UNLABELLED]
            if record.media is not None and checks[record.media].failure is None:
                clips.append(("validation" if record.is_validation else split, record))
    return {
        name: random.Random(f"{seed}/{name}").sample(clips, min(clips_per_class, len(clips)))
        for name, clips in classes.items()
    }


def draw_contact_sheet(
    file: Path, data: ClipSource, rows: Rows, checks: Checks, clips_per_class: int, seed: int
) -> Path:
    """Draw a few clips of each class: frames, sound, id, split, length.

    Args:
        file: the PNG to write.
        data: the corpus.
        rows: split → its rows.
        checks: path → check; clips that cannot be decoded are not drawn.
        clips_per_class: clips below the name of their class.
        seed: of their choice.

    Returns:
        `file`.
    """
    chosen = choose_clips(data, rows, checks, clips_per_class, seed)
    media = data.media
    page = _Page(media.num_frames, [len(clips) for clips in chosen.values()])
    what = f"{media.num_frames} frames of {media.image_size} pixels ({media.frame_fit}), {SAMPLE_RATE // 1000} kHz mono"
    page.write(f"{data.name} at {data.root}", f"as the model gets it: {what}", _TITLE, size=17)
    for name, clips in chosen.items():
        counts = [
            f"{sum((r.target or UNLABELLED) == name for r in records)} {split}" for split, records in rows.items()
        ]
        page.write(name, ", ".join(counts) + ("" if clips else "; none to show"), _CLASS_LINE, size=14)
        for position, (split, record) in enumerate(clips):
            with suppress(MediaError):  # gone, or changed, since it was checked: its place stays empty
                decoded = decode_clip(record.media, media)
                page.draw_clip(position % _NUM_COLUMNS, split, record, checks[record.media], decoded)
            if (position + 1) % _NUM_COLUMNS == 0 or position + 1 == len(clips):
                page.go_down(page.clip_height)
    with written_whole(file) as temporary:
        page.figure.savefig(temporary, format="png")
    return file


class _Page:
    """A figure that is filled from top to bottom; all places are in pixels from its upper left corner.

    Args:
        num_frames: of each clip.
        num_clips: of each class.
    """

    def __init__(self, num_frames: int, num_clips: Sequence[int]) -> None:
        self.frame_size = max(_CLIP_WIDTH // num_frames, _SMALLEST_FRAME)
        self.clip_width = self.frame_size * num_frames
        self.clip_height = _CLIP_LINE + self.frame_size + _WAVEFORM + _TIME_AXIS
        num_columns = max(min(_NUM_COLUMNS, max(num_clips)), 1)
        num_lines = sum(ceil(number / _NUM_COLUMNS) for number in num_clips)
        self.width = 2 * _MARGIN + num_columns * (self.clip_width + _CLIP_GAP) - _CLIP_GAP
        self.height = _TITLE + len(num_clips) * _CLASS_LINE + num_lines * self.clip_height + _MARGIN
        self.figure = Figure(figsize=(self.width / _DPI, self.height / _DPI), dpi=_DPI)
        self.top = 0
        self._text = self.figure.add_axes((0, 0, 1, 1), xlim=(0, self.width), ylim=(self.height, 0))
        self._text.set_axis_off()

    def go_down(self, pixels: int) -> None:
        self.top += pixels

    def write(self, text: str, detail: str, height: int, size: int) -> None:
        """A line of its own: a heading, and what there is to say of it."""
        baseline = self.top + height - 12
        heading = self._text.text(_MARGIN, baseline, text, fontsize=size, fontweight="bold", parse_math=False)
        place = heading.get_window_extent().x1 + 16  # the figure's own pixels, as those of `_text`
        self._text.text(place, baseline, detail, fontsize=11, color=_QUIET_COLOUR, parse_math=False)
        self.go_down(height)

    def _axes(self, left: int, top: int, height: int, duration_seconds: float) -> Axes:
        """Axes of a clip's width, whose x axis is time."""
        place = (
            left / self.width,
            1 - (top + height) / self.height,
            self.clip_width / self.width,
            height / self.height,
        )
        return self.figure.add_axes(place, xlim=(0, duration_seconds), yticks=())

    def draw_clip(self, column: int, split: str, record: ClipRecord, check: ClipCheck, decoded: DecodedClip) -> None:
        """A clip in a column, without going down: the next one stands beside it."""
        left = _MARGIN + column * (self.clip_width + _CLIP_GAP)
        seconds = check.duration_seconds or 1.0  # 0 for a clip that did not decode
        name = record.id if len(record.id) <= _MAX_ID else f"…{record.id[1 - _MAX_ID :]}"
        facts = f"{name}   {split}   {seconds:.2f} s"
        if decoded.has_video:
            facts += f"   {check.num_frames} frames   {check.width}×{check.height}"
        self._text.text(left, self.top + _CLIP_LINE - 7, facts, fontsize=10, parse_math=False)
        strip = self._axes(left, self.top + _CLIP_LINE, self.frame_size, seconds)
        if decoded.has_video:
            strip.imshow(frame_strip(decoded.frames), extent=(0, seconds, 0, 1), aspect="auto")
        else:
            _say(strip, "no pictures")
        strip.set_axis_off()
        sound = self._axes(left, self.top + _CLIP_LINE + self.frame_size, _WAVEFORM, seconds)
        sound.spines[["top", "right", "left"]].set_visible(False)
        sound.tick_params(labelsize=9, colors=_QUIET_COLOUR)
        sound.xaxis.set_major_formatter("{x:g} s")
        if decoded.waveform.any():
            _draw_waveform(sound, decoded.waveform, self.clip_width)
        else:
            _say(sound, "silence" if decoded.has_audio else "no audio track")


def frame_strip(frames: Tensor) -> np.ndarray:
    """Frames beside each other, each with a narrow white gap on its right.

    Args:
        frames: uint8 RGB `[T, 3, I, I]`.

    Returns:
        uint8 `[I, T · (I + gap), 3]`.
    """
    gap = max(round(_FRAME_GAP * frames.shape[-1]), 1)
    spaced = torch.nn.functional.pad(frames, (0, gap), value=255)
    return spaced.permute(2, 0, 3, 1).flatten(1, 2).numpy()


def _say(axes: Axes, what: str) -> None:
    place = {"transform": axes.transAxes, "horizontalalignment": "center", "verticalalignment": "center"}
    axes.text(0.5, 0.5, what, fontsize=11, color=_QUIET_COLOUR, **place)


def _draw_waveform(axes: Axes, waveform: Tensor, num_columns: int) -> None:
    """The smallest and greatest sample in each of as many stretches as there are pixels; the loudest fills the axes."""
    stretches = np.array_split(waveform.numpy(), min(num_columns, waveform.numel()))
    seconds = np.linspace(0, waveform.numel() / SAMPLE_RATE, len(stretches))
    low, high = [part.min() for part in stretches], [part.max() for part in stretches]
    axes.fill_between(seconds, low, high, color=_SOUND_COLOUR, linewidth=0.5)
    peak = float(waveform.abs().max())
    axes.set_ylim(-peak, peak)
