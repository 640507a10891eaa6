"""Which errors are one sentence, and what it says; what arguments become before a command sees them."""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from jsonargparse import ArgumentParser, Namespace
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import Logger
from lightning_utilities.core.imports import RequirementCache
from mlflow import MlflowClient
from torch.utils.data import DataLoader, Dataset

import main
from datamodules.emotions import get_taxonomy
from datamodules.files.json_files import read_json
from tools.command_line import is_meant_to_be_read, one_sentence, settled

pytestmark = pytest.mark.unit

CONFIGS = Path(main.__file__).parent / "configs"
VERIFIER = Path(main.__file__).parent / "tests/golden/tiny_verifier"


def raised(function: Callable[[], object]) -> Exception:
    with pytest.raises(Exception) as caught:
        function()
    return caught.value


class Broken(Dataset):
    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> object:
        return get_taxonomy("no\x1b[31mne")


def test_what_is_raised_to_be_read_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{")
    for function, says in (
        (lambda: get_taxonomy("no\x1b[31mne"), r"'no\x1b[31mne'"),
        (lambda: read_json(tmp_path / "a.json"), "a.json: not valid JSON"),
        (lambda: (tmp_path / "b" / "c").write_text(""), f"{tmp_path}/b/c: No such file or directory"),
        (lambda: Trainer(accelerator="quantum"), "quantum"),
        (lambda: MlflowClient("no-such-scheme://x").get_run("1"), "no-such-scheme"),
        (lambda: next(iter(DataLoader(Broken(), num_workers=1))), r"no\x1b[31mne"),
        (lambda: ArgumentParser(exit_on_error=False).parse_args(["--x"]), "`python main.py fit --help`"),
    ):
        error = raised(function)
        assert is_meant_to_be_read(error)
        sentence = one_sentence(error, "fit")
        assert says in sentence and sentence.isprintable()


@pytest.mark.parametrize("many", [False, True])
def test_a_class_that_lacks_a_package_or_refuses_an_argument_says_so(
    many: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    missing = RequirementCache("no-such-package>=1")
    monkeypatch.setattr("lightning.pytorch.loggers.wandb._WANDB_AVAILABLE", missing)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--logger", type=Logger | Iterable[Logger] | bool | None)
    parser.add_argument("--callbacks", type=list[Callback] | Callback | None)
    rollouts = {"class_path": "callbacks.rollouts.RolloutWriter", "init_args": {"max_megabytes": -1}}
    for option, value, says in (
        ("logger", {"class_path": "lightning.pytorch.loggers.WandbLogger"}, "pip install -U 'no-such-package>=1'"),
        ("callbacks", rollouts, "Expected rollouts.max_megabytes >= 0"),
    ):
        config = parser.parse_object({option: [value] if many else value})
        error = raised(lambda config=config: parser.instantiate(config))
        assert is_meant_to_be_read(error)
        said = one_sentence(error, "fit")
        assert says in said and "Union" not in said and len(said) < 200


def test_what_python_or_a_library_finds_in_the_code_is_not() -> None:
    for function in (
        lambda: json.loads("{"),  # by json's own `raise`: whose file it was, nobody knows
        lambda: settled(1, None).x,  # type: ignore[arg-type]
        lambda: torch.zeros(2) @ torch.zeros(3),
        lambda: settled({"a": {1: 2}}["b"]),
        lambda: main.spell_out(print, [3]),  # type: ignore[list-item]
    ):
        assert not is_meant_to_be_read(raised(function))
    assert not is_meant_to_be_read(ValueError("never raised"))


def test_a_long_message_is_cut_and_lines_become_one() -> None:
    sentence = one_sentence(ValueError("a\n  b" + "c" * 5000), "fit")
    assert sentence.startswith("a bccc") and sentence.endswith("c...") and len(sentence) < 1100
    assert one_sentence(argparse.ArgumentError(None, "x:\n  Errors:\n  - y"), "fit").startswith("x: y. `python main.py")


def test_home_and_what_is_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    config = Namespace(a="~/x", b=[Namespace(c={"d": "~/y"})], e="~", f="a~/x", g=1.5)
    settled(config)
    assert config == Namespace(a="/home/someone/x", b=[Namespace(c={"d": "/home/someone/y"})], e="~", f="a~/x", g=1.5)
    with pytest.raises(ValueError, match=r"model.lr is NaN"):
        settled(Namespace(model=Namespace(lr=float("nan"))))


def test_debug_shows_where(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["compare", "--predictions", "{a: b}", "--output", "c"]) == 2
    assert capsys.readouterr().err.startswith("error: Expected at least two runs")
    assert main.main(["compare", "--debug", "--predictions", "{a: b}", "--output", "c"]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("Traceback") and "in compare\n" in printed
    assert printed.splitlines()[-1].startswith("error: Expected at least two runs")


def test_an_error_of_the_program_is_shown_with_its_place_and_without_secrets(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(arguments: list[str]) -> None:
        {"password": "https://someone:hunter2@host/\x1b[31m"}[" ".join(arguments)]

    def wrong(arguments: list[str]) -> None:
        int("https://someone:hunter2@host/\x1b[31m")

    for function, says in ((broken, "KeyError: 'compare'"), (wrong, "ValueError: invalid literal")):
        monkeypatch.setattr(main, "run", function)
        assert main.main(["compare"]) == 1
        printed = capsys.readouterr().err
        assert printed.startswith("Traceback") and says in printed
        assert "hunter2@host/'\n" not in printed and "\x1b" not in printed and "error: " not in printed


def test_null_is_null_however_deep_its_option_stands(capsys: pytest.CaptureFixture[str]) -> None:
    stacked = [f"--config={CONFIGS}/{name}.yaml" for name in ("stage/grpo", "data/dfew", "backbone/qwen2_5_vl")]
    for option in (["--model.backbone.lora", "null"], ["--model.backbone.lora=null"]):
        with pytest.raises(SystemExit):
            main.main(["fit", *stacked, "--data.root=x", *option, "--print_config"])
        assert "\n        lora: null\n" in capsys.readouterr().out


@pytest.mark.parametrize("command", [["synthesize", "--num_clip", "3"], ["fit", "--trainer.max_epoch", "3"]])
def test_half_a_name_is_no_option(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(command) == 2
    assert command[1].lstrip("-").rpartition(".")[2] in capsys.readouterr().err


def test_an_unknown_option_of_a_class_names_the_help_that_lists_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["inspect_data", "--data", "DFEW", "--data.root", "x", "--data.rot", "y"]) == 2
    assert "`python main.py inspect_data --data.help datamodules.dfew.DFEW` shows" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (
            "inspect_data --data.path x.csv",
            'key "data": no corpus is named. Give one, e.g. -c configs/data/dfew',
        ),
        ("inspect_data --data Manifst --data.path x.csv", "there is no class Manifst. The nearest: Manifest"),
        ("predict --data Clips --data.path x", "no backbone is named. Give one, e.g. -c configs/backbone/humanomni"),
        (f"predict --data Clips --data.path x --model.backbone.path {__file__}", "no backbone is named. Give one"),
        (
            f"fit -c {CONFIGS}/stage/grpo_accuracy.yaml -c {CONFIGS}/backbone/composed.yaml",
            "no stage is named. Give one, e.g.",
        ),
        ("fit -c stage/grpo -c backbone/composed", "no data are named. Give them, e.g. -c configs/data/dfew.yaml"),
        (
            "fit -c stage/verifier -c data/rationale_text --data Nope",
            'Parser key "data": there is no class Nope.',
        ),
        ("fit -c stage/verifier -c data/rationale_text --trainer.callbacks Nope", "there is no class Nope."),
    ],
)
def test_what_nobody_has_named_is_asked_for(command: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(command.split()) == 2
    said = capsys.readouterr().err
    assert says in said and all(noise not in said for noise in ("abstract", "Union", "Given value"))


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("--model.learning_rate=-1", "Expected learning_rate > 0, weight_decay >= 0,"),
        ("--model.learning_rate=fast", "Parser key \"learning_rate\": Expected a <class 'float'>. Got value: fast."),
        ("--model.lerning_rate=1", "Option 'lerning_rate' is not accepted. Did you mean learning_rate?"),
        ("--trainer.max_epoch=1", "--trainer.max_epoch=1. Did you mean --trainer.max_epochs or"),
        ("--config=trainer: {devics: 1}", "does not accept option 'devics'. Did you mean trainer.devices"),
        ("--data.batch_size=0", "Got batch_size=0, num_workers=0. Expected"),
        ("--inspection.every_n_steps=0", "Expected every_n_steps >= 1 and num_clips >= 1, got 0 and 8."),
        ("--trainer.strategy=fast", "invalid strategy name: `strategy='fast'`"),
        pytest.param(
            "--trainer.accelerator=gpu",
            "sees no GPU. Without one: -c trainer/cpu in place of trainer/gpu.",
            marks=pytest.mark.skipif(torch.accelerator.is_available(), reason="there is a GPU"),
        ),
        pytest.param(
            "--trainer.accelerator=tpu",
            "Requirement 'torch_xla",
            marks=pytest.mark.skipif(find_spec("torch_xla") is not None, reason="torch_xla is installed"),
        ),
        ("--trainer.devices=all", "trainer.devices is 'all'. Expected a number, several such as 0,2, or auto."),
        ("--trainer.callbacks+=EarlyStopping", "the following arguments are required: monitor"),
        ("--trainer.default_root_dir=${oc.env:ERV_NOWHERE}/x", "Environment variable 'ERV_NOWHERE' not found"),
        ("--data.train=${words.train}", "data.init_args.train: Interpolation key 'words.train' not found."),
    ],
)
def test_what_cannot_be_made_is_one_sentence(
    option: str, says: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    files = [f"--config={name}" for name in ("trainer/default", "trainer/cpu", "stage/verifier", "data/rationale_text")]
    options = ["--data.train=x", f"--model.path={VERIFIER}", f"--trainer.default_root_dir={tmp_path}", option]
    assert main.main(["fit", *files, *options]) == 2
    printed = capfd.readouterr()
    said = [line for line in printed.err.splitlines() if line.startswith("error: ")]
    assert len(said) == 1 and says in said[0] and "Traceback" not in printed.err
    assert "usage:" not in printed.err and not printed.out and not list(tmp_path.iterdir())


def test_a_wrong_reward_is_named_without_the_list_that_it_stands_in(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rewards = "[{class_path: callbacks.rewards.FormatReward}, {class_path: callbacks.rewards.JugdeReward}]"
    callback = f"{{class_path: callbacks.rl.RLCallback, init_args: {{rewards: {rewards}}}}}"
    (tmp_path / "rewards.yaml").write_text(f"trainer: {{callbacks: [{callback}]}}")
    assert main.main(["fit", f"--config={CONFIGS}/stage/grpo.yaml", f"--config={tmp_path}/rewards.yaml"]) == 2
    said = capsys.readouterr().err
    assert "'callbacks.rewards' has no attribute 'JugdeReward'" in said and "Given value" not in said
    assert "implicit class_path" not in said and "FormatReward" not in said


def test_a_python_without_the_packages_is_told_which_one_has_them(tmp_path: Path) -> None:
    command = [sys.executable, "-S", str(Path(main.__file__)), "compare", "--predictions", "x"]
    ended = subprocess.run(command, check=False, capture_output=True, text=True, cwd=tmp_path)
    assert ended.returncode == 2 and "source .venv/bin/activate" in ended.stderr and "Traceback" not in ended.stderr
