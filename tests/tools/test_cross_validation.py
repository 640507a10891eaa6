"""Folds put together, against hand-computed numbers; which stages are run, with a script in the place of `main.py`."""

import argparse
import json
import os
import random
import re
from pathlib import Path

import pytest
import torch
import yaml

from callbacks.checkpointing.files import best_checkpoint
from datamodules.emotions import DFEW_TAXONOMY, MAFW_TAXONOMY, Taxonomy
from lightning_modules.metrics.emotion_report import EmotionReport
from tools import program
from tools.cross_validation import StageError, aggregate, cross_validate

pytestmark = [pytest.mark.unit, pytest.mark.filterwarnings("ignore:UAR leaves out classes")]

JUDGED = ("eea", "epc", "fcr")


def report(clips: list[tuple], judge: str | None = "judge", taxonomy: Taxonomy = DFEW_TAXONOMY) -> dict:
    """`metrics.json` of clips given as (target, prediction, judged emotion)."""
    metric = EmotionReport(taxonomy, judge)
    targets, predictions, judged = zip(*clips, strict=True)
    metric.update_clips(predictions, targets, judged if judge else None)
    # Through JSON, as the tool reads it.
    return json.loads(json.dumps(metric.compute()))


def random_clips(number: int, seed: int) -> list[tuple]:
    generator = random.Random(seed)
    choices = [*DFEW_TAXONOMY.classes, None]
    return [
        (generator.choice(DFEW_TAXONOMY.classes), generator.choice(choices), generator.choice(choices))
        for _ in range(number)
    ]


FOLDS = {
    1: report(
        [
            ("happiness", "happiness", "happiness"),
            ("happiness", "happiness", "happiness"),
            ("happiness", "sadness", "happiness"),
            ("sadness", "sadness", None),
        ]
    ),
    4: report([("happiness", "sadness", "sadness"), ("sadness", None, "sadness")]),
}


def test_pooled_metrics_count_every_clip_once() -> None:
    pooled = aggregate(FOLDS)["pooled"]
    assert pooled["num_samples"] == 6
    assert pooled["war"] == 3 / 6
    assert pooled["uar"] == (2 / 4 + 1 / 2) / 2
    assert pooled["uar_answered_only"] == (2 / 4 + 1 / 1) / 2
    assert [pooled[rate] for rate in JUDGED] == [4 / 6, 3 / 6, 2 / 6]
    assert (pooled["unknown_answers"], pooled["judge_failures"], pooled["judge"]) == (1, 1, "judge")


def test_averaged_metrics_count_every_fold_once() -> None:
    result = aggregate(FOLDS)
    # WAR 3/4 and 0; UAR (2/3 + 1)/2 = 5/6 and 0; EEA 3/4 and 1/2. The deviation of two numbers is |a − b| / √2.
    assert result["mean"]["war"] == pytest.approx(3 / 8)
    assert result["mean"]["uar"] == pytest.approx(5 / 12)
    assert result["mean"]["eea"] == pytest.approx(5 / 8)
    assert result["standard_deviation"]["war"] == pytest.approx(0.75 / 2**0.5)
    assert result["standard_deviation"]["uar"] == pytest.approx(5 / 6 / 2**0.5)
    assert result["standard_deviation"]["eea"] == pytest.approx(0.25 / 2**0.5)
    assert result["folds"][4]["num_samples"] == 2
    assert result["folds"][1]["war"] == 0.75


@pytest.mark.parametrize("judge", ["judge", None])
def test_pooled_is_the_report_of_all_clips_at_once(judge: str | None) -> None:
    parts = [random_clips(number, seed) for seed, number in enumerate((97, 31, 5))]
    folds = {fold: report(clips, judge) for fold, clips in enumerate(parts, start=1)}
    assert aggregate(folds)["pooled"] == report([clip for clips in parts for clip in clips], judge)


def test_counts_of_the_test_add_up() -> None:
    folds = {fold: metrics | {"clips_without_audio": fold} for fold, metrics in FOLDS.items()}
    assert aggregate(folds)["pooled"]["clips_without_audio"] == 5


def test_clips_with_several_emotions_have_war_only() -> None:
    parts = [
        [("anger_disgust", "disgust", "anger"), ("anger_disgust", "fear", None), ("fear", "fear", "fear")],
        [("fear_surprise", None, "anger")],
    ]
    folds = {fold: report(clips, taxonomy=MAFW_TAXONOMY) for fold, clips in enumerate(parts, start=1)}
    result = aggregate(folds)
    assert result["pooled"] == report(parts[0] + parts[1], taxonomy=MAFW_TAXONOMY)
    assert result["pooled"]["war"] == 2 / 4
    assert result["mean"]["war"] == pytest.approx(1 / 3)
    assert result["mean"]["uar"] is None and result["standard_deviation"]["uar"] is None


def test_one_fold_has_no_spread() -> None:
    result = aggregate({5: FOLDS[1]})
    assert result["mean"]["war"] == result["pooled"]["war"] == 0.75
    assert result["standard_deviation"]["war"] is None


def test_folds_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(ValueError, match="no fold"):
        aggregate({})
    with pytest.raises(ValueError, match="differ in their judge .*fold 1: judge, fold 4: someone"):
        aggregate({1: FOLDS[1], 4: FOLDS[4] | {"judge": "someone"}})
    with pytest.raises(ValueError, match="differ in their taxonomy"):
        aggregate({1: FOLDS[1], 4: FOLDS[4] | {"taxonomy": "mafw"}})


def write_checkpoint(path: Path, best: str, age_seconds: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    states = {"RunRecord": {}, "ModelCheckpoint{...}": {"best_model_path": best}}
    content = {"callbacks": states, "state_dict": {"weight": torch.zeros(3)}, "global_step": 1}
    torch.save({**content, "pytorch-lightning_version": "2"}, path)
    changed = path.stat().st_mtime - age_seconds
    os.utime(path, (changed, changed))


def test_the_best_checkpoint_is_that_of_model_checkpoint(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "checkpoints/epoch=1.ckpt", best="/elsewhere/epoch=1.ckpt", age_seconds=20)
    write_checkpoint(tmp_path / "checkpoints/epoch=2.ckpt", best="/elsewhere/epoch=1.ckpt", age_seconds=10)
    assert best_checkpoint(tmp_path) == tmp_path / "checkpoints/epoch=1.ckpt"
    write_checkpoint(tmp_path / "checkpoints/last.ckpt", best="", age_seconds=0)
    assert best_checkpoint(tmp_path) == tmp_path / "checkpoints/last.ckpt"


def test_a_fit_without_checkpoint_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="There is no checkpoint in .*enable_checkpointing"):
        best_checkpoint(tmp_path)


# Stands where main.py stands: notes how it was called, and leaves the files that the stages leave.
SCRIPT = """
import json, shutil, sys
from pathlib import Path
here = Path(__file__).parent
command, *options = sys.argv[1:]
if "--print_config" in options:
    if "--broken" in options:
        sys.exit("error: --broken")
    print((here / "config.yaml").read_text())
    sys.exit()
with (here / "calls.jsonl").open("a") as file:
    print(json.dumps([command, *options]), file=file)
values = dict(option[2:].split("=", 1) for option in options)
directory = Path(values["trainer.default_root_dir"])
directory.mkdir(parents=True, exist_ok=True)
fold = values["data.init_args.fold"]
if command == "fit":
    shutil.copy(here / "some.ckpt", directory / "some.ckpt")
if (here / "fail").is_file() and (here / "fail").read_text() == f"{command} {fold}":
    sys.exit(3)
if command == "fit":
    (directory / "run.json").write_text('{"stage": "fit"}')
else:
    shutil.copy(here / f"metrics_{fold}.json", directory / "metrics.json")
"""


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Directory of a script in the place of `main.py`, configured to train on DFEW."""
    stub = tmp_path / "stub"
    stub.mkdir()
    (stub / "main.py").write_text(SCRIPT)
    for fold, metrics in FOLDS.items():
        (stub / f"metrics_{fold}.json").write_text(json.dumps(metrics))
    write_checkpoint(stub / "some.ckpt", best="some.ckpt", age_seconds=0)
    configure(stub, "lightning_modules.grpo.GRPOModule", {"fold": 5, "root": "data"})
    monkeypatch.setattr(program, "MAIN", stub / "main.py")
    return stub


def configure(stub: Path, module: str, data: dict, **trainer: object) -> None:
    config = {
        "trainer": {"default_root_dir": str(stub.parent / "runs"), **trainer},
        "model": {"class_path": module},
        "data": {"class_path": "datamodules.dfew.DFEW", "init_args": data},
    }
    (stub / "config.yaml").write_text(yaml.safe_dump(config))


def calls(stub: Path) -> list[list[str]]:
    """How the script was called since the last time."""
    file = stub / "calls.jsonl"
    lines = file.read_text().splitlines() if file.is_file() else []
    file.unlink(missing_ok=True)
    return [json.loads(line) for line in lines]


def stage(command: str, directory: Path, checkpoint: Path | None = None) -> list[str]:
    fold = (directory.parent if command == "test" else directory).name.removeprefix("fold_")
    options = ["--a=b", f"--data.init_args.fold={fold}", f"--trainer.default_root_dir={directory}"]
    return [command, *options, *([f"--ckpt_path={checkpoint}"] if checkpoint else [])]


def test_each_fold_is_trained_and_tested_once(stub: Path, capfd: pytest.CaptureFixture[str]) -> None:
    runs = stub.parent / "runs"
    one, four = runs / "fold_1", runs / "fold_4"
    cross_validate(["--a=b", "--folds", "4,1"])
    assert calls(stub) == [
        stage("fit", one),
        stage("test", one / "test", one / "some.ckpt"),
        stage("fit", four),
        stage("test", four / "test", four / "some.ckpt"),
    ]
    written = json.loads((runs / "cross_validation.json").read_text())
    assert list(written["folds"]) == ["1", "4"]
    assert written["pooled"] == aggregate(FOLDS)["pooled"]
    printed = capfd.readouterr().out
    assert "6 test clips of folds 1, 4 (dfew)" in printed and "Judge: judge." in printed
    rows = {cells[1]: cells[2:] for line in printed.splitlines() if len(cells := re.split(r"\s*[│┃]\s*", line)) > 7}
    assert rows["pooled"][:3] == ["6", "50.00", "50.00"]
    assert (rows["mean"][1], rows["± sd"][1]) == ("37.50", "53.03"), "WAR 75 and 0"

    (runs / "cross_validation.json").unlink()
    cross_validate(["--a=b", "--folds", "1,4"])
    assert calls(stub) == []
    assert json.loads((runs / "cross_validation.json").read_text()) == written


def test_an_untrained_model_is_only_tested(stub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(stub.parent))
    configure(stub, "lightning_modules.policy.PolicyModule", {"fold": 5}, default_root_dir="~/runs")
    cross_validate(["--a=b", "--folds=4"])
    assert calls(stub) == [stage("test", stub.parent / "runs/fold_4/test")]


@pytest.mark.parametrize("command", ["fit", "test"])
def test_a_failed_fold_goes_on_where_it_stopped(stub: Path, command: str) -> None:
    four = stub.parent / "runs" / "fold_4"
    (stub / "fail").write_text(f"{command} 4")
    with pytest.raises(StageError, match=f"Fold 4: `{command}` ended with status 3.*{four}"):
        cross_validate(["--a=b", "--folds=1,4"])
    assert not (stub.parent / "runs/cross_validation.json").exists()
    assert len(calls(stub)) == (3 if command == "fit" else 4)

    (stub / "fail").unlink()
    cross_validate(["--a=b", "--folds=1,4"])
    expected = [stage("fit", four, four / "some.ckpt")] if command == "fit" else []
    assert calls(stub) == [*expected, stage("test", four / "test", four / "some.ckpt")]


def test_folds_of_another_configuration_are_not_mixed(stub: Path) -> None:
    cross_validate(["--folds=1"])
    configure(stub, "lightning_modules.grpo.GRPOModule", {"fold": 2, "root": "data"})
    cross_validate(["--folds=1"])
    configure(stub, "lightning_modules.grpo.GRPOModule", {"fold": 5, "root": "data"}, max_epochs=3)
    with pytest.raises(ValueError, match="another configuration .trainer.max_epochs: None → 3.*another --trainer"):
        cross_validate(["--folds=1"])
    (stub.parent / "runs/cross_validation.yaml").unlink()
    with pytest.raises(ValueError, match=r"has folds but no cross_validation\.yaml"):
        cross_validate(["--folds=1"])


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        ("data", {"class_path": "datamodules.emer.EMER", "init_args": {}}, "EMER has no option `fold`"),
        ("data", None, "no data. Stack one of configs/data/"),
        ("model", None, "no model. Stack one of configs/stage/"),
        ("trainer", {"default_root_dir": None}, "Give --trainer.default_root_dir"),
    ],
)
def test_what_cannot_be_cross_validated_is_refused(stub: Path, part: str, value: dict | None, message: str) -> None:
    config = yaml.safe_load((stub / "config.yaml").read_text())
    (stub / "config.yaml").write_text(yaml.safe_dump({**config, part: value}))
    with pytest.raises(ValueError, match=message):
        cross_validate([])
    assert calls(stub) == [] and not (stub.parent / "runs").exists()


def test_options_that_fit_refuses_stop_before_the_first_fold(stub: Path) -> None:
    with pytest.raises(StageError, match="`fit` refuses these options"):
        cross_validate(["--broken"])
    assert calls(stub) == []


@pytest.mark.parametrize("folds", ["-1,0", "1,1", "one", "", "1,"])
def test_folds_are_different_numbers(folds: str) -> None:
    with pytest.raises(argparse.ArgumentError, match="expected different fold numbers, such as 1,2,3"):
        cross_validate([f"--folds={folds}"])


def test_help_explains(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        cross_validate(["-h"])
    printed = capsys.readouterr().out
    assert "--folds" in printed and "cross_validation.json" in printed
