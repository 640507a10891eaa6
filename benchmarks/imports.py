"""What commands cost before they do anything: seconds of CPU time, and which heavy libraries they import.

    python benchmarks/imports.py [--repeats 3]

Each `--help`, the tools that read finished runs on two small ones, and `inspect_data --decode false` on a corpus with
the layout and the 11,697 file names of DFEW. Every run is a process of its own; the least of the repeats is printed.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import main
from datamodules.files.writing import write_json, write_rows, write_text

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "transformers", "lightning", "torchmetrics", "gradio")
RUN = f"""
import sys, main
try:
    status = main.main(sys.argv[1:])
except SystemExit as end:
    status = end.code
print("imported:", *[name for name in {HEAVY} if name in sys.modules], file=sys.stderr)
sys.exit(status)
"""
"""Runs a command line; the last line on standard error says which of `HEAVY` it imported."""


def write_predictions(path: Path, answers: list[str]) -> str:
    """A prediction file with these answers to clips of anger."""
    sentence = {"text": "She frowns.", "emotions": ["anger"], "probabilities": {"anger": 0.9}}
    scores = {"format": 1.0, "accuracy": 1.0, "explanation": 1.0, "sentences": [sentence]}
    judged = {"judged": "anger", "judge": "someone", "taxonomy": "dfew"}
    write_rows(
        path,
        ({"id": str(i), "target": "anger", "prediction": own, **scores, **judged} for i, own in enumerate(answers)),
    )
    return str(path)


def write_corpus(root: Path, num_clips: int = 11_697, num_train: int = 9_356) -> str:
    """The label files of DFEW's fold 5, and empty files of its clips' names."""
    (root / "Clip/original").mkdir(parents=True)
    for i in range(1, num_clips + 1):
        (root / f"Clip/original/{i:05d}.mp4").touch()
    rows = [f"{i},{1 + i % 7}" for i in range(1, num_clips + 1)]
    for split, own in (("train", rows[:num_train]), ("test", rows[num_train:])):
        write_text(root / f"EmoLabel_DataSplit/{split}(single-labeled)/set_5.csv", ["video_name,label", *own])
    return str(root)


def light_commands(root: Path) -> dict[str, list[str]]:
    """The commands that need no model, with all that they read."""
    first, second = (write_predictions(root / f"{name}.jsonl", ["anger", name]) for name in ("fear", "anger"))
    share = dict.fromkeys(("war", "uar", "eea", "epc", "fcr"), 0.5)
    counts = {"num_samples": 2, "unknown_answers": 0, "judge": "someone", "judge_failures": 0}
    write_json(root / "run/test/metrics.json", {**share, **counts})
    for place in ("run", "run/test"):
        write_json(root / place / "run.json", {"seconds": 1.0})
    output = ["--output", str(root / "out")]
    return {
        "compare": ["--predictions", json.dumps({"a": first, "b": second}), *output],
        "alarms": ["--predictions", first, second, *output],
        "report": ["--predictions", first, second, *output],
        "agreement": ["--first", first, "--second", second, *output],
        "summarize": ["--runs", json.dumps({"a": str(root / "run")}), *output],
    }


def cpu_seconds(arguments: list[str]) -> tuple[float, str]:
    """CPU time of a command in a process of its own, and the heavy libraries that it imported."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", RUN, *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return seconds, done.stderr.splitlines()[-1]


def run() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="runs of each command (default: %(default)s)")
    repeats = parser.parse_args().repeats
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        lines = {name: [name, *options] for name, options in light_commands(root).items()}
        inspect = ["inspect_data", "--decode", "false", "--data", "DFEW", "--data.root", write_corpus(root / "dfew")]
        lines["inspect_data --decode false"] = [*inspect, "--output", str(root / "inspected")]
        for name in (*main.TOOLS, main.CROSS_VALIDATE, main.ESTIMATE, main.STUDY, *main.STAGES):
            lines[f"{name} --help"] = [name, "--help"]
        for name, arguments in lines.items():
            seconds, imported = min(cpu_seconds(arguments) for _ in range(repeats))
            print(f"{name:<28}{seconds:6.2f} s  {imported}", flush=True)


if __name__ == "__main__":
    run()
