"""The command line: quick help, clear errors, and every configuration instantiated on tiny weights."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from lightning import LightningDataModule

import main
from datamodules.clip_datamodule import ClipDataModule
from datamodules.clip_source import ClipSource
from tests.tiny_checkpoints import write_tiny_checkpoint
from tools.stage_cli import name_classes_first

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[1]
CONFIGS = sorted(
    str(path.relative_to(ROOT / "configs").with_suffix(""))
    for path in (ROOT / "configs").rglob("*.yaml")
    if path.relative_to(ROOT / "configs").parts[0]
    not in ("study", "taxonomy")  # which are no configurations of a stage
)

# `model_type` and frame size of the tiny checkpoint that stands for each model of transformers.
HF_BACKBONES = {
    "gemma3n": ("gemma3n", 48),
    "gemma4": ("gemma4", 48),
    "idefics3": ("idefics3", 48),
    "internvl3": ("internvl", 48),
    "llava_onevision": ("llava_onevision", 44),
    "phi4_multimodal": ("phi4_multimodal", 48),
    "qwen2_5_omni": ("qwen2_5_omni", 48),
    "qwen2_5_vl": ("qwen2_5_vl", 48),
    "qwen2_audio": ("qwen2_audio", 48),
    "qwen3_5": ("qwen3_5", 48),
    "qwen3_omni": ("qwen3_omni_moe", 48),
    "qwen3_vl": ("qwen3_vl", 48),
    "smolvlm2": ("smolvlm", 48),
}

TRAINERS = ["cpu", "gpu", "bf16_mixed", "bf16_true", "fp16_mixed", "deterministic"]
TRAINERS += ["ddp", "fsdp2", "deepspeed_zero2", "deepspeed_zero3"]

TRACKERS = ("csv", "mlflow", "wandb")

# What each file is stacked on. A new file must be added here.
STACKS: dict[str, list[str]] = {
    "trainer/default": ["stage/cold_start", "data/emer", "backbone/composed"],
    **{f"trainer/{n}": ["trainer/default", "stage/cold_start", "data/emer", "backbone/composed"] for n in TRAINERS},
    "stage/cold_start": ["trainer/default", "data/emer", "backbone/composed"],
    "stage/verifier": ["trainer/default", "data/rationale_text"],
    "stage/grpo": ["trainer/default", "data/dfew", "backbone/composed"],
    "stage/grpo_explanation": ["trainer/default", "stage/grpo", "data/dfew", "backbone/composed"],
    "stage/grpo_grounding": ["trainer/default", "stage/grpo", "data/dfew", "backbone/composed"],
    "stage/grpo_accuracy": ["trainer/default", "stage/grpo", "data/dfew", "backbone/composed"],
    "stage/evaluate": ["trainer/default", "data/dfew", "backbone/composed"],
    "stage/ablation": ["trainer/default", "stage/evaluate", "data/dfew", "backbone/composed"],
    "stage/best_fcr": ["trainer/default", "stage/grpo", "data/dfew", "backbone/composed"],
    "data/dfew": ["trainer/default", "stage/grpo", "backbone/composed"],
    "data/emer": ["trainer/default", "stage/cold_start", "backbone/composed"],
    "data/mafw": ["trainer/default", "stage/grpo", "backbone/composed"],
    "data/joint": ["trainer/default", "stage/grpo", "backbone/composed"],
    "data/merr": ["trainer/default", "stage/cold_start", "backbone/composed"],
    "data/ravdess": ["trainer/default", "stage/evaluate", "backbone/composed"],
    **{f"data/{n}": ["trainer/default", "stage/grpo", "backbone/composed"] for n in ("iemocap", "meld", "mer")},
    "data/cremad": ["trainer/default", "stage/evaluate", "backbone/composed"],
    "data/clips": ["trainer/default", "stage/evaluate", "backbone/composed"],
    "data/manifest": ["trainer/default", "stage/grpo", "backbone/composed"],
    "data/rationale_text": ["trainer/default", "stage/verifier"],
    "data/goemotions": ["trainer/default", "stage/verifier"],
    "sections/context_visual_audio": ["trainer/default", "stage/grpo", "data/dfew", "backbone/composed"],
    "backbone/composed": ["trainer/default", "stage/cold_start", "data/emer"],
    "backbone/humanomni": ["trainer/default", "stage/evaluate", "data/clips"],
    "backbone/humanomni_7b": ["trainer/default", "stage/evaluate", "data/clips"],
    **{f"backbone/{name}": ["trainer/default", "stage/grpo", "data/dfew"] for name in HF_BACKBONES},
    **{f"tracker/{n}": ["trainer/default", "stage/cold_start", "data/emer", "backbone/composed"] for n in TRACKERS},
    "demo/backbone": ["trainer/default", "stage/cold_start", "data/emer", "backbone/composed", "demo/data"],
    "demo/data": ["trainer/default", "stage/cold_start", "data/emer", "backbone/composed", "demo/backbone"],
    "demo/cold_start": ["trainer/default", "stage/cold_start", "data/emer", "backbone/composed"],
    "demo/verifier": ["trainer/default", "stage/verifier", "data/rationale_text"],
    "demo/grpo": ["trainer/default", "stage/grpo", "data/dfew", "backbone/composed"],
    **{f"paper/{stage}_{size}": [] for stage in ("cold_start", "grpo") for size in ("0.5b", "7b")},
    "real/backbone": ["trainer/default", "stage/cold_start", "data/emer", "backbone/composed", "demo/data"],
    "real/cold_start": ["trainer/default", "stage/cold_start", "data/emer", "backbone/composed"],
    "real/grpo": ["trainer/default", "stage/grpo", "data/dfew", "backbone/composed"],
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
    assert capsys.readouterr().err == "error: There is no command 'train'. `python main.py --help` lists them.\n"


def test_tools_explain_their_options(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main.main(["score", "--help"])
    assert "JSONL file with" in capsys.readouterr().out


@pytest.fixture
def no_corpora(monkeypatch: pytest.MonkeyPatch) -> None:
    """The corpora that configurations name are not here: nothing is read of them."""
    monkeypatch.setattr(ClipSource, "read_splits", lambda self: {})


def stack(*names: str) -> list[str]:
    return [argument for name in names for argument in ("-c", str(ROOT / "configs" / f"{name}.yaml"))]


def golden_humanomni() -> list[str]:
    golden = ROOT / "tests" / "golden" / "humanomni_small"
    towers = {"vision": "siglip", "audio": "whisper", "bert": "bert"}
    parts = [f"--model.backbone.{part}={golden}/towers/{tower}-tiny" for part, tower in towers.items()]
    return [f"--model.backbone.path={golden}", *parts]


@pytest.mark.usefixtures("no_corpora")
@pytest.mark.parametrize("name", CONFIGS)
def test_every_configuration_is_instantiated(
    name: str, tiny_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path}/mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    order = [
        "trainer",
        "tracker",
        "stage",
        "data",
        "backbone",
        "demo",
        "paper",
        "real",
        "sections",
        "trainer/bf16_true",
    ]  # which sets the backbone's dtype
    parts = sorted([*STACKS[name], name], key=lambda part: order.index(part if part in order else part.split("/")[0]))
    arguments = [*stack(*parts), "--trainer.accelerator=cpu", f"--trainer.default_root_dir={tmp_path}"]
    if "deepspeed" in name:
        pytest.importorskip("deepspeed", reason="DeepSpeed is an optional extra")
    if any("verifier.yaml" in argument for argument in arguments):
        arguments += [f"--model.path={tiny_models}/verifier"]
    elif "humanomni" in name or name.startswith("paper/"):
        arguments += golden_humanomni()
    elif name.removeprefix("backbone/") in HF_BACKBONES:
        model_type, image_size = HF_BACKBONES[name.removeprefix("backbone/")]
        if model_type == "gemma3n":
            pytest.importorskip("timm", reason="Gemma 3n's vision tower is timm's, which brings torchvision")
        checkpoint = write_tiny_checkpoint(model_type, tmp_path / "tiny", ["Which emotion?"])
        arguments += [f"--model.backbone.path={checkpoint}", f"--model.backbone.image_size={image_size}"]
    else:
        arguments += [f"--model.backbone.{p}={tiny_models}/{p}" for p in ("vision", "audio", "language_model")]
    cli = main.build_stage("fit", arguments)
    assert cli.trainer.default_root_dir == str(tmp_path)
    if hasattr(cli.model, "backbone"):
        given = yaml.safe_load((ROOT / "configs" / f"{name}.yaml").read_text()).get("model", {}).get("init_args", {})
        class_path = given.get("backbone", {}).get("class_path", "ComposedBackbone")
        assert type(cli.model.backbone).__name__ == class_path.rpartition(".")[2]
        assert isinstance(cli.datamodule, ClipDataModule)
        assert cli.datamodule.corpus.media.num_frames == cli.model.backbone.num_frames


class ForeignData(LightningDataModule):
    """None of this project's."""

    def __init__(self, batch_size: int = 1) -> None:
        super().__init__()
        self.batch_size = batch_size


def test_any_lightning_data_module_serves(tiny_models: Path, tmp_path: Path) -> None:
    arguments = ["--model=lightning_modules.verifier.VerifierModule", f"--model.path={tiny_models}/verifier"]
    arguments += [f"--data={__name__}.ForeignData", "--data.batch_size=3", f"--trainer.default_root_dir={tmp_path}"]
    datamodule = main.build_stage("fit", [*arguments, "--trainer.accelerator=cpu"]).datamodule
    assert isinstance(datamodule, ForeignData) and datamodule.batch_size == 3


def test_classes_are_named_first_and_again_in_their_place() -> None:
    rest = ["-c", "a.yaml", "--data.path", "x", "--trainer.max_epochs=1"]
    policy = "--model=lightning_modules.policy.PolicyModule"
    assert name_classes_first("fit", rest) == rest
    for command in ("validate", "test", "predict"):
        assert name_classes_first(command, rest) == [policy, *rest]
    for named in (["--data", "Clips"], ["--data=Clips"], ["--data.class_path", "Clips"], ["--data.class_path=Clips"]):
        for options in ([*named, *rest], [*rest, *named]):
            assert name_classes_first("fit", options) == ["--data=Clips", *options]
    options = [*rest, "--data", "Clips", "--model=GRPOModule"]
    assert name_classes_first("test", options) == ["--model=GRPOModule", "--data=Clips", *options]
    backbone = ["--data.root=x", "--model.init_args.backbone", "ComposedBackbone"]
    assert name_classes_first("fit", backbone) == ["--model.backbone=ComposedBackbone", *backbone]
    for without_value in (["--data"], ["--data", "-c", "a.yaml"], ["--data="]):
        assert name_classes_first("fit", without_value) == without_value


def test_classes_are_found_wherever_a_configuration_stands(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("data: {class_path: Clips}")
    (tmp_path / "b.yaml").write_text("data: Clips")
    inline = "data: {class_path: Clips, init_args: {path: " + "long/" * 1000 + "}}"
    for value in (f"{tmp_path}/a.yaml", f"{tmp_path}/b.yaml", "data: Clips", inline):
        for options in (["-c", value], [f"-c{value}"], [f"-c={value}"], ["--config", value], [f"--config={value}"]):
            assert name_classes_first("fit", options) == ["--data=Clips", *options]
    for value in ("data: {class_path: Clips", "data", "data: null", "[data]", "data: {init_args: {path: x}}"):
        assert name_classes_first("fit", ["-c", value]) == ["-c", value]


def test_files_are_given_in_any_order(capsys: pytest.CaptureFixture[str]) -> None:
    names = ["stage/grpo", "data/dfew", "backbone/qwen2_5_vl"]
    first, *others = (printed("fit", stack(*order), capsys) for order in (names, names[::-1], [*names[1:], names[0]]))
    assert first["model"]["init_args"]["backbone"]["init_args"]["path"] == "Qwen/Qwen2.5-VL-3B-Instruct"
    assert all(other == first for other in others)


def test_data_are_read_before_the_model_is_loaded(tmp_path: Path) -> None:
    """Of the hub's model, which cannot be had here, nothing is said."""
    with pytest.raises(FileNotFoundError, match="Set `path` to a media file"):
        main.run(["predict", *stack("backbone/qwen2_5_vl"), "--data", "Clips", f"--data.path={tmp_path / 'none'}"])


def printed(command: str, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """What `--print_config` shows."""
    with pytest.raises(SystemExit) as stop:
        main.run([command, *arguments, "--print_config"])
    output = capsys.readouterr()
    assert stop.value.code == 0, output.err
    return yaml.safe_load(output.out)


@pytest.mark.parametrize("files", [["backbone/humanomni_7b"], ["trainer/default", "backbone/humanomni_7b"]])
@pytest.mark.parametrize("named", [["--data", "Clips"], ["--data=Clips"], ["--data.class_path", "Clips"]])
def test_predict_needs_no_more_than_a_backbone_and_clips(
    files: list[str], named: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    config = printed("predict", [*stack(*files), *named, "--data.path", "my_clips/"], capsys)
    assert config["model"]["class_path"] == "lightning_modules.policy.PolicyModule"
    assert config["model"]["init_args"]["taxonomy"] == "mafw"
    assert config["model"]["init_args"]["evaluation"]["temperature"] == 0.3
    assert config["data"]["class_path"] == "datamodules.clips.Clips"
    data = config["data"]["init_args"]
    assert data["path"] == "my_clips/" and data["media"]["image_size"] == 384


def test_what_comes_later_still_wins(capsys: pytest.CaptureFixture[str]) -> None:
    files = stack("trainer/default", "stage/evaluate", "data/dfew", "backbone/humanomni")
    config = printed("test", files, capsys)
    assert config["model"]["init_args"]["taxonomy"] == "dfew", "the file's, not the default model's"
    assert config["data"]["class_path"] == "datamodules.dfew.DFEW"
    options = ["--data", "MAFW", "--data.batch_size=7", "--data.media.image_size=48", "--model.taxonomy=mafw"]
    config = printed("test", [*files, *options], capsys)
    assert config["data"]["class_path"] == "datamodules.mafw.MAFW"
    assert config["data"]["init_args"]["batch_size"] == 7 and config["data"]["init_args"]["media"]["image_size"] == 48
    assert config["model"]["init_args"]["taxonomy"] == "mafw"
    config = printed("validate", [*files, *stack("stage/grpo")], capsys)
    assert config["model"]["class_path"].endswith("GRPOModule")
    config = printed("test", stack("trainer/default", "stage/verifier", "data/rationale_text"), capsys)
    assert config["model"]["class_path"].endswith("VerifierModule")


def test_clips_are_predicted_without_a_stage_file(tiny_models: Path, tmp_path: Path) -> None:
    arguments = [*stack("backbone/composed"), "--trainer.accelerator=cpu", f"--trainer.default_root_dir={tmp_path}"]
    arguments += [f"--model.backbone.{p}={tiny_models}/{p}" for p in ("vision", "audio", "language_model")]
    with pytest.raises(FileNotFoundError, match="No file or folder .*my_clips"):
        main.run(["predict", *arguments, "--data", "Clips", "--data.path", str(tmp_path / "my_clips")])


COLD_START = ["language_model", "mm_projector", "audio_projector", "bert_gate"]


@pytest.mark.parametrize(
    ("stage", "data", "options", "trainable", "learning_rate"),
    [
        ("cold_start", "emer", [], COLD_START, 2e-5),
        ("grpo", "dfew", [], [*COLD_START, "bert"], 1e-6),
        ("grpo", "dfew", ["--model.trainable=[bert_gate]"], ["bert_gate"], 1e-6),
        ("grpo", "dfew", ["--model.backbone.recipes.grpo.learning_rate=3e-6"], [*COLD_START, "bert"], 3e-6),
    ],
)
@pytest.mark.parametrize("size", ["humanomni", "humanomni_7b"])
@pytest.mark.usefixtures("no_corpora")
def test_humanomni_trains_what_was_published(
    size: str, stage: str, data: str, options: list[str], trainable: list[str], learning_rate: float, tmp_path: Path
) -> None:
    files = stack("trainer/default", f"stage/{stage}", f"data/{data}", f"backbone/{size}")
    place = ["--trainer.accelerator=cpu", f"--trainer.default_root_dir={tmp_path}"]
    module = main.build_stage("fit", [*files, *golden_humanomni(), *place, *options]).model
    assert module.trainable == trainable and module.learning_rate == learning_rate
    assert {name for name in module.backbone.parts if not module.backbone.is_frozen(name)} == set(trainable)


def test_the_demo_sets_its_own_parts_and_learning_rates(capsys: pytest.CaptureFixture[str]) -> None:
    for stage, data, rate in (("cold_start", "emer", 3e-3), ("grpo", "dfew", 4e-4)):
        files = ["trainer/default", f"stage/{stage}", f"data/{data}", "backbone/composed", "demo/backbone"]
        model = printed("fit", stack(*files, "demo/data", f"demo/{stage}"), capsys)["model"]["init_args"]
        assert model["learning_rate"] == rate
        assert ("audio_tower" in (model["trainable"] or [])) == (stage == "cold_start")
        recipe = model["backbone"]["init_args"]["recipes"][stage]
        assert recipe["learning_rate"] in (2e-5, 1e-6) and "audio_tower" not in recipe["trainable"]


def test_missing_data_is_a_clear_error(tiny_models: Path, tmp_path: Path) -> None:
    arguments = stack(*STACKS["demo/grpo"], "demo/grpo")
    arguments += [f"--model.backbone.{p}={tiny_models}/{p}" for p in ("vision", "audio", "language_model")]
    arguments += [f"--model.verifier={tiny_models}/verifier", "--trainer.accelerator=cpu"]
    with pytest.raises(FileNotFoundError, match="nowhere"):
        main.run(["fit", *arguments, f"--data.root={tmp_path}/nowhere", f"--trainer.default_root_dir={tmp_path}"])


def test_a_list_takes_one_value_or_several() -> None:
    def tool(files: list[str], names: list[str] | None = None, name: str = "") -> None: ...

    arguments = ["--files", "a", "b", "--name", "x", "--names", "[c, d]", "-c", "f.yaml"]
    spread = main.spell_out(tool, arguments)
    assert spread == ["--files+=a", "--files+=b", "--name", "x", "--names", "[c, d]", "-c", "f.yaml"]
    as_they_are = ["--files=[a]", "--names", "--name", "x"]
    assert main.spell_out(tool, as_they_are) == as_they_are


def test_a_mapping_takes_names_and_values() -> None:
    def tool(runs: dict[str, str], more: dict[str, str] | None = None, verdicts: list[str] | None = None) -> None: ...

    spread = main.spell_out(tool, ["--runs", "a 0.5b=x=1.jsonl", "b=y", "--verdicts", "c", "--more", "d=z"])
    assert spread == ['--runs={"a 0.5b": "x=1.jsonl", "b": "y"}', "--verdicts+=c", '--more={"d": "z"}']
    assert main.spell_out(tool, ["--runs=a=x", "ä🙂=y"]) == ['--runs={"a": "x", "ä🙂": "y"}']
    twice = main.spell_out(tool, ["--runs", "a=x", "--more", "b=y", "--runs", "c=z"])
    assert twice == ['--runs={"a": "x"}', '--more={"b": "y"}', '--runs={"a": "x", "c": "z"}']
    as_they_are = ["--runs", "{a: x}", "--more.c=z"]
    assert main.spell_out(tool, as_they_are) == as_they_are


@pytest.mark.parametrize(
    "given", [["x.jsonl"], ["a="], ["=x"], ["a=x", "a=y"], ["a=x", "--runs", "a=x"], ["a=x", "{}"]]
)
def test_a_mapping_needs_a_value_for_each_name_and_one_alone(given: list[str]) -> None:
    def tool(runs: dict[str, str]) -> None: ...

    with pytest.raises(ValueError, match=re.escape(f"--runs got {given[-1]!r}. Expected NAME=VALUE, several if you")):
        main.spell_out(tool, ["--runs", *given])


def test_a_mapping_to_lists_is_no_list() -> None:
    def tool(verdicts: dict[str, list[str]]) -> None: ...

    as_they_are = ["--verdicts", "{erv: [a.jsonl]}"]
    assert main.spell_out(tool, as_they_are) == as_they_are


def test_a_flag_needs_no_value() -> None:
    def tool(strict: bool = False, name: str = "") -> None: ...

    assert main.spell_out(tool, ["--strict", "--name", "x"]) == ["--strict=true", "--name", "x"]
    assert main.spell_out(tool, ["--name", "x", "--strict"]) == ["--name", "x", "--strict=true"]
    as_they_are = ["--strict", "false", "--strict=true"]
    assert main.spell_out(tool, as_they_are) == as_they_are


@pytest.mark.parametrize(
    ("given", "spins"), [({}, "5000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "None")]
)
def test_threads_wait_briefly_unless_the_user_says_else(given: dict[str, str], spins: str) -> None:
    script = "import os, sys, main; main.main(['-h']); print('torch' in sys.modules, os.environ.get('GOMP_SPINCOUNT'))"
    own = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    command = [sys.executable, "-c", script]
    output = subprocess.run(command, env=own | given, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert output.splitlines()[-1] == f"False {spins}", "set before torch is imported, which reads it"
