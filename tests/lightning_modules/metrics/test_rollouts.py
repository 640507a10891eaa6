"""Rollouts read back: what was written, what a resumed or killed run left, and what is refused."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from datamodules.emotions import DFEW_TAXONOMY
from lightning_modules.metrics.rollouts import RolloutFile, read_rollouts
from tests.rollout_groups import completion, group, write_groups

pytestmark = pytest.mark.unit

FIRST = RolloutFile(1, 0, 0, 1)


def steps(run: Path) -> list[tuple[int, str]]:
    return [(own.step, own.id) for own in read_rollouts(run).groups]


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    odd = completion(2.5, "Half \ud83d\u2028of it.", rewards={"judge": 0.25, "accuracy": 1}, prediction=None)
    groups = [group(0, "a", odd), group(0, "b", transcript="Ha!", target="happiness_sadness")]
    write_groups(tmp_path, FIRST, groups, [group(1, "a")])
    run = read_rollouts(tmp_path)
    assert run.taxonomy == DFEW_TAXONOMY and not run.notes
    assert run.groups[1:] == (groups[1], group(1, "a"))
    assert run.groups[0].completions[0].sentences[0].text == "Half \ufffd\u2028of it."
    assert run.groups[0].completions[0].rewards == {"judge": 0.25, "accuracy": 1}


def test_figures_of_a_group() -> None:
    own = group(
        0,
        "a",
        completion(1.0, "One.", tokens=4, rewards={"accuracy": 1.0, "judge": 0.75}),
        completion(3.0, "Two.", tokens=8, prediction="anger", rewards={"accuracy": 0.0, "judge": 0.5}),
        completion(1.0, "One.", tokens=9, truncated=True, rewards={"accuracy": 1.0, "judge": 0.75}),
        completion(3.0, "One.", tokens=7, prediction=None, rewards={"accuracy": 0.0, "judge": 1.0}),
    )
    assert own.figures() == {
        "reward": 2.0, "spread": 1.0, "reward/accuracy": 0.5, "reward/judge": 0.75,
        "right": 0.5, "distinct": 0.5, "tokens": 7.0, "truncated": 0.25,
    }  # fmt: skip


def test_steps_that_a_resumed_run_made_again_are_there_once(tmp_path: Path) -> None:
    for rank in (0, 1):  # of two processes, steps 0 to 3; resumed at 2 on one, up to 3; and at 3 on two
        made = [[group(step, f"first {rank}")] for step in range(4)]
        write_groups(tmp_path, RolloutFile(1, 0, rank, 1), *made)
    write_groups(tmp_path, RolloutFile(2, 2, 0, 1), [group(2, "second")], [group(3, "second")])
    write_groups(tmp_path, RolloutFile(3, 3, 1, 1), [group(3, "third")])
    assert steps(tmp_path) == [
        (0, "first 0"), (0, "first 1"), (1, "first 0"), (1, "first 1"), (2, "second"), (3, "third"),
    ]  # fmt: skip


def test_an_earlier_step_than_the_one_before_wins(tmp_path: Path) -> None:
    write_groups(tmp_path, RolloutFile(1, 0, 0, 1), *([group(step, "first")] for step in range(3)))
    write_groups(tmp_path, RolloutFile(2, 2, 0, 1), [group(2, "second")])
    write_groups(tmp_path, RolloutFile(3, 1, 0, 1), [group(1, "third")])
    assert steps(tmp_path) == [(0, "first"), (1, "third")]


@pytest.mark.parametrize("left", [1, 2, 9, -60, -9, -1])
def test_a_run_killed_while_it_wrote_loses_only_that_step(tmp_path: Path, left: int) -> None:
    whole = write_groups(tmp_path, FIRST, [group(0, "a"), group(0, "b")]).stat().st_size
    path = write_groups(tmp_path, FIRST, [group(1, "c")])
    content = path.read_bytes()
    path.write_bytes(content[:whole] + content[whole:][:left])
    assert steps(tmp_path)[:2] == [(0, "a"), (0, "b")]
    write_groups(tmp_path, RolloutFile(2, 1, 0, 1), [group(1, "d")])
    assert steps(tmp_path) == [(0, "a"), (0, "b"), (1, "d")]
    assert read_rollouts(tmp_path).notes == (
        "1 of 2 files end in the middle of a step, as a killed run leaves them.",
    )  # fmt: skip


def test_dropped_files_are_counted(tmp_path: Path) -> None:
    for number in (1, 5, 6):
        write_groups(tmp_path, RolloutFile(1, 0, 0, number), [group(number, "a")])
    (note,) = read_rollouts(tmp_path).notes
    assert note.startswith("3 files between the first and the last ones were dropped")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"step": "1"}, r'step is "1"; expected int'),
        ({"step": True}, "step is true; expected int"),
        ({"target": "bliss"}, 'target is "bliss"; expected one of dfew'),
        ({"completions": []}, r"completions is \[\]; expected at least one"),
        ({"completions": ["x"]}, 'got "x"; expected an object'),
        ({"completions": {}}, "completions is {}; expected list"),
        ({"taxonomy": "mafw"}, "expected the taxonomy dfew, as before"),
        (
            {"completions": [vars(completion()) | {"rewards": own, "sentences": []} for own in ({}, {"length": 1})]},
            "the completions have different rewards",
        ),
        ({"transcript": 3}, "transcript is 3; expected str or null"),
    ],
)
def test_a_malformed_line_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = write_groups(tmp_path, FIRST, [group(0, "a")])
    line = json.dumps(json.loads(json.dumps(group(1, "b").row(DFEW_TAXONOMY), default=vars)) | change)
    path.write_bytes(path.read_bytes() + gzip.compress(f"{line}\n".encode()))
    with pytest.raises(ValueError, match=rf"rank000-00001.jsonl.gz:2: .*{message}"):
        read_rollouts(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"total": None}, "total is null; expected int or float"),
        ({"rewards": {"accuracy": "1"}}, 'accuracy is "1"; expected int or float'),
        ({"prediction": "bliss"}, 'prediction is "bliss"'),
        ({"truncated": 0}, "truncated is 0; expected bool"),
        ({"sentences": [{"text": "A.", "emotions": [1]}]}, r"emotions is \[1\]; expected names"),
    ],
)
def test_a_malformed_completion_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    row = json.loads(json.dumps(group(0, "a").row(DFEW_TAXONOMY), default=vars))
    row["completions"][0] |= change
    path = write_groups(tmp_path, FIRST)
    path.write_bytes(gzip.compress(f"{json.dumps(row)}\n".encode()))
    with pytest.raises(ValueError, match=rf"jsonl.gz:1: .*{message}"):
        read_rollouts(tmp_path)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = write_groups(tmp_path, FIRST, [group(0, "a")], [group(1, "b")])
    content = bytearray(path.read_bytes())
    content[-8] ^= 1  # of the checksum
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"rank000-00001.jsonl.gz:\d: damaged \(CRC check failed"):
        read_rollouts(tmp_path)


def test_a_run_without_rollouts(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="There are no rollouts in .* stage 3 that has made a step"):
        read_rollouts(tmp_path)
    write_groups(tmp_path, FIRST, []).write_bytes(b"\x1f\x8b")
    with pytest.raises(ValueError, match="has 1 files, and no whole line in them"):
        read_rollouts(tmp_path)
