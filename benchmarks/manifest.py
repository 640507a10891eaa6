"""Time and memory for a manifest of many clips: `python -m benchmarks.manifest [--rows 1000000]`.

Rows share media files, as the segments of longer films do; a part of them has a rationale.
"""

import argparse
import csv
import resource
import tempfile
import time
from pathlib import Path

from datamodules.manifest import Manifest

_CLASSES = ("anger", "happiness", "neutral", "sadness", "surprise")
_SEGMENTS = 10
"""Of each film."""
_RATIONALE = "He raises his voice. His brows are drawn together, and he leans towards her."


def write_table(folder: Path, rows: int) -> Path:
    """A CSV of segments and the (empty) films that they are of."""
    path = folder / "clips.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["media", "start", "end", "emotion", "split", "speaker", "rationale"])
        for row in range(rows):
            film, number = divmod(row, _SEGMENTS)
            name = f"films/{film % 100:02d}/{film:06d}.mp4"
            if not number:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).touch()
            rationale = _RATIONALE if row % 10 == 0 else ""
            split = "test" if film % 5 == 0 else "train"
            writer.writerow([name, 3 * number, 3 * number + 3, _CLASSES[row % 5], split, film % 997, rationale])
    return path


def main() -> None:
    """Print what reading and checking the splits takes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    rows = parser.parse_args().rows
    with tempfile.TemporaryDirectory() as folder:
        path = write_table(Path(folder), rows)
        megabytes = path.stat().st_size / 1e6
        before, start = time.process_time(), time.perf_counter()
        splits = Manifest(str(path), taxonomy="mafw").read_splits()
        wall, cpu = time.perf_counter() - start, time.process_time() - before
    sizes = {split: len(records) for split, records in splits.items()}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{rows:,} rows ({megabytes:.0f} MB): {wall:.1f} s, {cpu:.1f} s of it computing; peak {peak:.2f} GiB; {sizes}"
    )


if __name__ == "__main__":
    main()
