"""Two folds of GRPO on generated clips, as a user runs them: real processes, checkpoints and tests."""

import json
from pathlib import Path

import pytest

import main
from tools.cross_validation import cross_validate

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
STACK = ["trainer/default", "trainer/cpu", "stage/grpo", "data/dfew", "backbone/composed", "demo/data", "demo/grpo"]


@pytest.fixture
def arguments(tiny_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """One step of GRPO on a DFEW of three clips per fold."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    data = tmp_path / "dfew"
    main.run(["synthesize", "--layout=dfew", f"--output={data}", "--num_clips=35", "--num_workers=1"])
    return [
        *(argument for name in STACK for argument in ("-c", str(ROOT / "configs" / f"{name}.yaml"))),
        *(f"--model.backbone.{part}={tiny_models}/{part}" for part in ("vision", "audio", "language_model")),
        *("--model.backbone.num_frames=2", "--model.backbone.video_grid=2", "--model.backbone.audio_pool=10"),
        *("--data.media.num_frames=2", "--data.media.image_size=32", "--data.media.max_audio_seconds=1"),
        *(f"--model.verifier={tiny_models}/verifier", "--model.group_size=2"),
        *("--model.rollout_sampling.max_new_tokens=4", "--model.evaluation.max_new_tokens=4"),
        *(f"--data.root={data}", "--data.batch_size=2", "--data.limit=6", "--trainer.max_steps=1"),
        *("--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"),
        f"--trainer.default_root_dir={tmp_path}/runs",
    ]


def test_folds_are_trained_tested_and_put_together(
    arguments: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    cross_validate([*arguments, "--folds", "4,5"])
    result = json.loads((tmp_path / "runs/cross_validation.json").read_text())
    printed = capfd.readouterr()
    assert " test clips of folds 4, 5 (dfew), in percent" in printed.out
    tested = {}
    for fold in (4, 5):
        run = tmp_path / "runs" / f"fold_{fold}"
        assert json.loads((run / "run.json").read_text())["optimizer_steps"] == 1
        rows = [json.loads(line) for line in (run / "test/predictions.jsonl").open()]
        tested[fold] = {int(row["id"]) for row in rows}
        listed = (tmp_path / f"dfew/EmoLabel_DataSplit/test(single-labeled)/set_{fold}.csv").read_text().split()[1:]
        assert tested[fold] <= {int(line.split(",")[0]) for line in listed}, "the fold's own clips"
        assert result["folds"][str(fold)]["num_samples"] == len(rows)
        checkpoint = next((run / "checkpoints").glob("*.ckpt"))
        assert f"Loaded model weights from the checkpoint at {checkpoint}" in printed.err
    assert not tested[4] & tested[5]
    assert result["pooled"]["num_samples"] == len(tested[4] | tested[5])
