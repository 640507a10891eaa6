"""How this program was called, and how it calls itself: the console command `erv`, or `python main.py`."""

import sys
from pathlib import Path

MAIN = Path(__file__).parents[1] / "main.py"
_COMMAND, _SCRIPT = "erv", "python main.py"


def program() -> str:
    """What stands before the name of a command on this command line."""
    return _COMMAND if Path(sys.argv[0]).name == _COMMAND else _SCRIPT


def as_called(text: str) -> str:
    """A text that speaks of `python main.py`, in the words of who called it."""
    return text.replace(_SCRIPT, program())


def own_command() -> list[str]:
    """The begin of a command line that runs this program in a process of its own, from any folder."""
    return [sys.executable, sys.argv[0] if program() == _COMMAND else str(MAIN)]
