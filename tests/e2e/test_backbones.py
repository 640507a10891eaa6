"""Each real architecture through `main.py` with its own YAML: GRPO on clips, export, then the one-line prediction."""

import json
from pathlib import Path

import pytest
import yaml

import main
from tests.tiny_checkpoints import write_tiny_checkpoint

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden"
TEXT = "Which emotion? <think>The man frowns hard. He shouts.</think>\n<answer>angry</answer>"


def config(name: str) -> list[str]:
    return ["-c", str(ROOT / "configs" / f"{name}.yaml")]


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("clips")
    main.run(["synthesize", "--layout", "dfew", "--output", str(root), "--num_clips", "35", "--num_workers", "1"])
    return root


@pytest.mark.parametrize(
    ("name", "model_type"),
    [
        ("humanomni", None),
        ("qwen2_5_omni", "qwen2_5_omni"),
        ("qwen2_5_vl", "qwen2_5_vl"),
        ("qwen3_vl", "qwen3_vl"),
        ("smolvlm2", "smolvlm"),
        ("qwen3_omni", "qwen3_omni_moe"),
        ("qwen2_audio", "qwen2_audio"),
        ("qwen3_5", "qwen3_5"),
        ("phi4_multimodal", "phi4_multimodal"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*cannot hear")
def test_grpo_export_and_predict(name: str, model_type: str | None, clips: Path, tmp_path: Path) -> None:
    run, size = tmp_path / "run", 48
    backbone = "--model.init_args.backbone.init_args"
    options = [f"--data.media.image_size={size}", "--data.media.mel=null", f"--trainer.default_root_dir={run}"]
    options += ["--data.num_workers=0", "--trainer.enable_progress_bar=false", "--trainer.accelerator=cpu"]
    if model_type is None:
        checkpoint = GOLDEN / "humanomni_small"
        towers = {"vision": "siglip-tiny", "audio": "whisper-tiny", "bert": "bert-tiny"}
        parts = [f"{backbone}.{name}={checkpoint / 'towers' / directory}" for name, directory in towers.items()]
    else:
        checkpoint = write_tiny_checkpoint(model_type, tmp_path / "tiny", [TEXT] * 20)
        parts = [f"{backbone}.image_size={size}"]
    files = [*config("trainer/default"), *config("stage/grpo"), *config("data/dfew"), *config(f"backbone/{name}")]
    main.run(
        ["fit", *files, *options, *parts, f"{backbone}.path={checkpoint}", f"--data.root={clips}"]
        + ["--data.batch_size=2", "--data.validation_fraction=0", "--model.group_size=2", "--trainer.max_steps=2"]
        + ["--model.rollout_sampling.max_new_tokens=6", f"--model.verifier={GOLDEN / 'tiny_verifier'}"]
        + ["--trainer.enable_model_summary=false"]
    )
    recipe = yaml.safe_load((ROOT / "configs" / "backbone" / f"{name}.yaml").read_text())
    recipe = recipe["model"]["init_args"]["backbone"]["init_args"]["recipes"]["grpo"]
    saved = yaml.safe_load((run / "config.yaml").read_text())["model"]["init_args"]
    assert saved["trainable"] is None and saved["backbone"]["init_args"]["recipes"]["grpo"] == recipe

    media = [str(path) for path in sorted(clips.rglob("*.mp4"))[:3]]
    folder = tmp_path / "my_clips"
    folder.mkdir()
    for path in media:
        (folder / Path(path).name).symlink_to(path)
    main.run(
        [
            "predict",
            *config(f"backbone/{name}"),
            "--data",
            "Clips",
            f"--data.path={folder}",
            "--data.follow_links=true",
            *options,
        ]
        + [*parts, f"{backbone}.path={run / 'model'}", "--model.evaluation.max_new_tokens=4"]
    )
    rows = [json.loads(line) for line in (run / "predictions.jsonl").open()]
    assert [Path(row["media"]).name for row in rows] == [Path(path).name for path in media]
    assert all(isinstance(row["completion"], str) and "failure" not in row for row in rows)
