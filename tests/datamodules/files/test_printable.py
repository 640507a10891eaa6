import os

import pytest

from datamodules.files.printable import printable, readable_name

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b]0;title\x07", r"\x1b[31mred\x1b]0;title\x07"),
        ("a\nb\tc\r", r"a\nb\tc\r"),
        ("evil\u202egpj.exe\u2066", r"evil\u202egpj.exe\u2066"),
        ("half \udcc4 \ud83d", r"half \udcc4 \ud83d"),
        ("\x9b31m\u2028", r"\x9b31m\u2028"),
        ("开心 é 😀 ✓", "开心 é 😀 ✓"),
    ],
)
def test_what_steers_a_terminal_is_shown(text, shown):
    assert printable(text) == shown


def test_lines_may_stay():
    assert printable("a\n\tb\r\n\x1b", multiline=True) == "a\n\tb\\r\n\\x1b"


def test_a_name_in_another_encoding_is_readable():
    assert readable_name(os.fsdecode("开心.mp4".encode("gb18030"))) == "开心.mp4"
    assert readable_name("clip\udcff.mp4") == r"clip\udcff.mp4"
    assert readable_name("clips/é😀.mp4") == "clips/é😀.mp4"
    assert readable_name("\ud83d.mp4") == r"\ud83d.mp4"  # no bytes of a file name
