"""What is known of a corpus as plain JSON values, and what of it is wrong."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from statistics import median
from typing import Any, Literal

from datamodules.clip_source import ClipRecord, ClipSource, Split
from datamodules.corpus import Corpus
from datamodules.files.printable import readable_name
from datamodules.inspection.checks import ClipCheck
from datamodules.listed import ListedCorpus, ListedRow
from datamodules.media_settings import MediaSettings
from datamodules.segments import split_media

Severity = Literal["error", "warning", "note"]
"""`error`: clips or labels are lost or wrong. `warning`: other counts than published. `note`: good to know."""

Rows = Mapping[Split, Sequence[ClipRecord]]
Checks = Mapping[str, ClipCheck]

NUM_EXAMPLES = 3
"""Cases that a finding names; the report's other entries name all of them."""
UNLABELLED = "(no label)"
DURATION_BUCKETS = (("0–2 s", 0.0, 2.0), ("2–5 s", 2.0, 5.0), ("5 s+", 5.0, float("inf")))
"""Half-open intervals in seconds, as MAFW and DFEW publish them."""


def build_report(
    data: ClipSource, rows: Rows, problems: Iterable[str], checks: Checks | None, num_known: int
) -> dict[str, Any]:
    """All that was found.

    Args:
        data: the corpus.
        rows: split → its rows.
        problems: what was refused while reading the label files.
        checks: path → check of the file; None when no file was decoded.
        num_known: how many of the checks are an earlier run's.

    Returns:
        JSON values. `findings` sums up what is wrong, see `find_problems`; the other entries name every clip.
    """
    report: dict[str, Any] = {
        "corpus": data.name,
        "root": str(data.root),
        "taxonomy": data.taxonomy.name if data.taxonomy else None,
        "splits": {split: _describe_split(data, split, records) for split, records in rows.items()},
        "label_problems": list(dict.fromkeys(problems)),
        "overlap": _overlap(data, rows),
        "missing": [
            {"split": split, "id": record.id, "source": record.source}
            for split, records in rows.items()
            for record in records
            if record.media is None
        ],
        "surplus": _surplus(data, rows),
        "absent": _why_absent(data, rows),
        "decoding": None if checks is None else _describe_decoding(data.media, rows, checks, num_known),
    }
    report["findings"] = find_problems(report)
    return report


def _describe_split(data: ClipSource, split: Split, records: Sequence[ClipRecord]) -> dict[str, Any]:
    published = data.published(split) if isinstance(data, Corpus) else None
    counts = Counter(record.target or UNLABELLED for record in records)
    single = data.taxonomy.classes if data.taxonomy else ()
    # Beside the taxonomy's classes: compound ones, most frequent first, and clips without a label.
    others = Counter({**(published.classes if published else {}), **counts})
    names = [*single, *(name for name, _ in others.most_common() if name not in single)]
    return {
        "num_clips": len(records),
        "left_out": dict(Counter(str(row.label) for row in _left_out(data, split))),
        "classes": {name: counts[name] for name in names},
        "validation": dict(Counter(record.target or UNLABELLED for record in records if record.is_validation)),
        "published": None if published is None else asdict(published),
    }


def _overlap(data: ClipSource, rows: Rows) -> list[dict[str, str]]:
    train = {data.key(record.id): record for record in rows.get("train", ())}
    shared = [record for record in rows.get("test", ()) if data.key(record.id) in train]
    return [{"id": record.id, "train": train[data.key(record.id)].source, "test": record.source} for record in shared]


def _why_absent(data: ClipSource, rows: Rows) -> list[str]:
    splits: tuple[Split, ...] = ("train", "test")
    reasons = dict.fromkeys(data.why_without(split).strip() for split in splits if split not in rows)
    return list(filter(None, reasons))


def _surplus(data: ClipSource, rows: Rows) -> list[str] | None:
    """Files that no split lists; None where the corpus keeps no index of its files."""
    if not isinstance(data, Corpus):
        return None
    listed = {split_media(record.media or "")[0] for records in rows.values() for record in records}
    listed |= {row.medium for split in rows for row in _left_out(data, split) if row.medium}
    return [readable_name(str(path)) for path in data.media_files().values() if str(path) not in listed]


def _left_out(data: ClipSource, split: Split) -> Sequence[ListedRow]:
    """Rows whose label has no class in the taxonomy, by the corpus' design."""
    return data.left_out.get(split, ()) if isinstance(data, ListedCorpus) else ()


def _describe_decoding(settings: MediaSettings, rows: Rows, checks: Checks, num_known: int) -> dict[str, Any]:
    records = {
        record.media: {"split": split, "id": record.id, "path": readable_name(record.media), "source": record.source}
        for split, split_records in reversed(rows.items())  # a clip of several splits is named with the first
        for record in split_records
        if record.media is not None
    }
    decodable = {path: check for path, check in checks.items() if check.failure is None}

    def ids(paths: Iterable[str]) -> list[str]:
        return [records[path]["id"] for path in paths]

    seen = {path: check.num_frames for path, check in decodable.items() if check.num_frames is not None}
    durations = [check.duration_seconds for check in decodable.values()]
    return {
        "settings": asdict(settings),
        "num_checked": len(checks),
        "num_checked_earlier": num_known,
        "undecodable": [{**records[path], "reason": c.failure} for path, c in checks.items() if c.failure is not None],
        "without_video": ids(path for path in decodable if path not in seen),
        "without_audio": ids(path for path, check in decodable.items() if check.peak is None),
        "silent": ids(path for path, check in decodable.items() if check.peak == 0),
        "too_few_frames": ids(path for path, number in seen.items() if number < settings.num_frames),
        "too_long": ids(
            path for path, check in decodable.items() if check.duration_seconds > settings.max_audio_seconds
        ),
        "duration_seconds": _spread(durations),
        "duration_buckets": {
            name: sum(start <= duration < stop for duration in durations) for name, start, stop in DURATION_BUCKETS
        },
        "num_frames": _spread(list(seen.values())),
        "picture_sizes": _count(f"{decodable[path].width}×{decodable[path].height}" for path in seen),
        "frame_rates": _count(check.frames_per_second for check in decodable.values()),
        "video_codecs": _count(check.video_codec for check in decodable.values()),
        "audio_codecs": _count(check.audio_codec for check in decodable.values()),
        "sample_rates": _count(check.sample_rate for check in decodable.values()),
        "num_channels": _count(check.num_channels for check in decodable.values()),
    }


def _spread(values: Sequence[float]) -> dict[str, float] | None:
    return {"min": min(values), "median": median(values), "max": max(values)} if values else None


def _count(values: Iterable[str | float | None]) -> dict[str, int]:
    """Clips per value, the commonest first; those that have none are left out."""
    return {
        f"{value:g}" if isinstance(value, float) else str(value): count
        for value, count in Counter(values).most_common()
        if value is not None
    }


def find_problems(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The findings of a report, gravest first: severity, kind, count, message and the first few cases."""
    findings: list[dict[str, Any]] = []

    def add(severity: Severity, kind: str, message: str, cases: Sequence[str]) -> None:
        if cases:
            findings.append(
                {
                    "severity": severity,
                    "kind": kind,
                    "count": len(cases),
                    "message": message,
                    "examples": list(cases[:NUM_EXAMPLES]),
                }
            )

    decoding = report["decoding"]
    overlap = [f"{row['id']}: {row['train']} and {row['test']}" for row in report["overlap"]]
    add("error", "overlap", "clips in both train and test", overlap)
    add("error", "label_problems", "problems in the label files", report["label_problems"])
    missing = [f"{row['id']} ({row['source']})" for row in report["missing"]]
    add("error", "missing", "listed clips without a file", missing)
    if decoding is not None:
        undecodable = [f"{row['path']}: {row['reason']}" for row in decoding["undecodable"]]
        add("error", "undecodable", "clips that cannot be decoded", undecodable)
    deviations = {split: _deviation(section) for split, section in report["splits"].items()}
    differing = [f"{split}: {deviation}" for split, deviation in deviations.items() if deviation is not None]
    add("warning", "counts", "splits that differ from what is published", differing)
    left_out = [
        f"{split}: {label} ({count:,})"
        for split, section in report["splits"].items()
        for label, count in section["left_out"].items()
    ]
    add("note", "left_out", "labels without a class in the taxonomy, whose clips are left out", left_out)
    absent = [why for why in report["absent"] if why not in report["label_problems"]]
    add("note", "absent", "reasons why a split is not there", absent)
    add("note", "surplus", "files that no split lists", report["surplus"] or ())
    if decoding is not None:
        frames, seconds = decoding["settings"]["num_frames"], decoding["settings"]["max_audio_seconds"]
        add("note", "without_video", "clips without pictures", decoding["without_video"])
        add("note", "without_audio", "clips without an audio track", decoding["without_audio"])
        add("note", "silent", "clips whose audio track is nothing but silence", decoding["silent"])
        too_few = f"clips of fewer than {frames} frames, some of which are taken twice"
        add("note", "too_few_frames", too_few, decoding["too_few_frames"])
        add("note", "too_long", f"clips longer than {seconds:g} s, where their sound is cut", decoding["too_long"])
    return findings


def deviating_classes(section: Mapping[str, Any]) -> dict[str, int]:
    """Class → clips found minus clips published, where they differ; empty when nothing exact is published of classes.

    Args:
        section: of one split in a report.
    """
    published = section["published"]
    if published is None or not published["exact"] or not published["classes"]:
        return {}
    differences = {name: count - published["classes"].get(name, 0) for name, count in section["classes"].items()}
    return {name: difference for name, difference in differences.items() if difference}


def num_listed(section: Mapping[str, Any]) -> int:
    """Clips of a split in a report, with those that are left out by design."""
    return section["num_clips"] + sum(section["left_out"].values())


def differs_in_size(section: Mapping[str, Any]) -> bool:
    """Whether a split in a report has another number of clips than is published."""
    return section["published"] is not None and num_listed(section) != section["published"]["num_clips"]


def _deviation(section: Mapping[str, Any]) -> str | None:
    """How a split's counts differ from the published ones, or None."""
    classes, published = deviating_classes(section), section["published"]
    if differs_in_size(section):
        return f"{num_listed(section):,} clips are listed, {published['num_clips']:,} are published"
    if classes:
        named = ", ".join(f"{name} {difference:+d}" for name, difference in classes.items())
        return f"the number of clips is the published one, but not that of the classes: {named}"
    return None
