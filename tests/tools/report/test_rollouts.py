"""What the page of a training run holds, and the command that makes it."""

import json
from pathlib import Path
from typing import Any

import pytest

import main
from lightning_modules.metrics.rollouts import Group, RolloutFile
from lightning_modules.metrics.seeds import student_quantile
from tests.rollout_groups import completion, group, write_groups
from tools.report.report import report
from tools.report.rollouts import choose_groups, step_sums

unit, e2e = pytest.mark.unit, pytest.mark.e2e


def embedded(page: Path) -> dict[str, Any]:
    return json.loads(page.read_text(encoding="utf-8").partition('id="data">')[2].partition("</script>")[0])


def run_of(num_steps: int, num_clips: int) -> list[Group]:
    """Two groups a step, each clip in turn; the reward of a group is near its number."""
    made = []
    for number in range(2 * num_steps):
        totals = [number + spread * (number % 7) for spread in (-0.1, 0.1)]
        made.append(group(number // 2, f"clip{number % num_clips}", *map(completion, totals)))
    return made


@unit
def test_all_groups_are_shown_where_there_is_room() -> None:
    groups = run_of(10, 4)
    assert choose_groups(groups, 20) == groups


@unit
def test_the_extremes_and_whole_clips_are_shown_where_there_is_not() -> None:
    groups = run_of(200, 50)
    shown = choose_groups(groups, 60)
    assert 50 < len(shown) <= 60 and [own.step for own in shown] == sorted(own.step for own in shown)
    assert set(map(id, groups[:10])) | set(map(id, groups[-10:])) <= set(map(id, shown)), "lowest and highest rewards"
    divided = sorted(groups, key=lambda own: -own.figures()["spread"])[:10]
    assert {id(own) for own in divided} <= {id(own) for own in shown}
    visits = [sum(own.id == clip for own in shown) for clip in {own.id for own in shown}]
    assert visits.count(8) >= 3, "all visits of some clips"
    assert choose_groups(groups, 60) == shown, "the same every time"


@unit
def test_sums_of_steps_by_hand() -> None:
    groups = [group(0, "a", completion(1.0), completion(3.0)), group(0, "b", completion(5.0)), group(4, "a")]
    groups[2] = group(4, "a", completion(2.0, rewards={"length": 6.0}))
    assert step_sums(groups, ["reward", "reward/length"]) == [
        {"step": 0, "sums": [[2, 7.0, 29.0], [0, 0.0, 0.0]]},
        {"step": 4, "sums": [[1, 2.0, 4.0], [1, 6.0, 36.0]]},
    ]


@e2e
def test_a_run_becomes_a_page(clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    groups = [group(step, f"clip{step % 3}", media=str(clip)) for step in range(12)]
    write_groups(tmp_path, RolloutFile(1, 0, 0, 1), groups)
    options = ["--num_frames", "1", "--num_workers", "1", "--max_groups", "6"]
    main.run(["report", "--rollouts", str(tmp_path), "--output", str(tmp_path / "out"), *options])
    data = embedded(tmp_path / "out" / "report.html")
    assert len(data["groups"]) <= 6 and data["num_groups"] == data["num_completions"] == len(data["steps"]) == 12
    assert all(own["strip"].startswith("data:image/jpeg") for own in data["clips"].values())
    assert set(data["clips"]) == {own["id"] for own in data["groups"]}
    assert data["groups"][0]["completions"][0]["sentences"][0]["relation"] == "matching"
    assert data["quantiles"][6] == pytest.approx(student_quantile(0.975, 7))
    shown = " ".join(capsys.readouterr().out.split())
    assert "of 12 groups can be looked at (--max_groups)" in shown and "Written:" in shown


@e2e
def test_what_cannot_be_reported_is_refused(tmp_path: Path) -> None:
    write_groups(tmp_path, RolloutFile(1, 0, 0, 1), [group(0, "a")])
    with pytest.raises(ValueError, match="leave --predictions, --names, --truth out"):
        report(["p.jsonl"], rollouts=str(tmp_path), output=str(tmp_path / "out"))
    with pytest.raises(ValueError, match="max_groups >= 1"):
        report(rollouts=str(tmp_path), output=str(tmp_path / "out"), max_groups=0)
    with pytest.raises(FileNotFoundError, match="There are no rollouts in"):
        report(rollouts=str(tmp_path / "elsewhere"), output=str(tmp_path / "out"))
