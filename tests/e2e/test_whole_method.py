"""The whole method through `main.py`, as the demo runs it: real files, tiny models, a few steps of each stage."""

import json
from pathlib import Path

import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import main
from datamodules.synthetic.truth import read_truth
from lightning_modules.metrics.claims import prediction_truths, run_grounding
from lightning_modules.metrics.predictions import read_predictions

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
BASE = ["trainer/default", "trainer/cpu"]
POLICY = ["backbone/composed", "demo/backbone", "demo/data"]


def stack(*names: str) -> list[str]:
    return [argument for name in names for argument in ("-c", str(ROOT / "configs" / f"{name}.yaml"))]


def parts(world: Path) -> list[str]:
    return [f"--model.backbone.{part}={world}/tiny/{part}" for part in ("vision", "audio", "language_model")]


@pytest.fixture(scope="module")
def runs(world: Path) -> Path:
    """The demo's runs, a few steps each."""
    runs = world / "runs"
    short = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
    main.run(
        ["fit", *stack(*BASE, "stage/cold_start", "data/emer", *POLICY, "demo/cold_start"), *parts(world), *short]
        + [f"--data.root={world}/emer", f"--trainer.default_root_dir={runs}/cold_start"]
        + ["--data.batch_size=4", "--trainer.max_epochs=1", "--trainer.limit_train_batches=2"]
        + ["--trainer.check_val_every_n_epoch=1"]
    )
    main.run(
        ["fit", *stack(*BASE, "stage/verifier", "data/rationale_text", "demo/verifier"), *short]
        + [f"--data.train={world}/sentences/train.jsonl", f"--model.path={world}/tiny/verifier"]
        + [f"--trainer.default_root_dir={runs}/verifier", "--trainer.max_epochs=1"]
    )
    policy = f"--model.backbone.path={runs}/cold_start/model"
    for name, extra in (("grpo_accuracy", ["stage/grpo_accuracy"]), ("grpo_erv", [])):
        main.run(
            ["fit", *stack(*BASE, "stage/grpo", *extra, "data/dfew", *POLICY, "demo/grpo"), policy, *short]
            + [f"--data.root={world}/dfew", f"--model.verifier={runs}/verifier/model", "--data.batch_size=2"]
            + [f"--trainer.default_root_dir={runs}/{name}", "--trainer.max_steps=2", "--model.group_size=3"]
            + ["--model.rollout_sampling.max_new_tokens=12"]
        )
    for name in ("cold_start", "grpo_accuracy", "grpo_erv"):
        main.run(
            ["test", *stack(*BASE, "stage/evaluate", "data/dfew", *POLICY, "demo/evaluate"), *short]
            + [f"--data.root={world}/dfew", f"--model.backbone.path={runs}/{name}/model"]
            + [f"--model.verifier={runs}/verifier/model", f"--trainer.default_root_dir={runs}/{name}/test"]
            + ["--model.evaluation.max_new_tokens=12", f"--model.truth={world}/dfew/synthetic.json"]
        )
    return runs


def test_a_run_directory_holds_what_it_should(runs: Path) -> None:
    run = runs / "grpo_erv"
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["model"]["class_path"].endswith("GRPOModule") and config["seed_everything"] == 0
    assert list((run / "checkpoints").glob("*.ckpt")) and (run / "model" / "backbone.json").is_file()
    record = json.loads((run / "run.json").read_text())
    assert record["seconds"] > 0 and record["optimizer_steps"] == 2 and record["versions"]["torch"]
    assert (run / "test" / "predictions.jsonl").is_file() and (run / "test" / "metrics.json").is_file()


def test_tensorboard_has_a_curve_per_reward_and_marked_completions(runs: Path) -> None:
    tags = {}
    for name in ("grpo_accuracy", "grpo_erv"):
        events = EventAccumulator(str(runs / name))
        events.Reload()
        tags[name] = set(events.Tags()["scalars"])
        text = events.Tensors("rollouts/most_divided_group/text_summary")[0].tensor_proto.string_val[0].decode()
        assert "target" in text and "advantage" in text
        groups = {f"rollouts/{which}_group" for which in ("best", "worst", "most_divided")}
        assert groups <= set(events.Tags()["images"])
        assert "_hparams_/session_start_info" in events.summary_metadata
    rewards = {"reward/format", "reward/accuracy", "reward/explanation", "reward/total"}
    assert rewards <= tags["grpo_erv"]
    assert {f"step/{name}" for name in ("seconds", "update_seconds", "peak_memory_gib")} <= tags["grpo_erv"]
    assert tags["grpo_accuracy"] & rewards == rewards - {"reward/explanation"}


def test_predictions_follow_the_contract(runs: Path, world: Path) -> None:
    rows = [json.loads(line) for line in (runs / "grpo_erv" / "test" / "predictions.jsonl").open()]
    fold = (world / "dfew/EmoLabel_DataSplit/test(single-labeled)/set_5.csv").read_text().split()[1:]
    assert [int(row["id"]) for row in rows] == [int(line.split(",")[0]) for line in fold], "every test clip, in order"
    expected = {"id", "target", "prediction", "format", "accuracy", "explanation", "sentences"}
    assert expected | {"dataset", "media", "completion"} <= rows[0].keys()
    metrics = json.loads((runs / "grpo_erv" / "test" / "metrics.json").read_text())
    assert metrics["num_samples"] == len(rows) and metrics["judge"] == "oracle-grammar"


def test_what_is_true_of_the_clips_is_counted_alike_in_test_and_afterwards(runs: Path, world: Path) -> None:
    run = runs / "grpo_erv" / "test"
    file = read_predictions(run / "predictions.jsonl")
    truths = prediction_truths(file.predictions, file.path, read_truth(world / "dfew/synthetic.json"))
    grounding = json.loads((run / "metrics.json").read_text())["grounding"]
    assert grounding == run_grounding(file.predictions, truths, judged=True)
    assert grounding["grounded_fcr"]["denominator"] == len(truths)


def test_predictions_can_be_scored_again(runs: Path, tmp_path: Path) -> None:
    run = runs / "cold_start" / "test"
    main.run(
        ["score", "--completions", str(run / "predictions.jsonl"), "--taxonomy", "dfew", "--output", str(tmp_path)]
        + ["--verifier", str(runs / "verifier" / "model")]
    )
    again = json.loads((tmp_path / "metrics.json").read_text())
    first = json.loads((run / "metrics.json").read_text())
    assert again["war"] == first["war"] and again["num_samples"] == first["num_samples"]
    assert again["judge"] != first["judge"], "without --judge the verifier judges"


def test_summary_compares_the_runs(runs: Path, tmp_path: Path) -> None:
    names = ("cold_start", "grpo_accuracy", "grpo_erv")
    main.run(["summarize", "--output", str(tmp_path), "--runs", json.dumps({name: str(runs / name) for name in names})])
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert tuple(summary) == names
    for row in summary.values():
        assert {"war", "uar", "eea", "epc", "fcr", "num_samples", "judge", "seconds"} <= row.keys()
        assert row["grounded_fcr"] <= row["fcr"] and "grounded" in row
        assert row["judge"] == "oracle-grammar" and row["seconds"] > 0
    assert (tmp_path / "summary.png").read_bytes().startswith(b"\x89PNG")


def test_summary_of_an_untested_run_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"run `python main.py test`"):
        main.run(["summarize", "--output", str(tmp_path), "--runs", json.dumps({"x": str(tmp_path)})])


def test_validate_and_predict(runs: Path, world: Path, tmp_path: Path) -> None:
    arguments = [*stack(*BASE, "stage/evaluate", "data/dfew", *POLICY, "demo/evaluate"), f"--data.root={world}/dfew"]
    arguments += [f"--model.backbone.path={runs}/cold_start/model", f"--trainer.default_root_dir={tmp_path}"]
    arguments += ["--trainer.enable_progress_bar=false", "--model.evaluation.max_new_tokens=4"]
    main.run(["validate", *arguments])
    main.run(["predict", *arguments, "--data.limit=5"])
    rows = [json.loads(line) for line in (tmp_path / "predictions.jsonl").open()]
    assert len(rows) == 5 and all(Path(row["media"]).is_file() for row in rows)


def test_a_run_resumes_from_its_checkpoint(runs: Path, world: Path, tmp_path: Path) -> None:
    checkpoint = next((runs / "grpo_erv" / "checkpoints").glob("*.ckpt"))
    main.run(
        ["fit", *stack(*BASE, "stage/grpo", "data/dfew", *POLICY, "demo/grpo"), f"--data.root={world}/dfew"]
        + [f"--model.backbone.path={runs}/cold_start/model", f"--model.verifier={runs}/verifier/model"]
        + [f"--trainer.default_root_dir={tmp_path}", "--trainer.max_steps=3", "--model.group_size=3"]
        + ["--data.batch_size=2", "--model.rollout_sampling.max_new_tokens=12", f"--ckpt_path={checkpoint}"]
        + ["--trainer.enable_progress_bar=false"]
    )
    assert json.loads((tmp_path / "run.json").read_text())["optimizer_steps"] == 3, "two steps before, one after"
