"""`python main.py rate`: a page on which people say what emotion a rationale speaks of, blind to which run wrote it."""

import random
from pathlib import Path
from typing import Any

from rich.console import Console

from datamodules.files.json_log import json_digest
from datamodules.files.writing import require_directory, write_text
from lightning_modules.metrics.predictions import PredictionFile, read_predictions
from tools.judge import rationale_of
from tools.report.page_writer import build_page

RATING_FILE = "rate.html"


def rate(
    predictions: dict[str, str],
    output: str,
    num_clips: int = 50,
    seed: int = 0,
    title: str = "Which emotion does this explanation speak of?",
) -> Path:
    """Write `rate.html`: rationales of the same clips by one or several runs, in random order and without names.

    The page needs no network. One key rates and goes on; ratings stay in the browser until they are exported, as a
    file of verdicts per run, which `agreement`, `judges` and `score --judge` read. A rater sees a rationale and nothing
    else, as a judge does: neither clip nor answer, nor which run it is of.

    Args:
        predictions: name → predictions.jsonl or rows.jsonl, e.g. accuracy=a.jsonl erv=b.jsonl.
        output: directory for rate.html.
        num_clips: clips that are rated, drawn from those that all runs have and say something of.
        seed: of clips and order; the same for all raters makes them comparable.
        title: the question.

    Returns:
        The file.

    Raises:
        FileNotFoundError: a prediction file is missing.
        ValueError: no run, a malformed line (names file and line), different taxonomies, no clip that all runs explain,
            or fewer than one clip asked for.
    """
    if not predictions or num_clips < 1:
        raise ValueError(f"Got {len(predictions)} runs and num_clips={num_clips}. Expected at least one of each.")
    require_directory(output, RATING_FILE)
    runs = {name: read_predictions(path) for name, path in predictions.items()}
    data = rating_data(runs, num_clips, seed, title)
    file = Path(output) / RATING_FILE
    write_text(file, [build_page(data, __package__, ["rate.js"])])
    count = len(data["items"])
    Console().print(f"Written: {file}. {count} rationales of {count // len(runs)} clips to rate.", markup=False)
    return file


def rating_data(runs: dict[str, PredictionFile], num_clips: int, seed: int, title: str) -> dict[str, Any]:
    """What the page holds: `title`, `taxonomy`, `classes`, `runs`, `items` in random order, and their `digest`.

    Args:
        runs: name → its predictions.
        num_clips: largest number of clips.
        seed: of clips and order.
        title: of the page.

    Raises:
        ValueError: different taxonomies, or no clip that all runs explain.
    """
    taxonomies = {name: file.taxonomy for name, file in runs.items()}
    taxonomy = next(iter(taxonomies.values()))
    if any(own != taxonomy for own in taxonomies.values()):
        named = ", ".join(f"{name}: {own.name}" for name, own in taxonomies.items())
        raise ValueError(f"The runs are of different taxonomies ({named}). Rate runs over the same classes together.")
    said = {name: _rationales(file) for name, file in runs.items()}
    shared = [identifier for identifier in next(iter(said.values())) if all(identifier in own for own in said.values())]
    if not shared:
        raise ValueError(f"No clip is explained by all of {', '.join(runs)}. Give runs over the same clips.")
    chance = random.Random(seed)
    clips = chance.sample(shared, min(num_clips, len(shared)))
    items = [{"run": name, "id": clip, "text": own[clip]} for name, own in said.items() for clip in clips]
    chance.shuffle(items)
    return {
        "title": title,
        "taxonomy": taxonomy.name,
        "classes": list(taxonomy.classes),
        "runs": list(runs),
        "digest": json_digest([list(taxonomy.classes), items]),
        "items": items,
    }


def _rationales(file: PredictionFile) -> dict[str, str]:
    """Clip id → rationale, of the clips that have one."""
    rationales = {own.id: rationale_of(own, file.taxonomy) for own in file.predictions}
    return {identifier: text for identifier, text in rationales.items() if text.strip()}
