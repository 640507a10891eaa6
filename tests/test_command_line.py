"""The command line: quick help, clear errors, and every configuration instantiated on tiny weights."""

import subprocess
import sys
from pathlib import Path

import pytest

import main
from datamodules.clip_datamodule import ClipDataModule
from lightning_modules.backbones.composed import ComposedBackbone
from lightning_modules.backbones.humanomni.backbone import HumanOmniBackbone

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[1]
CONFIGS = sorted(str(path.relative_to(ROOT / "configs").with_suffix("")) for path in (ROOT / "configs").rglob("*.yaml"))

# What each file is stacked on. A new file must be added here.
STACKS: dict[str, list[str]] = {
    "trainer/default": ["stage/cold_start", "data/emer", "backbone/composed"],
    "trainer/cpu": ["trainer/default", "stage/cold_start", "data/emer", "backbone/composed"],
    "trainer/gpu": ["trainer/default", "stage/cold_start", "data/emer", "backbone/composed"],
    "stage/cold_start": ["trainer/default", "data/emer", "backbone/composed"],
    "stage/verifier": ["trainer/default", "data/rationale_text"],
    "stage/grpo": ["trainer/default", "data/dfew", "backbone/composed"],
    "stage/grpo_accuracy": ["trainer/default", "stage/grpo", "data/dfew", "backbone/composed"],
    "stage/evaluate": ["trainer/default", "data/dfew", "backbone/composed"],
    "data/dfew": ["trainer/default", "stage/grpo", "backbone/composed"],
    "data/emer": ["trainer/default", "stage/cold_start", "backbone/composed"],
    "data/mafw": ["trainer/default", "stage/grpo", "backbone/composed"],
    "data/joint": ["trainer/default", "stage/grpo", "backbone/composed"],
    "data/merr": ["trainer/default", "stage/cold_start", "backbone/composed"],
    "data/ravdess": ["trainer/default", "stage/evaluate", "backbone/composed"],
    "data/clips": ["trainer/default", "stage/evaluate", "backbone/composed"],
    "data/rationale_text": ["trainer/default", "stage/verifier"],
    "backbone/composed": ["trainer/default", "stage/cold_start", "data/emer"],
    "backbone/humanomni": ["trainer/default", "stage/evaluate", "data/clips"],
    "backbone/humanomni_7b": ["trainer/default", "stage/evaluate", "data/clips"],
    "demo/backbone": ["trainer/default", "stage/cold_start", "data/emer", "backbone/composed", "demo/data"],
    "demo/data": ["trainer/default", "stage/cold_start", "data/emer", "backbone/composed", "demo/backbone"],
    "demo/cold_start": ["trainer/default", "stage/cold_start", "data/emer", "backbone/composed"],
    "demo/verifier": ["trainer/default", "stage/verifier", "data/rationale_text"],
    "demo/grpo": ["trainer/default", "stage/grpo", "data/dfew", "backbone/composed"],
    "demo/evaluate": ["trainer/default", "stage/evaluate", "data/dfew", "backbone/composed"],
}


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)


def test_help_lists_the_commands_and_imports_nothing_heavy() -> None:
    result = run_python(
        "import main, sys; main.main(['--help']); assert not {'torch', 'lightning', 'transformers'} & set(sys.modules)"
    )
    assert result.returncode == 0, result.stderr
    for command in ("fit", "validate", "test", "predict", "cross_validate", "inspect_data", "synthesize", "score"):
        assert f"\n  {command} " in result.stdout


def test_unknown_command_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["train"]) == 2
    assert "Unknown command 'train'" in capsys.readouterr().err


def test_tools_explain_their_options(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main.main(["score", "--help"])
    assert "JSONL file with" in capsys.readouterr().out


@pytest.mark.parametrize("name", CONFIGS)
def test_every_configuration_is_instantiated(name: str, tiny_models: Path, tmp_path: Path) -> None:
    order = ["trainer", "stage", "data", "backbone", "demo"]
    stack = sorted([*STACKS[name], name], key=lambda part: order.index(part.split("/")[0]))
    arguments = [a for part in stack for a in ("-c", str(ROOT / "configs" / f"{part}.yaml"))]
    arguments += ["--trainer.accelerator=cpu", f"--trainer.default_root_dir={tmp_path}"]
    if any("verifier.yaml" in argument for argument in arguments):
        arguments += [f"--model.path={tiny_models}/verifier"]
    elif "humanomni" in name:
        golden = ROOT / "tests" / "golden" / "humanomni_small"
        towers = {"vision": "siglip", "audio": "whisper", "bert": "bert"}
        arguments += [f"--model.backbone.{part}={golden}/towers/{tower}-tiny" for part, tower in towers.items()]
        arguments += [f"--model.backbone.path={golden}"]
    else:
        arguments += [f"--model.backbone.{p}={tiny_models}/{p}" for p in ("vision", "audio", "language_model")]
    cli = main.build_stage("fit", arguments)
    assert cli.trainer.default_root_dir == str(tmp_path)
    if hasattr(cli.model, "backbone"):
        assert isinstance(cli.model.backbone, HumanOmniBackbone if "humanomni" in name else ComposedBackbone)
        assert isinstance(cli.datamodule, ClipDataModule)
        assert cli.datamodule.media.num_frames == cli.model.backbone.num_frames


def test_missing_data_is_a_clear_error(tiny_models: Path, tmp_path: Path) -> None:
    arguments = [a for p in [*STACKS["demo/grpo"], "demo/grpo"] for a in ("-c", str(ROOT / f"configs/{p}.yaml"))]
    arguments += [f"--model.backbone.{p}={tiny_models}/{p}" for p in ("vision", "audio", "language_model")]
    arguments += [f"--model.verifier={tiny_models}/verifier", "--trainer.accelerator=cpu"]
    with pytest.raises(FileNotFoundError, match="nowhere"):
        main.main(["fit", *arguments, f"--data.root={tmp_path}/nowhere", f"--trainer.default_root_dir={tmp_path}"])
