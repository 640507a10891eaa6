"""Which file `-c` names."""

import os
from pathlib import Path

import pytest

from datamodules.emotions import get_taxonomy
from datamodules.files.config_files import CONFIGS, config_names, find_config, with_config_files

pytestmark = pytest.mark.unit

GRPO = CONFIGS / "stage/grpo.yaml"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path


@pytest.mark.parametrize("name", ["stage/grpo", "stage/grpo.yaml", "configs/stage/grpo", "./configs/stage/grpo.yaml"])
def test_names_of_one_configuration(name: str, here: Path) -> None:
    (here / "stage/grpo").mkdir(parents=True)  # a folder is no file
    assert find_config(name) == GRPO


def test_a_file_where_one_stands_comes_first(here: Path) -> None:
    (here / "stage").mkdir()
    (here / "stage/grpo.yaml").touch()
    (here / "home").mkdir()
    (here / "home/own.yaml").touch()
    os.mkfifo(here / "pipe")
    assert find_config("stage/grpo.yaml") == Path("stage/grpo.yaml") and find_config("stage/grpo") == GRPO
    assert find_config("~/own.yaml") == here / "home/own.yaml" and find_config("pipe") == Path("pipe")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("stage/gpro", r"The nearest: stage/grpo,"),
        ("dfew", r"The nearest: data/dfew, taxonomy/dfew"),
        ("../configs/stage/grpo", r"The nearest: .*stage/grpo"),
        ("~no-such-user/stage/grpo", r"no configuration ~no-such-user"),
        ("runs/x/zzz.yaml", r"program\. `python main.py configs` lists them"),
    ],
)
def test_an_unknown_name(name: str, says: str) -> None:
    with pytest.raises(FileNotFoundError, match=says):
        find_config(name)


def test_every_file_has_a_name() -> None:
    assert {find_config(name) for name in config_names()} == set(CONFIGS.rglob("*.yaml"))


def test_every_form_of_the_option_and_nothing_else() -> None:
    given = ["-c", "stage/grpo", "--config", "stage/grpo", "--config=stage/grpo", "-cstage/grpo"]
    kept = ["--data.config", "stage/grpo", "--seed", "3", "-c", "{seed: 3}", "--config=", "-c"]
    found = ["-c", str(GRPO), "--config", str(GRPO), f"--config={GRPO}", f"-c{GRPO}"]
    assert with_config_files([*given, *kept]) == [*found, *kept]


@pytest.mark.parametrize(
    "name", ["mafw", "taxonomy/mafw", "configs/taxonomy/mafw.yaml", f"{CONFIGS}/taxonomy/mafw.yaml"]
)
def test_a_taxonomy_is_one_by_whatever_name(name: str) -> None:
    assert get_taxonomy(name) == get_taxonomy("mafw")


@pytest.mark.parametrize("name", ["/dev/zero", "stage/mafw", "taxonomy/words/english"])
def test_what_is_no_taxonomy_is_not_read(name: str) -> None:
    with pytest.raises(ValueError, match=f"Unknown taxonomy '{name}'"):
        get_taxonomy(name)
