"""JSON Lines files of records with an id each."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datamodules.files.json_files import read_json_lines, shown
from datamodules.files.printable import printable
from datamodules.files.text import require_file


@dataclass(frozen=True)
class Record:
    """One line of a JSONL file.

    Args:
        id: the record's id, `printable`; a number in the file is taken as text.
        fields: the other fields asked for; None where an optional one is absent.
        where: file and line, for messages.
    """

    id: str
    fields: dict[str, Any]
    where: str


def read_records(path: str | Path, fields: Sequence[str], optional: Sequence[str] = ()) -> list[Record]:
    """Read a JSONL file, one object with an `id` per line; blank lines are skipped, other fields ignored.

    Args:
        path: the file, UTF-8.
        fields: fields that each object must have beside `id`.
        optional: fields that it may have.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no record at all, or a line that is no such object or repeats an id; it names file and line.
    """
    path = Path(path)
    require_file(path, f"Expected JSONL with {', '.join(('id', *fields))} on each line.", "predictions.jsonl")
    records: dict[str, Record] = {}
    for content, where in read_json_lines(path):
        record = _record(content, fields, optional, where)
        if record.id in records:
            raise ValueError(f"{record.where}: id {record.id!r} is already at {records[record.id].where}.")
        records[record.id] = record
    if not records:
        raise ValueError(f"{path} is empty. Expected JSONL with id, {', '.join(fields)} on each line.")
    return list(records.values())


def _record(content: Any, fields: Sequence[str], optional: Sequence[str], where: str) -> Record:
    if not isinstance(content, dict):
        raise ValueError(f"{where}: got {shown(content)}; expected an object with id, {', '.join(fields)}.")
    if missing := [name for name in ("id", *fields) if name not in content]:
        raise ValueError(f"{where}: {', '.join(missing)} missing; got {shown(list(content))}.")
    identifier = content["id"]
    if isinstance(identifier, bool) or not isinstance(identifier, str | int):
        raise ValueError(f"{where}: id must be text or a whole number; got {shown(identifier)}.")
    return Record(printable(str(identifier)), {name: content.get(name) for name in (*fields, *optional)}, where)
