"""The exported model: whole or absent, and as readable as other files."""

import os
import resource
from multiprocessing import get_context
from pathlib import Path

import pytest
from lightning import Trainer

from callbacks.export import ExportCallback, ExportError
from lightning_modules.verifier import VerifierModule

pytestmark = pytest.mark.unit

TINY = Path(__file__).parents[1] / "golden/tiny_verifier"


def export(run: Path) -> None:
    trainer = Trainer(accelerator="cpu", default_root_dir=run, logger=False, enable_progress_bar=False)
    ExportCallback().on_fit_end(trainer, VerifierModule(str(TINY)))


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_files_have_the_permissions_that_others_get(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        export(tmp_path)
    finally:
        assert os.umask(before) == mask
    modes = {file.name: file.stat().st_mode & 0o777 for file in (tmp_path / "model").iterdir()}
    assert "model.safetensors" in modes and set(modes.values()) == {0o666 & ~mask}


def _export_on_a_full_disk(run: Path) -> None:
    # No file may grow beyond 16 KiB, which the kernel reports as it reports a full disk.
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**14, 2**14))
    try:
        export(run)
    except ExportError as error:
        os._exit(0 if "Cannot write the model" in str(error) and "--ckpt_path last" in str(error) else 2)
    os._exit(1)


def test_a_full_disk_leaves_the_earlier_model(tmp_path: Path) -> None:
    export(tmp_path)
    before = {file.name: file.read_bytes() for file in (tmp_path / "model").iterdir()}
    process = get_context("fork").Process(target=_export_on_a_full_disk, args=(tmp_path,))
    process.start()
    process.join(60)
    assert process.exitcode == 0
    assert [path.name for path in tmp_path.iterdir()] == ["model"], "nothing half-written is left"
    assert {file.name: file.read_bytes() for file in (tmp_path / "model").iterdir()} == before
