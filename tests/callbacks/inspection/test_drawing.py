"""Panels as pictures."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image, ImageColor

from callbacks.colours import RELATIONS, colour_of
from callbacks.inspection.drawing import MAX_COMPLETIONS, MAX_FRAMES, WIDTH, draw_panel, tint
from callbacks.inspection.lettering import Pen
from callbacks.inspection.panel import Panel
from datamodules.emotions import DFEW_TAXONOMY
from datamodules.rationale import split_sentences
from tests.callbacks.inspection.conftest import SAID, completion

pytestmark = pytest.mark.unit


def rows_of(picture: Image.Image, colour: str, columns: slice = slice(None)) -> np.ndarray:
    """Heights at which a colour occurs."""
    same = (np.asarray(picture)[:, columns] == ImageColor.getrgb(colour)).all(axis=2)
    return np.flatnonzero(same.any(axis=1))


def same(one: Image.Image, other: Image.Image) -> bool:
    return one.size == other.size and bool((np.asarray(one) == np.asarray(other)).all())


def test_a_class_has_the_colour_of_its_verifier_label() -> None:
    assert colour_of("happiness", DFEW_TAXONOMY) == colour_of("joy") != colour_of("sadness")
    assert colour_of("no emotion") == colour_of("neutral")


def test_sentences_stand_below_each_other_in_the_colours_of_their_emotions(make_panel: Callable[..., Panel]) -> None:
    picture = draw_panel(make_panel())
    assert picture.mode == "RGB" and picture.width == WIDTH
    bar = slice(34, 40)
    places = [rows_of(picture, colour_of(name), bar) for name in ("anger", "neutral", "joy", "love")]
    assert all(len(rows) > 8 for rows in places)
    for upper, lower in pairwise(places):
        assert upper.max() < lower.min(), "in the order of the sentences, and of a sentence's emotions"
    for name, rows in zip(("anger", "neutral", "joy"), places, strict=False):
        assert rows_of(picture, tint(colour_of(name)), slice(60, WIDTH - 20))[0] <= rows[0], "text stands on its tint"


def test_marks_stand_at_their_sentences(make_panel: Callable[..., Panel]) -> None:
    picture = draw_panel(make_panel())
    gutter, bar = slice(10, 33), slice(34, 40)
    for relation, emotion in (("matching", "anger"), ("neutral", "neutral"), ("contradicting", "joy")):
        box = rows_of(picture, colour_of(emotion), bar)
        marks = rows_of(picture, RELATIONS[relation], gutter)
        assert ((marks >= box.min()) & (marks <= box.max() + 20)).any(), relation


@pytest.mark.parametrize(
    "fields",
    [
        {"id": "other"},
        {"target": "fear"},
        {"frames": torch.zeros(4, 3, 24, 24, dtype=torch.uint8)},
        {"waveform": torch.zeros(0)},
        {"failure": "no such file"},
        {"duration_seconds": 4.0},
    ],
)
def test_what_differs_shows(make_panel: Callable[..., Panel], fields: dict) -> None:
    assert same(draw_panel(make_panel()), draw_panel(make_panel()))
    assert not same(draw_panel(make_panel()), draw_panel(make_panel(**fields)))


def test_worth_shows(make_panel: Callable[..., Panel]) -> None:
    text, emotions = "<think>He shouts.</think><answer>angry</answer>", [["anger"]]
    rewards = {"format": 1.0, "accuracy": 0.0}
    drawn = [
        draw_panel(make_panel(completion(text, emotions, rewards=rewards, advantage=0.5))),
        draw_panel(make_panel(completion(text, emotions, rewards=rewards, advantage=-0.5))),
        draw_panel(make_panel(completion(text, emotions, rewards={**rewards, "format": 0.0}, advantage=0.5))),
        draw_panel(make_panel(completion(text, emotions), judge="verifier")),
        draw_panel(make_panel(completion(text, emotions, verdict="anger"), judge="verifier")),
    ]
    assert len({np.asarray(picture).tobytes() for picture in drawn}) == len(drawn)


def test_only_some_frames_and_completions_of_many_are_drawn(make_panel: Callable[..., Panel]) -> None:
    some = draw_panel(make_panel(*[SAID] * MAX_COMPLETIONS))
    many = draw_panel(make_panel(*[SAID] * 64, frames=torch.zeros(64, 3, 24, 24, dtype=torch.uint8)))
    assert len(rows_of(many, colour_of("anger"), slice(34, 40))) == len(
        rows_of(some, colour_of("anger"), slice(34, 40))
    )
    assert many.height < some.height + 40
    assert MAX_FRAMES == 8


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x" * 10_000,
        "word " * 5_000,
        "a\n\n\n" * 1_000,
        "<think>" + "Short. " * 2_000 + "</think>",
        "<think>" + "\x00\x1b[31m\u202eevil\ud800. " * 50 + "</think><answer>\x07</answer>",
        "<think>" + "שלום مرحبا 你好 😀 " * 300 + "</think><answer>" + "y" * 5_000 + "</answer>",
        "<think>Z" + "\u0351" * 5_000 + "</think>",
        "<think>" + "﷽" * 500 + "</think>",
    ],
)
def test_no_text_breaks_or_explodes_the_picture(make_panel: Callable[..., Panel], text: str) -> None:
    count = len(split_sentences(text.removeprefix("<think>").split("</think>")[0])) if "<think>" in text else 0
    picture = draw_panel(make_panel(completion(text, [["joy", "embarrassment"]] * count), id="i" * 5_000))
    assert picture.width == WIDTH and 150 < picture.height < 2_600


def test_a_group_of_endless_completions_stays_a_picture(make_panel: Callable[..., Panel]) -> None:
    endless = completion("<think>" + ("x" * 600 + ". ") * 50 + "</think>", [["joy", "embarrassment"]] * 50)
    assert draw_panel(make_panel(*[endless] * 16)).height < 6_500
    assert draw_panel(make_panel(endless, target="helplessness_disappointment_contempt")).height < 2_800


def test_what_was_cut_is_counted(make_panel: Callable[..., Panel], monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    write = Pen.write

    def record(self: Pen, place: tuple[float, float], text: str, *style, **options) -> float:
        written.append(text)
        return write(self, place, text, *style, **options)

    monkeypatch.setattr(Pen, "write", record)
    draw_panel(make_panel(completion("<think>" + "x" * 10_000 + "</think>", [["joy"]])))
    lines = [line for line in written if line.startswith("xxx")]
    shown = sum(line.count("x") for line in lines)
    assert lines[-1].endswith(f"… {10_000 - shown:,} more characters")
