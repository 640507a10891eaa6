"""Label files as rows of text, each with its `file:row`; a malformed row is named, never guessed."""

import csv
import io
import json
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

Refuse = Callable[[str], None]
"""What is done with a bad row: raise (`refuse_row`), or note it and go on to the next (`inspect_data`)."""

_LARGEST_WORKBOOK = 256 * 2**20
"""Bytes of an XLSX file unpacked; ten thousand rows of labels have a few million."""

_REPAIRED = 0.3
"""Share of a text that must come out as Chinese for a wrong decoding to be taken for undone. Of garbled texts 0.6 or
more does; of well-read Chinese, taken for garbled UTF-8, 0.01, of single short sentences up to 0.08."""


def refuse_row(problem: str) -> None:
    """Stop at the first bad row.

    Raises:
        ValueError: always, with the problem.
    """
    raise ValueError(problem)


def read_text(path: Path, encoding: str = "utf-8-sig") -> str:
    """A text file; a byte order mark is dropped.

    Raises:
        ValueError: the bytes are not in this encoding.
    """
    try:
        return path.read_bytes().decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not {encoding.removesuffix('-sig').upper()}: {error.reason} at byte {error.start}. It was "
            "saved in another encoding; use the file as distributed."
        ) from error


def read_csv(
    path: Path, columns: Sequence[str], delimiter: str = ",", refuse: Refuse = refuse_row
) -> Iterator[tuple[dict[str, str], str]]:
    """Rows of a UTF-8 CSV with a header: column → value without surrounding space, and `file:line`.

    Blank lines are passed over; columns beyond those named are kept.

    Args:
        path: the file.
        columns: what the header must hold.
        delimiter: between fields.
        refuse: called with each row of a wrong length.

    Raises:
        ValueError: another encoding, or a header without one of the columns.
    """
    reader = csv.reader(io.StringIO(read_text(path), newline=""), delimiter=delimiter)
    header = [name.strip() for name in next(reader, [])]
    if not set(columns) <= set(header):
        raise ValueError(f"{path}:1: got the header {header}. Expected {delimiter.join(columns)}.")
    for row in reader:
        if not row:
            continue
        source = f"{path}:{reader.line_num}"
        if len(row) != len(header):
            refuse(f"{source}: got {row}. Expected {len(header)} fields: {delimiter.join(header)}.")
            continue
        yield {name: value.strip() for name, value in zip(header, row, strict=True)}, source


def decode_chinese(path: Path) -> str:
    """A text file in GB18030, or converted from it to UTF-8.

    Raises:
        ValueError: it is neither; names the row.
    """
    content = path.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        pass  # as distributed: GB18030 with Chinese in it is not UTF-8
    try:
        return content.decode("gb18030")
    except UnicodeDecodeError as error:
        row = content.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{path}:{row}: neither GB18030 nor UTF-8: {error.reason} at byte {error.start}. Likely cause: it was "
            "saved as Latin-1 or Windows-1252, or is damaged. Use the file as distributed, in GB18030."
        ) from error


def num_chinese(text: str) -> int:
    """Number of Chinese characters (CJK unified ideographs)."""
    return sum("\u4e00" <= character <= "\u9fff" for character in text)


def misread_chinese(text: str) -> str | None:
    """How a Chinese text was decoded wrongly; None where it reads as Chinese, or as something else altogether.

    Each known mistake is undone as far as it can be; the one that makes Chinese of the text is the cause.
    """
    western = [(true, wrong) for true in ("utf-8", "gb18030") for wrong in ("latin-1", "cp1252")]
    for true, wrong in [("utf-8", "gb18030")] if num_chinese(text) else western:
        content = text.replace("\ufffd", "").encode(wrong, "ignore")
        num_high = sum(byte >= 0x80 for byte in content)
        num_bytes = 3 if true == "utf-8" else 2  # of a Chinese character
        share = num_bytes * num_chinese(content.decode(true, "ignore")) / max(len(content), 1)
        if num_high > len(content) / 2 and share > _REPAIRED:
            name = "GB18030" if wrong == "gb18030" else "Latin-1 or Windows-1252"
            return f"its {true.upper()} bytes were read as {name} and saved anew"
    return None


def numbered_lines(text: str, path: Path) -> Iterator[tuple[str, str]]:
    """Lines of a text file and their `file:line`; blank ones are passed over.

    Only a line feed, with or without a carriage return before it, ends a line: captions may hold the other characters
    that `str.splitlines` splits at.
    """
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield line.removesuffix("\r"), f"{path}:{number}"


def read_workbook(path: Path, columns: Sequence[str]) -> Iterator[tuple[dict[str, Any], str]]:
    """Rows of the first sheet of an XLSX file with one header row: column → cell, and `file:row`.

    Blank rows are passed over; text is stripped; an empty cell is None, as is a formula that no program has computed.

    Args:
        path: the file.
        columns: what the header must hold, and what is returned.

    Raises:
        ValueError: no XLSX file, one that unpacks to more than any label file has, or a header without one of the
            columns.
    """
    from openpyxl import load_workbook  # 0.2 s that only corpora with workbooks should cost

    try:
        # Texts are unpacked into memory at once, and a kilobyte may unpack to gigabytes.
        with zipfile.ZipFile(path) as archive:
            num_bytes = sum(member.file_size for member in archive.infolist())
        if num_bytes > _LARGEST_WORKBOOK:
            raise ValueError(
                f"{path} unpacks to {num_bytes:,} bytes, a label file to {_LARGEST_WORKBOOK:,} at most. Use the file "
                "as distributed."
            )
        workbook = load_workbook(path, read_only=True, data_only=True)
    except (zipfile.BadZipFile, KeyError) as error:
        raise ValueError(f"{path} is no XLSX workbook: {error}. Use the file as distributed.") from error
    try:
        sheet = workbook.worksheets[0]
        # Some programs write a sheet's size wrongly; without it the reader goes by the rows that are there.
        sheet.reset_dimensions()
        rows = enumerate(sheet.iter_rows(values_only=True), 1)
        _, header = next(rows, (1, ()))
        names = [cell.strip() if isinstance(cell, str) else cell for cell in header]
        if not set(columns) <= set(names):
            raise ValueError(f"{path}:1: got the header {names}. Expected the columns {', '.join(columns)}.")
        positions = {column: names.index(column) for column in columns}
        for number, cells in rows:
            if any(cell is not None for cell in cells):
                row = {name: cells[at] if at < len(cells) else None for name, at in positions.items()}
                yield {k: v.strip() if isinstance(v, str) else v for k, v in row.items()}, f"{path}:{number}"
    finally:
        workbook.close()


def read_json(path: Path) -> Any:
    """Content of a JSON file.

    Raises:
        ValueError: no valid JSON.
    """
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path} is not valid JSON: {error}. (R1-Omni's README example ends its list with a comma; remove such.)"
        ) from error
