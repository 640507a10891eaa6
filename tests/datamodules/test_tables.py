"""Label files as rows: encodings, line ends, headers, and rows that are not what they should be."""

import random
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from openpyxl import Workbook

from datamodules.tables import (
    decode_chinese,
    misread_chinese,
    num_chinese,
    numbered_lines,
    read_csv,
    read_json,
    read_text,
    read_workbook,
)

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


def write_workbook(path: Path, rows: Sequence[Sequence[object]]) -> Path:
    workbook = Workbook()
    for row in rows:
        workbook.active.append(row)
    workbook.save(path)
    return path


def test_csv_rows_with_byte_order_mark_windows_line_ends_blank_lines_and_space(file: Path) -> None:
    file.write_bytes(b"\xef\xbb\xbfname , label,extra\r\n a ,1,x\r\n\r\nb, 2 ,\r\n")
    assert list(read_csv(file, ["name", "label"])) == [
        ({"name": "a", "label": "1", "extra": "x"}, f"{file}:2"),
        ({"name": "b", "label": "2", "extra": ""}, f"{file}:4"),
    ]


def test_csv_line_numbers_count_lines_inside_quotes(file: Path) -> None:
    file.write_text('name,text\na,"one\ntwo"\nb,three\n')
    assert [(row["text"], source) for row, source in read_csv(file, ["name"])] == [
        ("one\ntwo", f"{file}:3"),
        ("three", f"{file}:4"),
    ]


def test_csv_delimiter(file: Path) -> None:
    file.write_text("name;label\na;1\n")
    assert next(read_csv(file, ["name", "label"], delimiter=";"))[0] == {"name": "a", "label": "1"}


@pytest.mark.parametrize("text", ["", "a,1\n", "name\na\n"])
def test_csv_without_the_header_is_refused(file: Path, text: str) -> None:
    file.write_text(text)
    with pytest.raises(ValueError, match=r"labels.txt:1: got the header \[.*\]. Expected name,label"):
        list(read_csv(file, ["name", "label"]))


def test_csv_rows_of_a_wrong_length_are_refused_and_the_others_read(file: Path) -> None:
    file.write_text("name,label\na\nb,1\nc,1,2\n")
    problems: list[str] = []
    rows = list(read_csv(file, ["name", "label"], refuse=problems.append))
    assert [row["name"] for row, _ in rows] == ["b"]
    assert problems == [
        f"{file}:2: got ['a']. Expected 2 fields: name,label.",
        f"{file}:4: got ['c', '1', '2']. Expected 2 fields: name,label.",
    ]
    with pytest.raises(ValueError, match=r"labels.txt:2: got \['a'\]"):
        list(read_csv(file, ["name", "label"]))


def test_text_in_another_encoding_is_refused(file: Path) -> None:
    file.write_bytes("a,愤怒".encode("gb18030"))
    with pytest.raises(ValueError, match=r"labels.txt is not UTF-8: .* at byte 2"):
        read_text(file)


def test_json_is_read_and_what_is_none_is_named(file: Path) -> None:
    file.write_text('{"a": [1]}')
    assert read_json(file) == {"a": [1]}
    file.write_text("[1,]")
    with pytest.raises(ValueError, match=r"labels.txt is not valid JSON: .*line 1 column 4"):
        read_json(file)


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


def test_workbook_rows_from_the_first_data_row_on(tmp_path: Path) -> None:
    rows = [["clip", "x", " label "], [" a.mp4", 0.5, 1], [], ["b.mp4", None, " 1,2 "], ["c.mp4"]]
    path = write_workbook(tmp_path / "labels.xlsx", rows)
    assert list(read_workbook(path, ["label", "clip"])) == [
        ({"label": 1, "clip": "a.mp4"}, f"{path}:2"),
        ({"label": "1,2", "clip": "b.mp4"}, f"{path}:4"),
        ({"label": None, "clip": "c.mp4"}, f"{path}:5"),
    ]


def test_workbook_with_a_wrong_dimension_is_read_whole(tmp_path: Path) -> None:
    path = write_workbook(tmp_path / "whole.xlsx", [["clip", "label"], ["a", 1], ["b", 2]])
    other = tmp_path / "labels.xlsx"
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(other, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            if name.endswith("sheet1.xml"):
                content, count = re.subn(rb'<dimension ref="A1:B3"', b'<dimension ref="A1"', content)
                assert count == 1
            target.writestr(name, content)
    assert [row for row, _ in read_workbook(other, ["clip", "label"])] == [
        {"clip": "a", "label": 1},
        {"clip": "b", "label": 2},
    ]


@pytest.mark.parametrize("rows", [[], [["a.mp4", 1]], [["clip", "annotation"], ["a.mp4", 1]]])
def test_workbook_without_the_header_is_refused(tmp_path: Path, rows: list) -> None:
    path = write_workbook(tmp_path / "labels.xlsx", rows)
    with pytest.raises(ValueError, match=r"labels.xlsx:1: got the header \[.*\]. Expected the columns clip, label"):
        list(read_workbook(path, ["clip", "label"]))


@pytest.mark.parametrize("content", [b"", b"clip,label\na,1\n", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600)])
def test_file_that_is_no_workbook_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "labels.xlsx"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"labels.xlsx is no XLSX workbook: .*Use the file as distributed"):
        list(read_workbook(path, ["clip"]))
