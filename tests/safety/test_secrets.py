"""A key in a configuration: the object gets it, and nothing that a run writes or prints has it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonargparse import Namespace
from lightning.pytorch.loggers import TensorBoardLogger

import main
from callbacks.config_parser import SecretKeepingParser
from callbacks.config_secrets import hide_secrets
from tools import cross_validation

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
KEY = "sk-5ecret:value/with+signs"
LOGGER = f"{__name__}.KeyedLogger"


class KeyedLogger(TensorBoardLogger):
    """Stands for the logger of a hosted service; writes files of its own, too."""

    def __init__(self, save_dir: str, api_key: str, header: str = "", number: int = 0) -> None:
        super().__init__(save_dir, name="", version="")
        self.key = api_key
        self.header = header


@pytest.fixture
def arguments(tmp_path: Path, verifier: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stage 2 for one step, with a logger that takes its key from the environment."""
    monkeypatch.setenv("TRACKER_API_KEY", KEY)
    monkeypatch.setenv("SCRATCH", str(tmp_path))
    rows = [{"text": f"He smiles {number} times.", "emotions": ["joy"]} for number in range(4)]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    config = {
        "trainer": {
            "default_root_dir": "${oc.env:SCRATCH}/run",
            "logger": {
                "class_path": LOGGER,
                "init_args": {
                    "save_dir": "${trainer.default_root_dir}",
                    "api_key": "${oc.env:TRACKER_API_KEY}",
                    "header": "Bearer ${trainer.logger.init_args.api_key}",
                },
            },
            "max_steps": 1,
            "enable_progress_bar": False,
            "enable_model_summary": False,
        },
    }
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(config))
    files = [ROOT / "configs" / f"{name}.yaml" for name in ("trainer/cpu", "stage/verifier", "data/rationale_text")]
    stacked = [argument for file in (*files, tmp_path / "own.yaml") for argument in ("-c", str(file))]
    return [*stacked, f"--data.train={tmp_path / 'train.jsonl'}", f"--model.path={verifier}"]


def test_no_file_of_a_run_holds_the_key_and_its_configuration_runs_again(
    arguments: list[str], tmp_path: Path, capfd: pytest.CaptureFixture, caplog: pytest.LogCaptureFixture
) -> None:
    cli = main.build_stage("fit", arguments)
    assert cli.trainer.logger.key == KEY and cli.trainer.logger.header == f"Bearer {KEY}"
    main.run(["fit", *arguments])
    run = tmp_path / "run"
    files = [file for file in run.rglob("*") if file.is_file()]
    assert {"config.yaml", "run.json", "hparams.yaml"} <= {file.name for file in files}
    assert any(file.suffix == ".ckpt" for file in files) and any("tfevents" in file.name for file in files)
    assert [file for file in files if KEY.encode() in file.read_bytes()] == []
    printed = capfd.readouterr()
    assert KEY not in printed.out + printed.err + caplog.text
    written = yaml.safe_load((run / "config.yaml").read_text())["trainer"]
    assert written["logger"]["init_args"]["api_key"] == "${oc.env:TRACKER_API_KEY}"
    assert written["logger"]["init_args"]["header"] == "Bearer ${oc.env:TRACKER_API_KEY}"
    assert written["default_root_dir"] == str(run), "no secret, so it is said"
    again = main.build_stage("fit", ["-c", str(run / "config.yaml")])
    assert again.trainer.logger.key == KEY


def test_what_the_command_line_prints_does_not_hold_the_key(arguments: list[str], capfd: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as ended:
        main.run(["fit", *arguments, "--print_config"])
    assert ended.value.code == 0
    config = yaml.safe_load(capfd.readouterr().out)
    assert config["trainer"]["logger"]["init_args"]["api_key"] == "${oc.env:TRACKER_API_KEY}"
    wrong = [*arguments, "--trainer.logger.init_args.number=${oc.env:SCRATCH}"]
    assert main.main(["fit", *wrong]) == 2
    printed = capfd.readouterr()
    assert "number" in printed.err and KEY not in printed.err + printed.out
    assert main.main(["fit", *wrong, "--debug"]) == 2
    printed = capfd.readouterr()
    assert "TRACKER_API_KEY" in printed.err and KEY not in printed.err + printed.out


@pytest.mark.parametrize("stage", [[], ["--print_config"]])
def test_a_key_in_the_configuration_itself_is_refused(
    arguments: list[str], tmp_path: Path, stage: list[str], capfd: pytest.CaptureFixture
) -> None:
    assert main.main(["fit", *arguments, "--trainer.logger.init_args.api_key=sk-literal", *stage]) == 2
    printed = capfd.readouterr()
    assert "trainer.logger.init_args.api_key holds a secret" in printed.err and "${oc.env:NAME}" in printed.err
    assert "sk-literal" not in printed.out + printed.err
    assert not (tmp_path / "run").exists()


def test_cross_validation_does_not_write_the_key(arguments: list[str], tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "main.py"), "fit", *arguments, "--print_config"]
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, encoding="utf-8", cwd=ROOT)
    root = tmp_path / "folds"
    root.mkdir()
    cross_validation._keep_config(root, yaml.safe_load(printed.stdout))
    (file,) = root.iterdir()
    assert KEY not in file.read_text() and "${oc.env:TRACKER_API_KEY}" in file.read_text()


def test_a_short_key_is_no_part_of_other_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("callbacks.config_secrets._written_as", {"abc": "${oc.env:A_KEY}", KEY: "${oc.env:B_KEY}"})
    assert hide_secrets("abcd abc x.abc 'abc'") == "abcd ${oc.env:A_KEY} x.abc '${oc.env:A_KEY}'"
    assert hide_secrets(f"key={KEY}.") == "key=${oc.env:B_KEY}."


def parsed(*arguments: str) -> tuple[SecretKeepingParser, Namespace]:
    parser = SecretKeepingParser(parser_mode="omegaconf+", exit_on_error=True)
    parser.add_argument("--options", type=dict[str, Any], default={})
    parser.add_argument("--text", type=str)
    return parser, parser.parse_args(list(arguments))


@pytest.mark.parametrize(
    "argument",
    [
        "--options={github_token: hidden-1}",
        "--options={authorization: Bearer hidden-1}",
        "--options={headers: {X-Own: hidden-1}}",
        "--options={headers: ['X-Own: hidden-1']}",
        "--options={bearer: hidden-1}",
        "--options={credentials: {user: hidden-1}}",
        "--options={password: 90901}",
        "--options={any: 'https://me:hidden-1@host/a'}",
        "--options={any: ['see postgresql://me:hidden-1@host']}",
        "--text=https://hidden-1@host/a",
    ],
)
def test_secrets_in_a_configuration_are_refused(argument: str, capfd: pytest.CaptureFixture) -> None:
    parser, config = parsed(argument)
    with pytest.raises(SystemExit) as ended:
        parser.refuse_written_secrets(config)
    assert ended.value.code == 2
    printed = capfd.readouterr()
    assert (
        "holds a secret" in printed.err and "hidden-1" not in printed.err + printed.out and "90901" not in printed.err
    )


@pytest.mark.parametrize(
    ("variable", "value", "option"),
    [
        ("PGPASSWORD", KEY, "any"),
        ("MYSQL_PWD", KEY, "any"),
        ("GITHUB_PAT", KEY, "any"),
        ("PASSPHRASE", KEY, "any"),
        ("HTTPS_PROXY", "http://me:pa55@host", "any"),
        ("DATABASE_URL", "postgresql://me:pa55@host/db", "any"),
        ("OWN", "postgresql://me:pa55@host/db", "any"),
        ("OWN", KEY, "github_token"),
        ("OWN", KEY, "headers"),
        ("OWN", "90901", "password"),
    ],
)
def test_secrets_from_the_environment_are_written_as_references(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, option: str
) -> None:
    monkeypatch.setattr("callbacks.config_secrets._written_as", {})
    monkeypatch.setenv(variable, value)
    parser, config = parsed(f"--options={{{option}: '${{oc.env:{variable}}}', max_tokens: 5}}", "--text=pad_token")
    assert str(config.options[option]) == value
    written = parser.dump(config)
    assert value not in written and yaml.safe_load(written)["options"][option] == f"${{oc.env:{variable}}}"
    assert yaml.safe_load(written)["options"]["max_tokens"] == 5
    with pytest.raises(SystemExit):
        parser.error(f"cannot use {value}")


@pytest.mark.parametrize(
    "arguments",
    [["--options=https://me:hidden-1@host"], ["--options={api_key: hidden-1, b"], ["--none.api_key", "hidden-1"]],
)
def test_errors_of_the_command_line_show_no_secret(capfd: pytest.CaptureFixture, arguments: list[str]) -> None:
    with pytest.raises(SystemExit):
        parsed(*arguments)
    printed = capfd.readouterr().err
    assert "error:" in printed and "***" in printed and "hidden-1" not in printed


@pytest.mark.parametrize(
    "arguments",
    [["--first=https://me:hidden-1@host/a", "--second=b", "--output=c"], ["--judge.api_key", "hidden-1"]],
)
def test_errors_of_tools_show_no_secret(capfd: pytest.CaptureFixture, arguments: list[str]) -> None:
    assert main.main(["agreement", *arguments]) == 2
    printed = capfd.readouterr()
    assert "***" in printed.err and "hidden-1" not in printed.err + printed.out
