"""Label files as rows: headers, and rows that are not what they should be."""

import re
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from time import process_time

import pytest
from openpyxl import Workbook

from datamodules.files.tables import read_csv, read_workbook

pytestmark = pytest.mark.unit


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
        ("one\ntwo", f"{file}:2"),
        ("three", f"{file}:4"),
    ]


def test_csv_delimiter(file: Path) -> None:
    file.write_text("name;label\na;1\n")
    assert next(read_csv(file, ["name", "label"], delimiter=";"))[0] == {"name": "a", "label": "1"}


@pytest.mark.parametrize("text", ["", "a,1\n", "name\na\n"])
def test_csv_without_the_header_is_refused(file: Path, text: str) -> None:
    file.write_text(text)
    with pytest.raises(ValueError, match=r"labels.txt:1: got the header \[.*\]. Expected the columns name, label"):
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


@pytest.mark.parametrize(
    "rows",
    [
        'a,"one reason\nb,"another"\nc,"third"\n',  # not closed, up to the next mark
        'a,one\nb,"another\nc,third\n',  # up to the end
        'a,one\nb,"she says "no" to him"\n',  # marks inside that are not doubled
        'b,"' + "x" * 140_000 + '"\n',  # longer than any field
    ],
)
def test_a_row_without_an_end_is_refused_by_its_first_line(file: Path, rows: str) -> None:
    file.write_text(f"name,reason\n{rows}")
    bad = 2 + rows[: rows.index('"')].count("\n")
    problems: list[str] = []
    read = list(read_csv(file, ["name", "reason"], refuse=problems.append))
    assert [row["name"] for row, _ in read] == ["a", "b"][: bad - 2]
    assert len(problems) == 1 and problems[0].startswith(f"{file}:{bad}: the row that begins here has no end as CSV (")
    with pytest.raises(ValueError, match=rf"labels.txt:{bad}: the row that begins here has no end"):
        list(read_csv(file, ["name", "reason"]))


def test_a_column_that_is_there_twice_is_refused(file: Path, tmp_path: Path) -> None:
    file.write_text("name,label,label\na,1,2\n")
    with pytest.raises(ValueError, match=r"labels.txt:1: the column label is there 2 times"):
        list(read_csv(file, ["name", "label"]))
    assert [row["name"] for row, _ in read_csv(file, ["name"])] == ["a"]  # a column that nobody asks for
    path = write_workbook(tmp_path / "labels.xlsx", [["clip", "clip"], ["a", "b"]])
    with pytest.raises(ValueError, match=r"labels.xlsx:1: the column clip is there 2 times"):
        list(read_workbook(path, ["clip"]))


def rewrite(path: Path, member: str, change: Callable[[bytes], bytes]) -> Path:
    """The workbook with one member changed."""
    other = path.with_name("labels.xlsx")
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(other, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            content = source.read(name)
            target.writestr(name, change(content) if name.endswith(member) else content)
    return other


DAMAGES: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "a row far beyond the last": ("sheet1.xml", lambda xml: xml.replace(b'<row r="2"', b'<row r="99999999999"')),
    "a row without a number": ("sheet1.xml", lambda xml: xml.replace(b'<row r="2"', b'<row r="x"')),
    "an impossible column": ("sheet1.xml", lambda xml: xml.replace(b'r="A2"', b'r="ZZZZ2"')),
    "cut XML": ("sheet1.xml", lambda xml: xml[: len(xml) // 2]),
    "no XML": ("sheet1.xml", lambda xml: bytes(100)),
    "a text that is not there": (
        "sheet1.xml",
        lambda xml: re.sub(rb'<c r="A2".*?</c>', b'<c r="A2" t="s"><v>77</v></c>', xml),
    ),
    "no sheet": ("workbook.xml", lambda xml: re.sub(rb"<sheets>.*</sheets>", b"<sheets/>", xml)),
    "ten million empty cells": ("sheet1.xml", lambda xml: xml.replace(b"</row>", b"<c/>" * 10**7 + b"</row>", 1)),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_workbook_is_refused_by_name(tmp_path: Path, damage: str) -> None:
    whole = write_workbook(tmp_path / "whole.xlsx", [["clip", "label"], ["a", "x"]])
    path = rewrite(whole, *DAMAGES[damage])
    assert path.read_bytes() != whole.read_bytes()
    with pytest.raises(ValueError, match=r"labels.xlsx"):
        list(read_workbook(path, ["clip", "label"]))


def test_a_cut_workbook_is_refused_by_name(tmp_path: Path) -> None:
    path = write_workbook(tmp_path / "labels.xlsx", [["clip", "label"], ["a", "x"]])
    content = path.read_bytes()
    for length in range(0, len(content), 199):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"labels.xlsx is no XLSX workbook"):
            list(read_workbook(path, ["clip", "label"]))


@pytest.mark.parametrize(
    "rows",
    [
        's1,"He frowns.\ns2,She smiles.\ns3,She says no"\ns4,He weeps.\n',
        's1,"He frowns.\ns2,x",She smiles.\n',
    ],
)
def test_rows_that_a_mark_closed_by_chance_swallows_are_refused(file: Path, rows: str) -> None:
    file.write_text(f"name,reason\n{rows}")
    with pytest.raises(ValueError, match=r"labels.txt:2: a quotation mark that begins here .* another row: 's2,"):
        list(read_csv(file, ["name", "reason"]))


def test_captions_of_several_lines_are_no_other_rows(file: Path) -> None:
    captions = ["First, he frowns.\nThen, she smiles, and 2, 3 others.", "1, 2, 3\n\ns, t"]
    file.write_text("name,reason\n" + "".join(f's{i},"{text}"\n' for i, text in enumerate(captions)))
    assert [row["reason"] for row, _ in read_csv(file, ["name", "reason"])] == captions


def test_a_cell_in_the_last_column_costs_no_more_than_others(tmp_path: Path) -> None:
    whole = write_workbook(tmp_path / "whole.xlsx", [["clip", "label"], *([f"c{i}", "x"] for i in range(2000))])
    path = rewrite(whole, "sheet1.xml", lambda xml: re.sub(rb'r="B(\d+)"', rb'r="ZZZ\1"', xml))
    began = process_time()
    with pytest.raises(ValueError, match="Expected the columns clip, label"):
        list(read_workbook(path, ["clip", "label"]))
    assert [row["clip"] for row, _ in read_workbook(path, ["clip"])] == [f"c{i}" for i in range(2000)]
    assert process_time() - began < 1.0
