"""`python main.py configs`: the YAML files that `-c` knows by name in every folder."""

import argparse
from itertools import groupby, takewhile

from rich.console import Console
from rich.table import Table

from datamodules.files.config_files import CONFIGS, config_names, find_config
from tools.program import program


def run_configs(arguments: list[str]) -> None:
    """Run `python main.py configs`: a table of the names, or the text of one file.

    Args:
        arguments: the command line after `configs`: nothing, or a name as `-c` takes it.

    Raises:
        FileNotFoundError: no such configuration; says which are near.
    """
    parser = argparse.ArgumentParser(
        prog=f"{program()} configs",
        description="List the YAML files that -c knows by name in every folder, or print one.",
        allow_abbrev=False,
        exit_on_error=False,
    )
    parser.add_argument("name", nargs="?", help="of the file to print, e.g. stage/grpo; all are listed without it.")
    name = parser.parse_args(arguments).name
    if name is None:
        Console(markup=False).print(_table())
    else:
        print(find_config(name).read_text(encoding="utf-8"), end="")


def _table() -> Table:
    table = Table("-c", "", title="Configurations: stack trainer, stage, data, backbone; what comes later wins")
    for _, names in groupby(config_names(), key=lambda name: name.partition("/")[0]):
        for name in names:
            table.add_row(name, _first_sentence(name))
        table.add_section()
    return table


def _first_sentence(name: str) -> str:
    """That of the comment with which a file begins."""
    lines = (CONFIGS / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    comment = " ".join(line.removeprefix("#").strip() for line in takewhile(lambda line: line.startswith("#"), lines))
    return comment.partition(". ")[0].rstrip(".")
