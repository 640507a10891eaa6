"""Label files as rows of text, each with its `file:row`; a malformed row is named, never guessed."""

import csv
import io
import re
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from datamodules.files.text import read_text, require_file

Refuse = Callable[[str], None]
"""What is done with a bad row: raise (`refuse_row`), or note it and go on to the next (`inspect_data`)."""

_LARGEST_WORKBOOK = 256 * 2**20
"""Bytes of an XLSX file unpacked; ten thousand rows of labels have a few million."""
_MOST_ELEMENTS = 8_000_000
"""XML tags in an XLSX file, each of which costs a microsecond; ten thousand rows of labels have half a million."""
_MOST_COLUMNS = 256
_LAST_ROW = 2**20
"""Of a sheet, by the format."""


def refuse_row(problem: str) -> None:
    """Stop at the first bad row.

    Raises:
        ValueError: always, with the problem.
    """
    raise ValueError(problem)


def read_csv(
    path: Path, columns: Sequence[str], delimiter: str = ",", refuse: Refuse = refuse_row
) -> Iterator[tuple[dict[str, str], str]]:
    """Rows of a UTF-8 CSV with a header: column → value without surrounding space, and the `file:line` of its begin.

    Blank lines are passed over; columns beyond those named are kept. A quotation mark that is not closed, or that is
    followed by more than a delimiter, makes what comes after it unreadable: reading ends there.

    Args:
        path: the file.
        columns: what the header must hold.
        delimiter: between fields.
        refuse: called with each row of a wrong length, and with the one that ends reading.

    Raises:
        ValueError: another encoding, or a header without one of the columns or with one twice.
    """
    lines: list[str] = []

    def seen() -> Iterator[str]:
        for line in io.StringIO(read_text(path), newline=""):
            lines.append(line)
            yield line

    reader = csv.reader(seen(), delimiter=delimiter, strict=True)
    header: list[str] = []
    while True:
        source = f"{path}:{reader.line_num + 1}"
        lines.clear()
        try:
            row = next(reader)
        except StopIteration:
            if not header:
                _check_header(path, [], columns)
            return
        except csv.Error as error:
            refuse(
                f"{source}: the row that begins here has no end as CSV ({error}; read up to line {reader.line_num}). "
                'A field that holds a quotation mark is quoted as a whole, and each mark in it written twice: "".'
            )
            return
        if not header:
            header = [name.strip() for name in row]
            _check_header(path, header, columns)
        elif swallowed := _swallowed(row, lines, delimiter):
            refuse(
                f"{source}: a quotation mark that begins here ends lines below, and this row's text holds what looks "
                f"like another row: {swallowed!r:.120}. Close the mark, or take it out."
            )
        elif row and len(row) != len(header):
            refuse(f"{source}: got {row!r:.300}. Expected {len(header)} fields: {delimiter.join(header)}.")
        elif row:
            yield {name: value.strip() for name, value in zip(header, row, strict=True)}, source


def _swallowed(row: Sequence[str], lines: Sequence[str], delimiter: str) -> str | None:
    """A line within a row of several lines that begins as the row itself does: with a name of the same form.

    A mark that is closed by chance leaves valid CSV, in which the rows in between are one text.
    """
    if len(lines) < 2 or not row or not any(character.isdigit() for character in row[0]):
        return None
    form = re.sub(r"\d+", "0", row[0].strip())
    return next((line for line in lines[1:] if re.sub(r"\d+", "0", line.partition(delimiter)[0].strip()) == form), None)


def _check_header(path: Path, header: Sequence[Any], columns: Sequence[str]) -> None:
    """Raises ValueError where columns are missing, or one that is asked for is there twice."""
    if not set(columns) <= set(header):
        raise ValueError(f"{path}:1: got the header {list(header)}. Expected the columns {', '.join(columns)}.")
    twice = [column for column in columns if header.count(column) > 1]
    if twice:
        raise ValueError(
            f"{path}:1: the column {twice[0]} is there {header.count(twice[0])} times. Remove all but one."
        )


def read_workbook(path: Path, columns: Sequence[str]) -> Iterator[tuple[dict[str, Any], str]]:
    """Rows of the first sheet of an XLSX file with one header row: column → cell, and `file:row`.

    Blank rows are passed over; text is stripped; an empty cell is None, as is a formula that no program has computed.

    Args:
        path: the file.
        columns: what the header must hold, and what is returned.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no XLSX file or a damaged one, one that unpacks to more than any label file has, or a header without
            one of the columns or with one twice.
    """
    require_file(path)
    number, positions = 0, dict[str, int]()
    for number, cells in enumerate(_sheet_rows(path), 1):
        if number > _LAST_ROW:
            raise ValueError(
                f"{path}: a row is numbered beyond {_LAST_ROW:,}, the last of a sheet. Use the file as distributed."
            )
        if number == 1:
            header = [cell.strip() if isinstance(cell, str) else cell for cell in cells]
            _check_header(path, header, columns)
            positions = {column: header.index(column) for column in columns}
        elif any(cell is not None for cell in cells):
            row = {name: cells[at] if at < len(cells) else None for name, at in positions.items()}
            yield {k: v.strip() if isinstance(v, str) else v for k, v in row.items()}, f"{path}:{number}"
    if not number:
        _check_header(path, [], columns)


def _sheet_rows(path: Path) -> Iterator[tuple[Any, ...]]:
    """The cells of each row of the first sheet.

    Raises:
        ValueError: see `read_workbook`.
    """
    from openpyxl import load_workbook  # 0.2 s that only corpora with workbooks should cost

    try:
        _check_size(path)
        workbook = load_workbook(path, read_only=True, data_only=True)
        try:
            sheet = workbook.worksheets[0]
            # Some programs write a sheet's size wrongly; without it the reader goes by the rows that are there.
            sheet.reset_dimensions()
            # Else a cell in the last column there is makes thousands of each row.
            yield from sheet.iter_rows(max_col=_MOST_COLUMNS, values_only=True)
        finally:
            workbook.close()
    except Exception as error:
        raise ValueError(
            f"{path} is no XLSX workbook: {str(error) or type(error).__name__}. Use the file as distributed."
        ) from error


def _check_size(path: Path) -> None:
    """Unpack a workbook piece by piece: a kilobyte may unpack to gigabytes, all of which openpyxl reads at once.

    Raises:
        ValueError: it has more bytes or XML tags than any label file.
        zipfile.BadZipFile, zlib.error: it is damaged.
    """
    num_bytes = num_elements = 0
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            with archive.open(member) as file:
                while piece := file.read(2**20):
                    num_bytes += len(piece)
                    num_elements += piece.count(b"<")
                    if num_bytes > _LARGEST_WORKBOOK or num_elements > _MOST_ELEMENTS:
                        raise ValueError(
                            f"it unpacks to more than the {_LARGEST_WORKBOOK:,} bytes or {_MOST_ELEMENTS:,} elements "
                            "that a label file has at most"
                        )
