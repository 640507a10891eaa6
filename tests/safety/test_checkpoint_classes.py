"""A checkpoint that names a class for the command line to build."""

import json
from pathlib import Path

import pytest

import main
from callbacks.checkpointing.files import CheckpointFiles
from lightning_modules.verifier import VerifierModule

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]


def test_a_checkpoint_cannot_name_a_class(tmp_path: Path, mark: Path, verifier: Path) -> None:
    """Lightning's command line can take a module's class and arguments from a checkpoint."""
    planted = {"_class_path": "pathlib.Path.touch", "_instantiator": "os.system", "path": f"touch {mark}"}
    CheckpointFiles().save_checkpoint({"state_dict": {}, "hyper_parameters": planted}, tmp_path / "planted.ckpt")
    (tmp_path / "train.jsonl").write_text(json.dumps({"text": "He smiles.", "emotions": ["joy"]}))
    files = [argument for name in ("stage/verifier", "data/rationale_text") for argument in ("-c", f"{name}.yaml")]
    files = [str(ROOT / "configs" / argument) if argument != "-c" else argument for argument in files]
    cli = main.build_stage(
        "fit",
        [*files, f"--data.train={tmp_path / 'train.jsonl'}", f"--model.path={verifier}", "--trainer.accelerator=cpu"]
        + [f"--ckpt_path={tmp_path / 'planted.ckpt'}", "--trainer.logger=false"],
    )
    assert type(cli.model) is VerifierModule and cli.model.path == str(verifier)
