"""Sixteen clips of one's own, in five containers, with classes of one's own, without a line of code."""

import json
from pathlib import Path

import pytest

import main
from tests.media_files import encode

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
CONTAINERS = (
    ("mp4", "mp4", "libx264", "aac"),
    ("mov", "mov", "libx264", "aac"),
    ("mkv", "matroska", "libx264", "aac"),
    ("avi", "avi", "mpeg4", "mp3"),
    ("webm", "webm", "libvpx", "libopus"),
)
"""Suffix, FFmpeg's name, and encoders."""
CLASSES = ("bored", "glad", "cross")
SPLITS = ("train", "train", "val", "test")


def stack(*names: str) -> list[str]:
    return [argument for name in names for argument in ("-c", str(ROOT / "configs" / f"{name}.yaml"))]


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The clips, a table of them, and the taxonomy; the last row is a part of the first clip."""
    root = tmp_path_factory.mktemp("own")
    rows = []
    for number in range(15):
        suffix, container, video, audio = CONTAINERS[number % 5]
        (root / "day").mkdir(exist_ok=True)
        encode(root / f"day/{number}.{suffix}", container, video, audio)
        rows.append({"video": f"day\\{number}.{suffix}", "emotion": CLASSES[number % 3], "split": SPLITS[number % 4]})
        rows[-1] |= {"rationale": "He yawns. He looks away.", "transcript": f"Number {number}."}
        rows[-1] |= {"start": None, "end": None}
    rows.append({**rows[0], "start": 0.04, "end": 0.2, "prompt": "How does he feel?"})
    (root / "clips.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (root / "own.yaml").write_text(
        "classes: {bored: {aliases: [dull]}, glad: {verifier: joy}, cross: {verifier: anger}}"
    )
    return root


@pytest.mark.timeout(300)
def test_from_inspection_to_the_report(own: Path, tiny_models: Path, tmp_path: Path) -> None:
    data = [f"--data.path={own}/clips.jsonl", f"--data.taxonomy={own}/own.yaml"]
    media = ["--data.media.num_frames=2", "--data.media.image_size=32", "--data.media.mel=null"]
    report = tmp_path / "inspected/report.json"
    options = ["--output", str(report.parent), "--num_workers", "1", "--clips_per_class", "0", "--strict", "true"]
    main.run(["inspect_data", *stack("data/manifest"), *data, *options])
    inspected = json.loads(report.read_text())
    assert {name: split["num_clips"] for name, split in inspected["splits"].items()} == {"train": 13, "test": 3}
    assert inspected["decoding"]["num_checked"] == 16 and not inspected["decoding"]["undecodable"]

    short = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--trainer.accelerator=cpu"]
    told = """--data.transcript_template=He says "{transcript}" """
    common = [*data, told, *media, f"--model.taxonomy={own}/own.yaml", *short, "--data.num_workers=0"]
    common.append("--data.batch_size=2")
    parts = [f"--model.backbone.{part}={tiny_models}/{part}" for part in ("vision", "audio", "language_model")]
    parts += ["--model.backbone.num_frames=2", "--model.backbone.video_grid=2", "--model.backbone.audio_pool=10"]

    def fit(name: str, *configs: str, model: list[str]) -> Path:
        base = stack("trainer/default", *configs, "data/manifest", "backbone/composed")
        run = [f"--trainer.default_root_dir={tmp_path}/{name}", "--trainer.max_steps=1", "--trainer.max_epochs=1"]
        main.run(["fit", *base, *common, *model, *run, "--trainer.limit_val_batches=1"])
        return tmp_path / name / "model"

    learnt = fit("cold_start", "stage/cold_start", model=[*parts, "--model.evaluation.max_new_tokens=4"])
    rollout = [
        "--model.rollout_sampling.max_new_tokens=8",
        "--model.group_size=2",
        "--model.evaluation.max_new_tokens=4",
    ]
    learnt = fit(
        "grpo",
        "stage/grpo",
        "stage/grpo_accuracy",
        model=[f"--model.backbone.path={learnt}", *rollout, "--model.verifier=null", "--model.aliases=extended"],
    )
    tested = tmp_path / "test"
    evaluation = [*stack("trainer/default", "stage/evaluate", "data/manifest", "backbone/composed"), *common]
    evaluation += [f"--model.backbone.path={learnt}", "--model.evaluation.max_new_tokens=4"]
    evaluation += [f"--trainer.default_root_dir={tested}"]
    main.run(["test", *evaluation])
    metrics = json.loads((tested / "metrics.json").read_text())
    assert metrics["num_samples"] == 3 and metrics["war"] is not None and metrics["eea"] is None
    assert metrics["taxonomy"] == f"{own}/own.yaml" and metrics["confusion_matrix"]["rows"] == list(CLASSES)
    assert sum(answer["count"] for answer in metrics["unread_answers"]) == metrics["unknown_answers"]
    main.run(["report", "--predictions", f"{tested}/predictions.jsonl", "--output", f"{tmp_path}/page"])
    page = next((tmp_path / "page").glob("*.html")).read_text()
    assert "bored" in page and "Number 3." in page

    def content() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in tested.rglob("*") if path.is_file()}

    finished = content()
    for command, configs in (("test", stack("stage/ablation")), ("predict", [])):
        main.run([command, *evaluation, *configs, "--trainer.fast_dev_run=true"])
    assert content() == finished, "a trial leaves finished results alone"


def test_what_does_not_fit_is_said_before_a_clip_is_decoded(own: Path, tiny_models: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (own / "clips.jsonl").read_text().splitlines()]
    rows[4] |= {"split": "train", "rationale": ""}
    (own / "gap.jsonl").write_text("\n".join(map(json.dumps, rows)))
    parts = [f"--model.backbone.{part}={tiny_models}/{part}" for part in ("vision", "audio", "language_model")]
    base = stack("trainer/default", "stage/cold_start", "data/manifest", "backbone/composed")
    options = [*base, *parts, f"--data.taxonomy={own}/own.yaml", f"--model.taxonomy={own}/own.yaml"]
    options += [f"--trainer.default_root_dir={tmp_path}", "--trainer.accelerator=cpu", "--model.backbone.num_frames=2"]
    fitting = r"add --data.media.num_frames 2 --data.media.image_size 32 --data.media.mel.num_bins \d+ --data.media.mel"
    with pytest.raises(ValueError, match=fitting):
        main.run(["fit", *options, f"--data.path={own}/clips.jsonl"])
    options += ["--data.media.num_frames=2", "--data.media.image_size=32", "--data.media.mel=null"]
    with pytest.raises(ValueError, match=r"gap.jsonl:5: clip day/4 has no response to learn, and so 1 of 9\. Give"):
        main.run(["fit", *options, f"--data.path={own}/gap.jsonl"])
    with pytest.raises(
        ValueError, match=r"clips.jsonl:1: clip day/0, .* and 4 more are not <context>…</context><think>"
    ):
        main.run(["fit", *options, f"--data.path={own}/clips.jsonl", "--model.sections=[context]"])
