"""A pretrained language model through `main.py`: stage 1, stage 3, export, test, predict, report (docs/real_model.md).

`make real-test` fetches the model and runs this; figures.json beside the model has what it measured.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import AutoModelForCausalLM

from datamodules.batch import Clip, collate
from lightning_modules.backbones.composed import ComposedBackbone
from lightning_modules.backbones.interface import Sampling

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(3600)]

ROOT = Path(__file__).parents[2]
REAL = Path(os.environ.get("REAL", ROOT / "runs" / "real")).resolve()
PARTS = {"vision": REAL / "tiny" / "vision", "audio": REAL / "tiny" / "audio", "language_model": REAL / "gemma"}
SEED = 0
BASE = ("trainer/default", "trainer/cpu")
POLICY = ("backbone/composed", "demo/data", "real/backbone")


@pytest.fixture(scope="module")
def figures() -> Iterator[dict[str, Any]]:
    """What the tests measure, written at their end."""
    if not (REAL / "gemma" / "config.json").is_file():
        pytest.skip(f"{REAL}/gemma is missing: `make real-test` fetches the model")
    measured: dict[str, Any] = {"seed": SEED, "threads": torch.get_num_threads(), "commands": {}}
    yield measured
    (REAL / "figures.json").write_text(json.dumps(measured, indent=2))


@pytest.fixture(scope="module")
def run_main(figures: dict[str, Any]) -> Callable[..., None]:
    """Runs a command of `main.py` in a process of its own, whose time and largest resident set are noted."""

    def run(name: str, command: str, *arguments: str, configs: tuple[str, ...] = ()) -> None:
        stacked = [part for config in configs for part in ("-c", f"configs/{config}.yaml")]
        begin = time.perf_counter()
        process = subprocess.Popen([sys.executable, "main.py", command, *stacked, *arguments], cwd=ROOT)
        _, status, usage = os.wait4(process.pid, 0)
        assert os.waitstatus_to_exitcode(status) == 0, name
        figures["commands"][name] = {
            "seconds": round(time.perf_counter() - begin, 1),
            "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
            "peak_gib": round(usage.ru_maxrss / 2**20, 2),
        }

    return run


@pytest.fixture(scope="module")
def runs(run_main: Callable[..., None]) -> Path:
    """All runs, one after the other, as a user makes them."""
    for earlier in ("emer", "dfew", "sentences", "tiny", "cold_start", "verifier", "grpo", "predict", "report"):
        shutil.rmtree(REAL / earlier, ignore_errors=True)
    for layout, number in (("emer", 300), ("dfew", 200), ("sentences", 6000)):
        made = ["--output", f"{REAL}/{layout}", "--num_clips", str(number), "--face_disagreement", "0.5"]
        run_main(f"synthesize {layout}", "synthesize", "--layout", layout, *made, "--seed", str(SEED))
    run_main(
        *("tiny", "tiny", "--output", f"{REAL}/tiny", "--seed", str(SEED)),
        *("--texts", f"{REAL}/emer/EMER_cold_start.json", "--verifier_texts", f"{REAL}/sentences/train.jsonl"),
    )
    parts = [f"--model.backbone.{part}={directory}" for part, directory in PARTS.items()]

    def options(name: str) -> list[str]:
        quiet = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
        return [*quiet, f"--seed_everything={SEED}", f"--trainer.default_root_dir={REAL}/{name}"]

    def policy(name: str) -> list[str]:
        return [f"--model.backbone.path={REAL}/{name}/model", f"--model.verifier={REAL}/verifier/model"]

    run_main(
        *("stage 1", "fit", f"--data.root={REAL}/emer", *parts, *options("cold_start")),
        configs=(*BASE, "stage/cold_start", "data/emer", *POLICY, "real/cold_start"),
    )
    run_main(
        *("stage 2", "fit", f"--data.train={REAL}/sentences/train.jsonl", f"--model.path={REAL}/tiny/verifier"),
        *options("verifier"),
        configs=(*BASE, "stage/verifier", "data/rationale_text", "demo/verifier"),
    )
    run_main(
        *("stage 3", "fit", f"--data.root={REAL}/dfew", *policy("cold_start"), *options("grpo")),
        configs=(*BASE, "stage/grpo", "data/dfew", *POLICY, "real/grpo"),
    )
    for name in ("cold_start", "grpo"):
        run_main(
            *(f"test {name}", "test", f"--data.root={REAL}/dfew", *policy(name), *options(f"{name}/test")),
            "--model.backbone.dtype=float32",
            configs=(*BASE, "stage/evaluate", "data/dfew", *POLICY, "demo/evaluate"),
        )
    folder = next(REAL.glob("dfew/Clip/**/*.mp4")).parent
    run_main(
        *("predict", "predict", "--data=Clips", f"--data.path={folder}", "--trainer.limit_predict_batches=1"),
        *(*policy("grpo"), *options("predict")),
        configs=(*BASE, "stage/evaluate", "data/clips", *POLICY),
    )
    run_main(
        *("report", "report", "--output", f"{REAL}/report", "--names", "cold_start", "grpo", "--predictions"),
        *(f"{REAL}/{name}/test/predictions.jsonl" for name in ("cold_start", "grpo")),
    )
    return REAL


def curve(run: Path, tag: str) -> dict[int, float]:
    """A curve of a run, by optimizer step."""
    events = EventAccumulator(str(run))
    events.Reload()
    return {event.step + 1: event.value for event in events.Scalars(tag)}


def predictions(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "predictions.jsonl").open()]


def test_stage_1_reaches_the_format(runs: Path, figures: dict[str, Any]) -> None:
    formats = curve(runs / "cold_start", "val/format")
    figures["format in stage 1, by step"] = formats
    assert max(formats.values()) > 0.9 and next(iter(formats.values())) < 0.9, "it had to be learnt"


def test_stage_3_makes_its_steps(runs: Path, figures: dict[str, Any]) -> None:
    record = json.loads((runs / "grpo" / "run.json").read_text())
    assert record["optimizer_steps"] == 10
    for tag in ("reward/total", "reward/format", "reward/accuracy", "reward/explanation", "train/kl"):
        figures[f"{tag} in stage 3"] = list(curve(runs / "grpo", tag).values())


def test_the_export_is_the_published_file_with_what_was_learnt(runs: Path) -> None:
    """Under the same names, the head tied as there: adapted weights in float32, all others as they were."""
    published, exported = (
        load_file(directory / "model.safetensors")
        for directory in (REAL / "gemma", runs / "grpo" / "model" / "language_model")
    )
    assert published.keys() == exported.keys() and "lm_head.weight" not in exported
    kept = {name for name, tensor in exported.items() if torch.equal(tensor, published[name])}
    assert {name for name, tensor in exported.items() if tensor.dtype == torch.bfloat16} == kept
    assert all(name.endswith("_proj.weight") for name in exported.keys() - kept) and len(exported) - len(kept) == 7 * 18


def test_predictions_are_in_the_format(runs: Path, figures: dict[str, Any]) -> None:
    for name in ("cold_start", "grpo"):
        rows = predictions(runs / name / "test")
        metrics = json.loads((runs / name / "test" / "metrics.json").read_text())
        share = sum(row["format"] for row in rows) / len(rows)
        figures[f"test {name}"] = {"clips": len(rows), "format": share, **metrics}
        assert share > 0.8
    assert all(row["completion"] for row in predictions(runs / "predict"))
    assert (runs / "report" / "report.html").is_file()


def test_sampling_and_scoring_agree_with_transformers_beyond_the_sliding_window(figures: dict[str, Any]) -> None:
    """In float32, each row by itself, prompt and completion in one pass, with all logits."""
    backbone = ComposedBackbone(**{k: str(v) for k, v in PARTS.items()}, num_frames=15, video_grid=6, audio_pool=10)
    frames = torch.randint(0, 256, (15, 3, 96, 96), generator=torch.Generator().manual_seed(SEED), dtype=torch.uint8)
    waveform = torch.zeros(16000)
    batch = collate([Clip(str(i), "", frames, waveform, True, "Which emotion?" + " Look." * i) for i in range(2)])
    torch.manual_seed(SEED)
    with torch.no_grad():
        prompt = backbone.encode(batch)
        completions = backbone.generate(prompt, 2, Sampling(max_new_tokens=5))
        scored = backbone.logprobs(prompt, completions)
        plain = torch.zeros_like(scored)
        model = AutoModelForCausalLM.from_pretrained(PARTS["language_model"], dtype=torch.float32)
        embed = model.get_input_embeddings()
        for row, (ids, mask) in enumerate(zip(completions.token_ids, completions.mask, strict=True)):
            own = prompt.embeddings[row // 2][prompt.attention_mask[row // 2].bool()]
            assert len(own) > model.config.sliding_window
            logits = model(inputs_embeds=torch.cat([own, embed(ids[mask])])[None]).logits[0, len(own) - 1 : -1]
            plain[row, mask] = logits.log_softmax(dim=-1).gather(1, ids[mask][:, None])[:, 0]
    differences = [float((values - plain).abs().max()) for values in (completions.logprobs, scored)]
    figures["largest difference from transformers, sampled and scored"] = differences
    assert max(differences) < 5e-3
