"""JSON: what Python's reader would guess, change or lose is refused, by file and row."""

import json
from pathlib import Path

import pytest

from datamodules.files.json_files import parse_json, read_json, read_json_lines, read_json_object
from datamodules.files.writing import json_line, write_json, write_rows

pytestmark = pytest.mark.unit


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "labels.json"


def test_values_are_read(file: Path) -> None:
    file.write_bytes(b'\xef\xbb\xbf{"a": [1, -2.5e3, null, true], "b": "\\ud83d\\ude00", "c": {"a": 1}}')
    assert read_json(file) == {"a": [1, -2500.0, None, True], "b": "😀", "c": {"a": 1}}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[1,]", r"not valid JSON: .*line 1 column .*\(Is there a comma after the last item\?"),
        ('{"a": 1,\n}', r"not valid JSON: .*line .*\(Is there a comma after the last item\?"),
        ("", "not valid JSON: Expecting value"),
        ('{"a": 1} {"b": 2}', "not valid JSON: Extra data"),
        ('{"id": "x", "id": "y"}', 'the key "id" is there twice'),
        ('[{"a": {"\\u001b": 1, "\\u001b": 2}}]', r'the key ".*x1b" is there twice'),
        ('{"a": NaN}', "NaN is no number"),
        ('{"a": -Infinity}', "-Infinity is no number"),
        ('{"a": 1e999}', "the number 1e999 is too large"),
        ('{"a": ' + "9" * 5000 + "}", "a number of 5,000 digits"),
        ("[" * 100_000, "more levels"),
        ('{"a":' * 100_000, "more levels"),
    ],
)
def test_what_would_be_guessed_changed_or_lost_is_refused(file: Path, text: str, problem: str) -> None:
    file.write_text(text)
    with pytest.raises(
        ValueError, match=rf"labels.json: not valid JSON.*{problem}" if "JSON" not in problem else problem
    ):
        read_json(file)
    file.write_text(f'{{"id": 1}}\n\n{text}'.replace(",\n}", ",}"))
    if text:
        with pytest.raises(ValueError, match=r"labels.json:3: not valid JSON"):
            list(read_json_lines(file))


def test_half_a_surrogate_pair_is_replaced(file: Path) -> None:
    file.write_text('{"\\uD83D": ["half \\ud83d pair", "\\ude00\\ud83d", "\\\\ud83d", "\\ud83d\\ude00"]}')
    assert read_json(file) == {r"\ud83d": ["half \ufffd pair", "\ufffd\ufffd", r"\ud83d", "😀"]}


def test_keys_steer_no_terminal(file: Path) -> None:
    file.write_text('{"\\u001b[31m": ["\\u001b[31m"]}')
    assert read_json(file) == {r"\x1b[31m": ["\x1b[31m"]}


def test_an_object_is_expected_by_name(file: Path) -> None:
    file.write_text("[1, 2]")
    with pytest.raises(ValueError, match=r"labels.json: got \[1, 2\]. Expected a JSON object"):
        read_json_object(file)


def test_lines_end_at_a_line_feed_alone_and_are_numbered(file: Path) -> None:
    file.write_bytes('{"a": "x\u2028y\x85"}\r\n\n[1]'.encode())
    assert list(read_json_lines(file)) == [({"a": "x\u2028y\x85"}, f"{file}:1"), ([1], f"{file}:3")]
    file.write_bytes(b'1\n2\n"caf\xe9"\n')
    with pytest.raises(ValueError, match=r"labels.json:3: not UTF-8"):
        list(read_json_lines(file))


def test_whatever_is_written_is_read_back(file: Path) -> None:
    rows = [{"id": "a\u2028b\x85", "text": "\x1b[31m 开心 😀"}, {"id": "clip\udcc4\ud83d", "text": ""}]
    expected = [rows[0], {"id": "clip\ufffd\ufffd", "text": ""}]
    write_rows(file, rows)
    assert [row for row, _ in read_json_lines(file)] == expected
    write_json(file, rows)
    assert read_json(file) == expected


def test_numbers_that_json_has_not_are_not_written(file: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        json_line({"a": float("nan")})
    with pytest.raises(ValueError, match="JSON"):
        write_json(file, [float("inf")])
    assert not list(file.parent.iterdir())


def test_a_name_of_any_length_is_written(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 255)
    write_json(path, {"a": 1})
    assert json.loads(path.read_text()) == {"a": 1}
    assert parse_json(path.read_text(), "x") == {"a": 1}
