"""Any text becomes lines that fit."""

import pytest

from callbacks.inspection import lettering
from callbacks.inspection.lettering import cleaned, runs, shortened, text_width, wrap

pytestmark = pytest.mark.unit


def test_white_space_becomes_single_spaces() -> None:
    assert cleaned("  a\n\n b\tc\u2028d ") == "a b c d"


@pytest.mark.parametrize("character", ["\x00", "\x1b", "\u202e", "\ud800", "\u200b"])
def test_what_would_steer_the_rendering_shows_as_a_sign(character: str) -> None:
    assert cleaned(f"a{character}b") == "a�b"


def test_letters_of_any_script_stay() -> None:
    text = "Привет שלום مرحبا é ß 你好 ✓"
    assert cleaned(text) == text


def test_a_tower_of_accents_is_cut() -> None:
    assert len(cleaned("Z" + "\u0351" * 50)) == 4


def test_lines_fit_and_lose_nothing() -> None:
    text = "The man frowns hard, and then he shouts in a very loud voice at somebody."
    lines, left_out = wrap(text, 16, 150, 20)
    assert left_out == 0 and " ".join(lines) == text
    assert len(lines) > 3 and all(text_width(line, 16) <= 150 for line in lines)


def test_a_word_wider_than_the_line_is_broken() -> None:
    lines, left_out = wrap("x" * 200, 16, 100, 100)
    assert left_out == 0 and "".join(lines) == "x" * 200 and all(text_width(line, 16) <= 100 for line in lines)


def test_what_does_not_fit_is_counted() -> None:
    lines, left_out = wrap("x" * 10_000, 16, 100, 3)
    assert len(lines) == 3 and sum(map(len, lines)) + left_out == 10_000


def test_a_character_wider_than_the_line_stands_alone() -> None:
    assert wrap("WWW", 16, 3, 5) == (["W", "W", "W"], 0)


def test_a_long_name_loses_its_middle() -> None:
    short = shortened("clip_" + "0" * 300 + "_end", 16, 120)
    assert short.startswith("clip_") and short.endswith("_end") and "…" in short and text_width(short, 16) <= 120
    assert shortened("clip", 16, 120) == "clip"


def test_characters_that_the_font_lacks_come_from_another(monkeypatch: pytest.MonkeyPatch) -> None:
    italic = lettering.font_manager.findfont("STIXGeneral")
    assert ord("𝒜") in lettering._characters(italic), "a character that STIX has and DejaVu Sans has not"
    monkeypatch.setattr(lettering, "_fallback_files", lambda: (italic,))
    assert [(part, chosen.getname()[0]) for part, chosen in runs("a𝒜b", 16)] == [
        ("a", "DejaVu Sans"),
        ("𝒜", "STIXGeneral"),
        ("b", "DejaVu Sans"),
    ]
