"""Checkpoint files: whole or absent, verified, found again."""

import os
import random
import resource
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch

from callbacks.checkpointing.files import (
    CheckpointError,
    CheckpointFiles,
    best_checkpoint,
    newest_checkpoint,
    own_checkpoints,
    resolve,
)

pytestmark = pytest.mark.unit

STATE = {
    "state_dict": {"weight": torch.arange(10_000, dtype=torch.float32)},
    "callbacks": {},
    "global_step": 1,
    "pytorch-lightning_version": "2",
}


def write(path: Path, age: int = 0, **state: object) -> Path:
    CheckpointFiles().save_checkpoint({**STATE, **state}, path)
    os.utime(path, (10**9 - age, 10**9 - age))
    return path


def test_what_is_written_is_read(tmp_path: Path) -> None:
    read = CheckpointFiles().load_checkpoint(write(tmp_path / "a" / "x.ckpt"))
    assert torch.equal(read["state_dict"]["weight"], STATE["state_dict"]["weight"])


@pytest.mark.parametrize("damage", ["cut", "changed", "empty"])
def test_a_damaged_checkpoint_is_refused(tmp_path: Path, damage: str) -> None:
    path = write(tmp_path / "x.ckpt")
    content = bytearray(path.read_bytes())
    if damage == "changed":
        content[len(content) // 2] ^= 1  # one bit of one weight
    path.write_bytes({"cut": content[:-100], "changed": content, "empty": b""}[damage])
    with pytest.raises(CheckpointError, match=r"x.ckpt is damaged \(.*--ckpt_path FILE"):
        CheckpointFiles().load_checkpoint(path)


def test_code_in_a_checkpoint_does_not_run(tmp_path: Path) -> None:
    class Malicious:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "pwned"),)

    path = write(tmp_path / "x.ckpt", payload=Malicious())
    with pytest.raises(Exception, match="more than tensors and plain values"):
        CheckpointFiles().load_checkpoint(path, weights_only=True)
    assert not (tmp_path / "pwned").exists()


def _write_on_a_full_disk(path: Path) -> None:
    # The file may not grow beyond 1 KiB, which the kernel reports as it reports a full disk.
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))
    try:
        write(path)
    except CheckpointError as error:
        os._exit(0 if "Cannot write the checkpoint" in str(error) and "GiB" in str(error) else 2)
    os._exit(1)


def test_a_full_disk_is_reported_and_leaves_the_last_good_checkpoint(tmp_path: Path) -> None:
    good = write(tmp_path / "step=1.ckpt")
    process = get_context("fork").Process(target=_write_on_a_full_disk, args=(tmp_path / ".partial-step=2.ckpt",))
    process.start()
    process.join(60)
    assert process.exitcode == 0
    assert [path.name for path in tmp_path.iterdir()] == [good.name], "nothing half-written is left"
    CheckpointFiles().load_checkpoint(good)


def test_the_newest_whole_checkpoint_is_last(tmp_path: Path) -> None:
    assert resolve("last", tmp_path) is None, "a first start"
    with pytest.raises(FileNotFoundError, match="There is no checkpoint in"):
        resolve("last", tmp_path, may_start=False)
    run = tmp_path / "checkpoints"
    newest = write(run / "step=00000100.ckpt", age=2)
    write(run / "step=00000099.ckpt", age=1)  # copied later, or while the clock was wrong
    write(run / ".partial-step=00000101.ckpt")
    write(run / "best-step=101.ckpt")  # ModelCheckpoint's
    assert newest_checkpoint(tmp_path) == newest and list(own_checkpoints(run)) == [99, 100]
    assert resolve("last", tmp_path) == resolve("last", tmp_path, may_start=False) == str(newest)
    assert resolve("a.ckpt", tmp_path) == "a.ckpt" and resolve(None, tmp_path) is None


def test_without_own_checkpoints_the_most_steps_count(tmp_path: Path) -> None:
    newest = write(tmp_path / "checkpoints" / "epoch=9-step=100.ckpt", age=1)
    write(tmp_path / "checkpoints" / "epoch=8-step=90.ckpt")
    assert newest_checkpoint(tmp_path) == newest


def test_the_best_is_that_of_the_monitor(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="There is no checkpoint in"):
        best_checkpoint(tmp_path)
    best = write(tmp_path / "checkpoints" / "best.ckpt")
    newest = write(tmp_path / "checkpoints" / "step=00000002.ckpt", age=1)
    assert best_checkpoint(tmp_path) == newest, "nothing is monitored"
    write(newest, callbacks={"RunCheckpoint": {}, "ModelCheckpoint": {"best_model_path": "/elsewhere/best.ckpt"}})
    assert resolve("best", tmp_path) == str(best)


@pytest.mark.parametrize("content", [[1], {"state_dict": {}}, {"weight": torch.zeros(2)}])
def test_what_is_no_checkpoint_is_said(tmp_path: Path, content: object) -> None:
    path = tmp_path / "checkpoints" / "step=00000001.ckpt"
    path.parent.mkdir()
    torch.save(content, path)
    for read in (lambda: CheckpointFiles().load_checkpoint(path), lambda: best_checkpoint(tmp_path)):
        with pytest.raises(CheckpointError, match=r"00001.ckpt is no checkpoint of a run: it lacks global_step"):
            read()
    for damaged in (b"", path.read_bytes()[:100]):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"step=00000001.ckpt"):
            best_checkpoint(tmp_path)


def test_a_damaged_directory_of_the_archive_is_named(tmp_path: Path) -> None:
    """A bit of it, whatever Python's or torch's reader makes of that."""
    whole = write(tmp_path / "step=1.ckpt").read_bytes()
    start = whole.index(b"PK\x01\x02")
    generator = random.Random(0)
    refused = 0
    for _ in range(60):
        damaged = bytearray(whole)
        damaged[generator.randrange(start, len(whole))] ^= 1 << generator.randrange(8)
        (tmp_path / "damaged.ckpt").write_bytes(damaged)
        try:
            CheckpointFiles().load_checkpoint(tmp_path / "damaged.ckpt")  # some bits mean nothing
        except CheckpointError as error:
            refused += "damaged.ckpt" in str(error)
    assert refused > 20
