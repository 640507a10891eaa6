"""Text files: encodings, line ends, sizes."""

import random
from pathlib import Path

import pytest

from datamodules.files import text as text_module
from datamodules.files.text import decode_chinese, misread_chinese, num_chinese, numbered_lines, read_text

pytestmark = pytest.mark.unit

CHINESE = "一个女人紧锁眉头，眼里含泪，低声哭泣。\n一个男人睁大眼睛，声音又高又颤。"
SENTENCES = (
    "一个女人紧锁眉头，眼里含泪，低声哭泣。",
    "一个男人睁大眼睛，声音又高又颤。",
    "一个女人撇着嘴，发出作呕的声音。",
    "男人叹气",
    "她对着镜头大声喊叫，右手指着前方的人，表情非常愤怒。",
    "一个孩子抬头张望，轻轻摇头，说：“我不知道。”",
    "他笑着说话，嘴角上扬，露出笑容。",
    "老人斜着嘴角，冷冷地哼了一声。",
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "labels.txt"


def test_text_in_another_encoding_is_refused(file: Path) -> None:
    file.write_bytes("a,愤怒".encode("gb18030"))
    with pytest.raises(ValueError, match=r"labels.txt:1: not UTF-8: .* at byte 2"):
        read_text(file)


def test_only_a_line_feed_ends_a_line(file: Path) -> None:
    # U+0085 and U+2028 end lines for str.splitlines; the first is common in text that was decoded wrongly.
    text = "a\u0085b\r\n\r\nc\u2028d \n  \ne"
    assert list(numbered_lines(text, file)) == [
        ("a\u0085b", f"{file}:1"),
        ("c\u2028d ", f"{file}:3"),
        ("e", f"{file}:5"),
    ]


@pytest.mark.parametrize("encoding", ["gb18030", "utf-8", "utf-8-sig"])
def test_chinese_is_decoded(file: Path, encoding: str) -> None:
    file.write_bytes(CHINESE.encode(encoding))
    assert decode_chinese(file) == CHINESE


def test_bytes_that_are_no_chinese_text_are_refused_with_their_row(file: Path) -> None:
    file.write_bytes("一个\n".encode("gb18030") + b"caf\xe9 \n")
    with pytest.raises(ValueError, match=r"labels.txt:2: neither GB18030 nor UTF-8: .*Latin-1 or Windows-1252"):
        decode_chinese(file)


def test_chinese_characters_are_counted_without_punctuation() -> None:
    assert num_chinese("一个 man，。") == 2


@pytest.mark.parametrize("wrong", ["latin-1", "cp1252", "gb18030", "gbk"])
@pytest.mark.parametrize("true", ["utf-8", "gb18030"])
@pytest.mark.parametrize("text", [CHINESE, *SENTENCES])
def test_wrong_decodings_are_recognised(true: str, wrong: str, text: str) -> None:
    garbled = text.encode(true).decode(wrong, "replace")
    name = "GB18030" if wrong.startswith("gb") else "Latin-1 or Windows-1252"
    if true.startswith("gb") and wrong.startswith("gb"):
        assert misread_chinese(garbled) is None
    else:
        assert misread_chinese(garbled) == f"its {true.upper()} bytes were read as {name} and saved anew"


@pytest.mark.parametrize("text", [CHINESE, *SENTENCES, "", "????", "A man in a café, déjà vu"])
def test_other_texts_are_not_taken_for_wrong_decodings(text: str) -> None:
    assert misread_chinese(text) is None


def test_all_common_characters_are_not_taken_for_a_wrong_decoding() -> None:
    # GB 2312, level 1: 3,755 characters.
    codes = bytes(byte for row in range(0xB0, 0xD8) for cell in range(0xA1, 0xFF) for byte in (row, cell))
    characters = list(codes.decode("gb2312", "ignore"))
    assert len(characters) > 3700
    random.Random(0).shuffle(characters)
    assert misread_chinese("".join(characters)) is None


@pytest.mark.parametrize(
    ("encoding", "row", "known"),
    [
        ("utf-16", 1, "UTF-16 or UTF-32"),
        ("utf-32", 1, "UTF-16 or UTF-32"),
        ("utf-16-le", 3, "another encoding"),  # no byte order mark, and valid UTF-8 but for the accents
        ("latin-1", 3, "another encoding"),
    ],
)
def test_the_row_in_another_encoding_is_named(file: Path, encoding: str, row: int, known: str) -> None:
    file.write_bytes("id\n\nnaïve café\n".encode(encoding))
    with pytest.raises(ValueError, match=rf"labels.txt:{row}: not UTF-8: .*saved in {known}"):
        read_text(file)


def test_a_file_that_is_too_large_or_none_is_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError, match=r"No such file: .*labels.txt"):
        read_text(file)
    with pytest.raises(FileNotFoundError, match=f"{file.parent} is a folder, not a file"):
        read_text(file.parent)
    file.write_text("abcd")
    monkeypatch.setattr(text_module, "_LARGEST_TEXT", 3)
    with pytest.raises(ValueError, match=r"labels.txt has more than the 3 bytes"):
        read_text(file)
