"""What a study says of its arms: table, JSON and page from the folders of finished jobs."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from torch.utils.tensorboard import SummaryWriter

from datamodules.files.writing import write_json, write_rows, write_text
from lightning_modules.metrics.seeds import nested_difference
from tools.study.command import report, run_study
from tools.study.figures import compare_arms, design, read_test
from tools.study.plan import make_plan, read_study
from tools.study.runner import Pool, Run

pytestmark = pytest.mark.unit

STUDY = """
seeds: [0, 1, 2]
result: test
baselines: [plain]
figures: {depth: inner.depth}
curves: {train: [reward/total]}
jobs: {train: fit, test: {run: "test {train}", folder: "{train}/test"}}
arms: {plain: , better: {add: {train: more}}, <b>worse: {add: {train: less}}}
"""
RATES = {"plain": 0.5, "better": 0.9, "<b>worse": 0.2}
EMOTIONS = ("anger", "fear")


def write_test(folder: Path, rate: float, seed: int, media: str) -> None:
    """Predictions of 40 clips, right at a rate; the rationale agrees with the answer."""
    rng = np.random.default_rng([seed, int(100 * rate)])
    rows = []
    for i in range(40):
        target = EMOTIONS[i % 2]
        said = target if rng.random() < rate else EMOTIONS[1 - i % 2]
        scores = {"format": 1.0, "accuracy": float(said == target), "explanation": None, "sentences": []}
        judged = {"judged": said, "judge": "someone", "taxonomy": "dfew"}
        rows.append({"id": str(i), "target": target, "prediction": said, **scores, **judged, "media": f"{media}/{i}"})
    write_rows(folder / "predictions.jsonl", rows)
    write_json(folder / "metrics.json", {"inner": {"depth": rate}})


@pytest.fixture
def studied(tmp_path: Path) -> Callable:
    """The result of a study whose jobs are done, but for those of `failed`."""

    def make(media: str, seeds: str = "[0, 1, 2]", failed: str = ""):
        write_text(tmp_path / "study.yaml", [STUDY.replace("[0, 1, 2]", seeds)])
        study = read_study(tmp_path / "study.yaml")
        plan = make_plan(study, tmp_path / "out")
        runs = {folder: Run(job, False, "done", seconds=1.0) for folder, job in plan.jobs.items()}
        for (arm, seed), folders in plan.folders.items():
            folder = tmp_path / "out" / folders["test"]
            write_test(folder, RATES[arm], seed, media.format(seed=seed))
            if f"{arm}/{seed}" == failed:
                runs[folders["test"]].status = "failed"
            with SummaryWriter(str(tmp_path / "out" / folders["train"])) as writer:
                for step in range(3):
                    writer.add_scalar("reward/total", RATES[arm] * step, step)
        report(study, plan, runs, "A <study>", Console(quiet=True))
        return json.loads((tmp_path / "out/study.json").read_text())

    return make


def test_seeds_with_clips_of_their_own(studied, tmp_path: Path) -> None:
    result = studied("clips_{seed}")
    assert result["design"] == "own clips"
    wars = {arm: [own["war"] for own in result["arms"][arm]["seeds"].values()] for arm in ("plain", "better")}
    expected = nested_difference(np.array(wars["better"]) - np.array(wars["plain"]))
    found = result["differences"]["plain"]["better"]["war"]
    assert found["value"] == pytest.approx(np.mean(wars["better"]) - np.mean(wars["plain"]))
    assert (found["low"], found["high"]) == (expected.difference.low, expected.difference.high)
    other = result["differences"]["plain"]["<b>worse"]["war"]
    smaller, larger = sorted((found, other), key=lambda one: one["p_value"])
    assert smaller["p_holm"] == pytest.approx(min(1, 2 * smaller["p_value"])) and larger["p_holm"] <= 1
    assert result["arms"]["better"]["mean"]["depth"] == pytest.approx(0.9), "a figure of the study's own"


def test_all_seeds_with_the_same_clips(studied) -> None:
    result = studied("clips")
    found = result["differences"]["plain"]["better"]
    assert result["design"] == "shared clips" and found["war"]["low"] > 0
    assert {"war", "uar", "eea", "epc", "fcr"} == set(found), "of a figure without clips there is no interval"
    assert found["uar"]["value"] == pytest.approx(found["war"]["value"]), "balanced classes"


def test_one_seed_has_the_clips_interval(studied, tmp_path: Path) -> None:
    result = studied("clips", "[1]")
    found = result["differences"]["plain"]["better"]["fcr"]
    assert result["design"] == "one seed" and found["num_seeds"] == 1 and found["low"] > 0
    said = (tmp_path / "out/study.md").read_text()
    assert "say nothing of another training" in said and "bootstrap" not in said, "they are score intervals"


def test_a_failed_arm_is_counted_and_the_rest_compared(studied, tmp_path: Path) -> None:
    result = studied("clips_{seed}", failed="better/1")
    assert list(result["arms"]["better"]["seeds"]) == ["0", "2"]
    assert result["differences"]["plain"]["better"]["war"]["num_seeds"] == 2
    assert "better<br>(without 1)" in (tmp_path / "out/study.md").read_text()


def test_an_arm_that_only_one_seed_is_left_of_says_so(studied, tmp_path: Path) -> None:
    result = studied("clips_{seed}", "[0, 1]", failed="better/1")
    assert result["differences"]["plain"]["better"]["war"]["num_seeds"] == 1
    said = (tmp_path / "out/study.md").read_text()
    assert "| better<br>(1 of 2 seeds)<br>(clips' interval) |" in said and "worse |" in said


def test_clips_shared_in_part_are_refused(studied, tmp_path: Path) -> None:
    for seed, media in ((0, "a"), (1, "b")):
        write_test(tmp_path / str(seed), 0.5, seed, media)
    rows = (tmp_path / "0/predictions.jsonl").read_text().splitlines()[:5]
    (tmp_path / "1/predictions.jsonl").write_text("\n".join(rows) + "\n")
    tests = {seed: read_test(tmp_path / str(seed), None, {}) for seed in (0, 1)}
    with pytest.raises(ValueError, match="the same in part"):
        design({"plain": tests})
    assert compare_arms({"plain": tests}, "plain", "own clips") == {}


def test_the_page_is_one_file_that_runs_nothing(studied, tmp_path: Path) -> None:
    studied("clips_{seed}")
    page = (tmp_path / "out/study.html").read_text()
    assert "<b>" not in page and "&lt;b&gt;worse" in page and "A &lt;study&gt;" in page
    assert page.count("data:image/png;base64,") == 3, "differences of six figures, and curves"
    assert "<script" not in page and "http" not in page.replace("http-equiv", "")
    assert "python main.py fit more" in page


def test_a_missing_figure_is_named(tmp_path: Path) -> None:
    write_test(tmp_path, 0.5, 0, "clips")
    with pytest.raises(ValueError, match=r"metrics.json: inner.width is 'missing'. Expected a number"):
        read_test(tmp_path, None, {"width": "inner.width"})


def test_a_result_of_score_is_read_alike(tmp_path: Path) -> None:
    write_test(tmp_path, 0.5, 0, "clips")
    of_test = read_test(tmp_path, None, {})
    (tmp_path / "predictions.jsonl").rename(tmp_path / "rows.jsonl")
    of_score = read_test(tmp_path, None, {})
    assert (of_score.clips, of_score.figures) == (of_test.clips, of_test.figures)
    (tmp_path / "rows.jsonl").unlink()
    with pytest.raises(FileNotFoundError, match=r"predictions\.jsonl"):
        read_test(tmp_path, None, {})


def test_an_interrupted_study_says_how_to_go_on(tmp_path: Path, capsys, monkeypatch) -> None:
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Pool, "run", interrupted)
    write_text(tmp_path / "study.yaml", ["seeds: [0]", "result: a", "jobs: {a: fit}", "arms: {x: }"])
    with pytest.raises(SystemExit) as ended:
        run_study(["-c", str(tmp_path / "study.yaml"), "--output", str(tmp_path / "out")])
    assert ended.value.code == 130 and "The same command goes on" in capsys.readouterr().out


def test_the_command_says_which_jobs_failed(tmp_path: Path, capsys, monkeypatch) -> None:
    write_text(tmp_path / "study.yaml", ["seeds: [0]", "result: a", "jobs: {a: no_such_command}", "arms: {x: }"])
    with pytest.raises(RuntimeError, match=r"1 of 1 jobs failed \(seed_0/a\), and 0 that need them were left out"):
        run_study(["-c", str(tmp_path / "study.yaml"), "--output", str(tmp_path / "out")])
    out = capsys.readouterr().out
    assert "seed_0/a failed with status 2" in out and "There is no command 'no_such_command'" in out


def test_a_negative_number_of_workers_is_refused(tmp_path: Path) -> None:
    write_text(tmp_path / "study.yaml", ["seeds: [0]", "result: a", "jobs: {a: fit}", "arms: {x: }"])
    with pytest.raises(ValueError, match="--num_workers is -1. Expected a number of jobs, or 0"):
        run_study(["-c", str(tmp_path / "study.yaml"), "--output", str(tmp_path / "out"), "--num_workers", "-1"])
