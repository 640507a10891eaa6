"""Verdicts from a file: a judge outside this program, or an earlier `python main.py judge`."""

from collections.abc import Sequence
from pathlib import Path

from datamodules.emotions import Taxonomy
from datamodules.files.printable import printable
from lightning_modules.metrics.records import Record, read_records


class FileJudge:
    """Verdicts on clips, by id: the one judge that does not read the rationales itself.

    Args:
        path: JSONL, `{"id", "emotion"}` per line; the emotion is a class, or an alias such as `happy`, or null. A file
            of `python main.py judge` names its `judge` and `taxonomy`, too, and has the `rationale`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a malformed line, a repeated id, or several judges or taxonomies; names file and line.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        records = read_records(self.path, ["emotion"], ["judge", "taxonomy", "rationale"])
        for record in records:
            _check(record, records[0])
        self.name = printable(records[0].fields["judge"] or f"file:{path}")
        """The judge that the file names; else the file."""
        taxonomy = records[0].fields["taxonomy"]
        self.taxonomy: str | None = None if taxonomy is None else printable(taxonomy)
        """Name of the taxonomy; None where the file does not say."""
        self.rationales: dict[str, str | None] = {record.id: record.fields["rationale"] for record in records}
        """What was judged, by id in the order of the file; None where the file does not say."""
        self._replies: dict[str, str | None] = {record.id: record.fields["emotion"] for record in records}

    def verdicts(
        self, ids: Sequence[str], taxonomy: Taxonomy, rationales: Sequence[str] | None = None
    ) -> list[str | None]:
        """Canonical emotion for each clip; None (invalid) where the file has no line or no class is named.

        Args:
            ids: of the clips.
            taxonomy: the classes.
            rationales: of the clips, to be checked against the file's as far as it has them; None checks nothing.

        Raises:
            ValueError: the file is of another taxonomy, or belongs to other completions: it has a verdict for none of
                the clips, or on another rationale of a clip.
        """
        if self.taxonomy not in (None, taxonomy.name):
            raise ValueError(
                f"{self.path} has verdicts in the taxonomy {self.taxonomy}; expected {taxonomy.name}. Judge the "
                "rationales again in the taxonomy of these clips."
            )
        if ids and not self._replies.keys() & set(ids):
            raise ValueError(
                f"{self.path} has no verdict for any of the {len(ids)} clips (the first is {ids[0]!r}; the file's "
                f"first is {next(iter(self._replies))!r}). Give the judge file that belongs to these completions."
            )
        for identifier, rationale in zip(ids, rationales or (), strict=False):
            if not same_words(self.rationales.get(identifier), rationale):
                raise ValueError(
                    f"{self.path}: the verdict on {identifier!r} is on another rationale than this file of completions "
                    "has. Judge these completions again."
                )
        return [taxonomy.canonical(self._replies.get(identifier)) for identifier in ids]


def same_words(first: str | None, second: str | None) -> bool:
    """Whether two rationales are the same but for white space; None (not known) may be any."""
    return first is None or second is None or first.split() == second.split()


def _check(record: Record, first: Record) -> None:
    for name, value in record.fields.items():
        if value is not None and not isinstance(value, str):
            raise ValueError(f"{record.where}: {name} must be text or null; got {value!r}.")
        if name in ("judge", "taxonomy") and value != first.fields[name]:
            raise ValueError(
                f"{record.where}: {name} is {value!r}, and {first.fields[name]!r} at {first.where}. Expected verdicts "
                "of one judge in one taxonomy: give one file each."
            )
