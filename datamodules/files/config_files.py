"""The configurations that come with this program: every folder knows them by name, such as `stage/grpo`."""

from collections.abc import Sequence
from contextlib import suppress
from difflib import SequenceMatcher
from itertools import pairwise
from pathlib import Path

CONFIGS = Path(__file__).parents[2] / "configs"
_OPTIONS = ("-c", "--config")
_NEAREST = 3
_LEAST_LIKENESS = 0.6


def config_names() -> list[str]:
    """The names of the configurations: paths below `configs/`, without suffix."""
    return sorted(path.relative_to(CONFIGS).with_suffix("").as_posix() for path in CONFIGS.rglob("*.yaml"))


def find_config(name: str) -> Path:
    """The file where one stands, else the configuration of that name, with or without `configs/` and `.yaml`.

    Raises:
        FileNotFoundError: there is neither; says which names are near.
    """
    path = Path(name)
    with suppress(RuntimeError):  # a home directory that is not there is no file
        path = path.expanduser()
    if path.exists() and not path.is_dir():  # a pipe, too
        return path
    known, own = config_names(), name.removeprefix("./").removeprefix("configs/").removesuffix(".yaml")
    if own in known:
        return CONFIGS / f"{own}.yaml"
    likeness = {other: _likeness(own, other) for other in known}
    near = [other for other in sorted(known, key=lambda other: -likeness[other]) if likeness[other] >= _LEAST_LIKENESS]
    said = f" The nearest: {', '.join(near[:_NEAREST])}." if near else ""
    raise FileNotFoundError(
        f"There is no configuration {name}, neither a file here nor one that comes with the program.{said} "
        "`python main.py configs` lists them."
    )


def with_config_files(arguments: Sequence[str]) -> list[str]:
    """The arguments of a command, each configuration that `-c` names replaced by its file.

    Raises:
        FileNotFoundError: see `find_config`.
    """
    found = []
    for before, argument in pairwise(["", *arguments]):
        option, equals, value = argument.partition("=")
        if before in _OPTIONS:
            found.append(_file(argument))
        elif equals and option in _OPTIONS:
            found.append(f"{option}={_file(value)}")
        elif argument.startswith("-c") and argument != "-c":
            found.append(f"-c{_file(argument[2:])}")
        else:
            found.append(argument)
    return found


def _file(value: str) -> str:
    """The file that an option names; options also take YAML itself."""
    return value if not value or ":" in value else str(find_config(value))


def _likeness(name: str, other: str) -> float:
    """In [0, 1], of the whole names or of their last parts."""
    pairs = ((name, other), (name.rpartition("/")[2], other.rpartition("/")[2]))
    return max(SequenceMatcher(None, own, its).ratio() for own, its in pairs)
