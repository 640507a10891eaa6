"""A panel as a picture: narrow, because TensorBoard shows pictures small, and of limited height."""

from collections.abc import Sequence

from PIL import Image, ImageColor

from callbacks.colours import RELATIONS, SYMBOLS, colour_of
from callbacks.inspection.lettering import Pen, cleaned, shortened, text_width, wrap
from callbacks.inspection.panel import Panel, ShownCompletion, ShownSentence, is_correct
from callbacks.pictures import frame_strip, spectrogram
from datamodules.batch import SAMPLE_RATE
from datamodules.emotions import members

WIDTH = 480
"""Of every picture, in pixels: TensorBoard shows pictures 330 pixels wide, where these can still be read."""

# In pixels.
_MARGIN, _GUTTER, _BAR, _GAP = 10, 24, 6, 8
_TITLE, _TEXT, _SMALL, _MARK = 19, 16, 13, 22
_TEXT_LINE, _SMALL_LINE = 21, 18
_HIGHEST_FRAME, _SPECTROGRAM = 116, 48

MAX_FRAMES = 8
"""Of a clip with more, as many are shown, evenly spaced."""
MAX_COMPLETIONS = 8
"""Of a larger group, the best and the worst half of this many are shown."""
MAX_SENTENCES = 12
"""Of a completion."""
MAX_LINES = 8
"""Of a sentence."""
MAX_LINES_TOGETHER = 192
"""Of all sentences of a picture; each completion has an equal share of them."""
_MAX_CHARACTERS = 1_000
"""Of a sentence; more than its lines hold, so that a text of any length costs the same."""

_INK, _QUIET, _RULE, _PAPER, _NO_SOUND = "#1f2328", "#59616b", "#d0d5db", "#ffffff", "#eceef1"
_RIGHT, _WRONG = RELATIONS["matching"], RELATIONS["contradicting"]
_VERDICTS = {True: (" ✓", _RIGHT), False: (" ✗", _WRONG), None: ("", _INK)}
_TINT = 0.16
_LEGEND = (("matching", "target"), ("neutral", "neutral"), ("contradicting", "another emotion"))
_BOX_TOP = 4  # from the top of a sentence's box to that of its first line


def tint(colour: str) -> str:
    """A pale form of a colour, to stand behind dark text."""
    return "#" + "".join(f"{round(255 + (part - 255) * _TINT):02x}" for part in ImageColor.getrgb(colour))


def draw_panel(panel: Panel) -> Image.Image:
    """The picture of a panel, RGB, `WIDTH` wide; its height follows its content.

    From top to bottom: the clip's id and target, what the model saw and heard on one time axis, then each completion
    with its answer, rewards and advantage or verdict, and its sentences: beside each the colours of the emotions that
    the verifier reads in it, before them the mark of its relation to the target.
    """
    shown = panel.completions
    if len(shown) > MAX_COMPLETIONS:
        half = MAX_COMPLETIONS // 2
        shown = (*shown[:half], *shown[-half:])
    page = _Page(panel, MAX_LINES_TOGETHER // len(shown))
    page.header()
    page.clip()
    page.legend()
    for place, completion in enumerate(shown):
        if len(shown) < len(panel.completions) and place == MAX_COMPLETIONS // 2:
            page.note(f"… {len(panel.completions) - len(shown)} completions between these …")
        page.completion(completion)
    return page.finished()


class _Page:
    """A picture that is filled from top to bottom; it grows as it must.

    Args:
        panel: what to draw.
        max_lines: of the sentences of each completion.
    """

    def __init__(self, panel: Panel, max_lines: int) -> None:
        self.panel = panel
        self.max_lines = max_lines
        self.picture = Image.new("RGB", (WIDTH, 1024), _PAPER)
        self.pen = Pen(self.picture)
        self.top = 10

    def finished(self) -> Image.Image:
        return self.picture.crop((0, 0, WIDTH, self.top + 10))

    def _make_room(self, height: int) -> None:
        needed = self.top + height + 32
        if needed > self.picture.height:
            taller = Image.new("RGB", (WIDTH, max(needed, 2 * self.picture.height)), _PAPER)
            taller.paste(self.picture)
            self.picture, self.pen = taller, Pen(taller)

    def header(self) -> None:
        """The id and the target on one line, or on two where the target is compound and needs the room."""
        emotions = members(self.panel.target) if self.panel.target else ("none",)
        name = cleaned(self.panel.id[-_MAX_CHARACTERS:])
        if len(emotions) == 1:
            room = round(self._target(emotions)) - 2 * _MARGIN
        else:
            room = WIDTH - 2 * _MARGIN
        name = shortened(name, _TITLE, room, bold=True)
        self.pen.write((_MARGIN, self.top + 20), name, _TITLE, _INK, bold=True)
        self.top += 32
        if len(emotions) > 1:
            self._target(emotions)
            self.top += 32

    def _target(self, emotions: Sequence[str]) -> float:
        """The target's emotions at the right; returns the x coordinate where they begin."""
        right: float = WIDTH - _MARGIN
        for emotion in reversed(emotions):
            left = right - text_width(emotion, _TEXT, bold=True) - 16
            box = (left, self.top + 1, right, self.top + 25)
            colour = colour_of(emotion, self.panel.taxonomy)
            self.pen.canvas.rounded_rectangle(box, 5, tint(colour), colour, 2)
            self.pen.write((left + 8, self.top + 19), emotion, _TEXT, _INK, bold=True)
            right = left - 6
        return self.pen.write_right((right, self.top + 19), "target", _SMALL, _QUIET)

    def clip(self) -> None:
        """Frames above the sound at the time that they were taken at: frame i of T is the middle of the i-th part."""
        panel = self.panel
        if panel.failure is not None:
            self.note(f"not decoded: {panel.failure}", max_lines=3)
            return
        frames, num_frames = panel.frames, len(panel.frames)
        if num_frames > MAX_FRAMES:
            frames = frames[[(2 * i + 1) * num_frames // (2 * MAX_FRAMES) for i in range(MAX_FRAMES)]]
        room = WIDTH - 2 * _MARGIN
        strip = frame_strip(frames, _HIGHEST_FRAME, panel.has_video)
        if strip.width > room:
            strip = strip.resize((room, max(round(strip.height * room / strip.width), 1)), Image.Resampling.LANCZOS)
        self.picture.paste(strip, (_MARGIN, self.top))
        self.top += strip.height + 2
        heard = panel.waveform.numel() / SAMPLE_RATE
        part = min(heard / panel.duration_seconds, 1.0) if panel.duration_seconds and heard else 1.0
        self.pen.blend((_MARGIN, self.top, _MARGIN + strip.width, self.top + _SPECTROGRAM), [_NO_SOUND])
        sound = spectrogram(panel.waveform, _SPECTROGRAM, max(round(strip.width * part), 1))
        self.picture.paste(sound, (_MARGIN, self.top))
        self.top += _SPECTROGRAM + 2
        facts = [f"{panel.duration_seconds:.2f} s"] if panel.duration_seconds else []
        if panel.has_video:
            shown = f"{len(frames)} of {num_frames}" if num_frames > len(frames) else f"{num_frames}"
            facts.append(f"{shown} frames")
        facts.append(f"{heard:.2f} s of sound" if heard else "no sound")
        self.note(" · ".join(facts))

    def legend(self) -> None:
        if self.panel.is_unread:
            self.note("no verifier read the sentences")
            return
        x: float = _MARGIN
        for name, meaning in _LEGEND:
            x = self.pen.write((x, self.top + 14), SYMBOLS[name], _TEXT, RELATIONS[name], bold=True) + 5
            x = self.pen.write((x, self.top + 14), meaning, _SMALL, _QUIET) + 16
        self.pen.write_right((WIDTH - _MARGIN, self.top + 14), "read by the verifier", _SMALL, _QUIET)
        self.top += 22

    def note(self, text: str, max_lines: int = 1) -> None:
        """Quiet lines."""
        for line in self._lines(text, _SMALL, WIDTH - 2 * _MARGIN, max_lines):
            self._make_room(_SMALL_LINE)
            self.pen.write((_MARGIN, self.top + 14), line, _SMALL, _QUIET)
            self.top += _SMALL_LINE

    def completion(self, completion: ShownCompletion) -> None:
        self._make_room(3 * _TEXT_LINE)
        self.top += 6
        self.pen.canvas.line((_MARGIN, self.top, WIDTH - _MARGIN, self.top), _RULE, 1)
        self.top += 4
        what, value, colour = self._worth(completion)
        left = self.pen.write_right((WIDTH - _MARGIN, self.top + 18), value, _TEXT, colour, bold=True) - 6
        left = self.pen.write_right((left, self.top + 18), what, _SMALL, _QUIET)
        answer = completion.response.answer
        text = "no answer" if answer is None else cleaned(answer[:_MAX_CHARACTERS]) or "empty answer"
        mark, colour = _VERDICTS[completion.correct]
        x = self.pen.write((_MARGIN, self.top + 18), "answer ", _SMALL, _QUIET)
        room = round(left - x - text_width(mark, _TEXT, bold=True)) - _GAP
        self.pen.write((x, self.top + 18), shortened(text, _TEXT, room, bold=True) + mark, _TEXT, colour, bold=True)
        self.top += 26
        if completion.rewards:
            self.note(" · ".join(f"{name} {value:.2f}" for name, value in completion.rewards.items()), max_lines=3)
            self.top += 4
        self._rationale(completion)

    def _worth(self, completion: ShownCompletion) -> tuple[str, str, str]:
        """What stands at the right of a completion's first line: a word, a value and its colour."""
        if completion.advantage is not None:
            value = f"{completion.advantage:+.2f}".replace("-", "−")
            colour = _RIGHT if completion.advantage > 0 else _WRONG if completion.advantage < 0 else _QUIET
            return "advantage", value, colour
        if self.panel.judge is None:
            return "", "", _QUIET
        mark, colour = _VERDICTS[is_correct(completion.verdict, self.panel.target)]
        return "judged as", f"{completion.verdict or 'invalid'}{mark}", colour

    def _rationale(self, completion: ShownCompletion) -> None:
        if not completion.sentences:
            self.note("no rationale; the whole completion:" if completion.response.completion else "empty completion")
            if completion.response.completion:
                self.sentence(ShownSentence(completion.response.completion), MAX_LINES)
            return
        lines_left = self.max_lines
        for place, sentence in enumerate(completion.sentences):
            if place == MAX_SENTENCES or lines_left < 1:
                self.note(f"… {len(completion.sentences) - place} more sentences")
                break
            lines_left -= self.sentence(sentence, min(MAX_LINES, lines_left))

    def sentence(self, sentence: ShownSentence, max_lines: int) -> int:
        """A box with a bar and a mark at its left, and the emotions at the right of its end; returns its lines."""
        left, right = _MARGIN + _GUTTER, WIDTH - _MARGIN - _GAP
        text_left = left + _BAR + _GAP
        lines = self._lines(sentence.text, _TEXT, right - text_left, max_lines)
        emotions = " + ".join(sentence.emotions)
        room = right - text_left - text_width(lines[-1], _TEXT) - _GAP
        if emotions and text_width(emotions, _SMALL, bold=True) > room:
            lines.append("")
        height = len(lines) * _TEXT_LINE + 2 * _BOX_TOP
        self._make_room(height)
        colours = [colour_of(emotion) for emotion in sentence.emotions] or [_RULE]
        top, bottom = self.top, self.top + height
        baseline = top + _BOX_TOP + 16
        self.pen.blend((left, top, WIDTH - _MARGIN - 1, bottom), [tint(colours[0])])
        self.pen.blend((left, top, left + _BAR - 1, bottom), colours)
        if sentence.relation is not None:
            symbol, colour = SYMBOLS[sentence.relation], RELATIONS[sentence.relation]
            self.pen.write((_MARGIN, baseline), symbol, _MARK, colour, bold=True)
        for line in lines:
            self.pen.write((text_left, baseline), line, _TEXT, _INK)
            baseline += _TEXT_LINE
        self.pen.write_right((right, baseline - _TEXT_LINE), emotions, _SMALL, _INK, bold=True)
        self.top = bottom + 3
        return len(lines)

    def _lines(self, text: str, size: int, width: int, max_lines: int) -> list[str]:
        """Wrapped text; what was cut says so at the end of the last line."""
        lines, left_out = wrap(cleaned(text[:_MAX_CHARACTERS]), size, width, max_lines)
        left_out += max(len(text) - _MAX_CHARACTERS, 0)
        if left_out:
            last = lines.pop() if lines else ""
            while last and text_width(f"{last} … {left_out:,} more characters", size) > width:
                last, left_out = last[:-1], left_out + 1
            lines.append(f"{last} … {left_out:,} more characters")
        return lines or [""]
