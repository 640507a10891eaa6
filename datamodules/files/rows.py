"""Rows of a table in whatever format it comes: CSV, TSV, JSONL or Parquet."""

import csv
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from datamodules.files.json_files import parse_json, read_json_lines, shown
from datamodules.files.tables import Refuse, read_csv, refuse_row
from datamodules.files.text import decode_utf8, require_file

_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_LINES = (".jsonl", ".ndjson")
_PARQUET = (".parquet", ".pq")
FORMATS = (*_DELIMITERS, *_LINES, *_PARQUET)
"""Suffixes of files that are read."""

_LONGEST_HEADER = 1 << 20
_BATCH_ROWS = 10_000


def column_names(path: Path) -> list[str]:
    """The columns of a table, as its header, its first object or its schema has them.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another format, or an empty file.
        ImportError: a Parquet file without a library that reads it.
    """
    require_file(path, "Expected a table; --data Clips takes a folder of media.")
    suffix = path.suffix.lower()
    if suffix in _PARQUET:
        return list(_parquet_file(path).schema_arrow.names)
    if suffix not in FORMATS:
        raise ValueError(f"{path}: got a file that ends in {suffix or 'nothing'}. Expected {', '.join(FORMATS)}.")
    with path.open("rb") as file:
        first = next((line for line in iter(lambda: file.readline(_LONGEST_HEADER), b"") if line.strip()), b"")
    text = decode_utf8(first, str(path)).strip("\r\n")
    if not text:
        raise ValueError(f"{path}: the file is empty. Expected a header with the names of its columns, and rows.")
    if suffix in _LINES:
        return list(_object(parse_json(text, f"{path}:1"), f"{path}:1"))
    return [name.strip() for name in next(csv.reader([text], delimiter=_DELIMITERS[suffix]))]


def read_rows(path: Path, columns: Sequence[str], refuse: Refuse = refuse_row) -> Iterator[tuple[dict[str, Any], str]]:
    """Rows of a table: column → value, and `file:row`; text without surrounding space. A JSON object may lack columns.

    Args:
        path: the file.
        columns: what is wanted; there may be more in a row.
        refuse: called with each malformed row, which is left out.

    Raises:
        FileNotFoundError, ValueError, ImportError: see `column_names`; also for a column that is there twice.
    """
    suffix = path.suffix.lower()
    if suffix in _DELIMITERS:
        return read_csv(path, columns, _DELIMITERS[suffix], refuse)
    return _read_objects(path, refuse) if suffix in _LINES else _read_parquet(path, columns)


def _read_objects(path: Path, refuse: Callable[[str], None]) -> Iterator[tuple[dict[str, Any], str]]:
    for value, source in read_json_lines(path):
        try:
            yield _object(value, source), source
        except ValueError as error:
            refuse(str(error))


def _object(value: Any, source: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{source}: got {shown(value)}. Expected a JSON object: column → value.")
    return value


def _read_parquet(path: Path, columns: Sequence[str]) -> Iterator[tuple[dict[str, Any], str]]:
    file = _parquet_file(path)
    names = file.schema_arrow.names
    twice = [column for column in columns if names.count(column) > 1]
    if twice:
        raise ValueError(f"{path}: the column {twice[0]} is there {names.count(twice[0])} times. Remove all but one.")
    number = 0
    for batch in file.iter_batches(_BATCH_ROWS, columns=list(columns)):
        for row in batch.to_pylist():
            number += 1
            yield row, f"{path}:{number}"


def _parquet_file(path: Path) -> Any:
    """Raises ImportError where nothing reads Parquet, and ValueError where it is none."""
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise ImportError(
            f"{path}: Parquet is read with pyarrow, which is not installed. Install it (pip install pyarrow, or the "
            "extra `parquet`), or save the table as CSV."
        ) from error
    try:
        return ParquetFile(path)
    except (ArrowException, OSError) as error:
        raise ValueError(f"{path} is no Parquet file: {str(error).splitlines()[0]:.200}") from error
