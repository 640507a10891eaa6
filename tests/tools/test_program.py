"""The program's name for itself is that by which it was called, also in the processes that it starts."""

import sys

import pytest

import main
from tools.cross_validation import parser_beside_fit
from tools.program import MAIN, as_called, own_command

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("called", ["main.py", "/home/someone/erv/main.py", "/usr/bin/pytest", "erv.py", "-c"])
def test_as_a_script(called: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [called, "fit"])
    assert own_command() == [sys.executable, str(MAIN)] and MAIN.is_file()
    assert as_called("`python main.py fit`") == "`python main.py fit`"


def test_as_the_console_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["/opt/bin/erv", "fit"])
    assert own_command() == [sys.executable, "/opt/bin/erv"]
    assert main.usage().startswith("usage: erv COMMAND") and "main.py" not in main.usage()
    parser = parser_beside_fit("estimate", "own", "See `python main.py fit`.", "  python main.py estimate ...")
    assert "usage: erv estimate" in parser.format_help() and "main.py" not in parser.format_help()
    assert main.main(["train"]) == 2
    assert capsys.readouterr().err == "error: There is no command 'train'. `erv --help` lists them.\n"
