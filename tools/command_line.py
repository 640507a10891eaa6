"""What every command does with its arguments and its errors.

Arguments are read strictly: a key that stands twice in a YAML file is refused, `null` is null at any depth, and `~` is
the home directory. An error that its user can mend is one sentence.
"""

import argparse
import dis
import math
import re
import sys
import traceback
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser, Namespace, get_loader, set_loader
from omegaconf.errors import OmegaConfBaseException

from callbacks.config_secrets import hide_secrets
from callbacks.secret_names import without_named_values
from callbacks.tracker_errors import is_of_tracker
from datamodules.files.printable import did_you_mean, printable
from datamodules.files.yaml_files import check_yaml, read_yaml_mapping
from tools.program import as_called

_ROOT = Path(__file__).resolve().parents[1]
_OWN = {"main.py", "datamodules", "lightning_modules", "callbacks", "tools"}
_RAISE = dis.opmap["RAISE_VARARGS"]
_load_as_before = get_loader("yaml")

_UNION = "Does not validate against any of the Union subtypes"
_OF_UNIONS = re.compile(
    rf"(- )?{_UNION}|Subtypes: .*|Errors:|- Expected a <class 'NoneType'>"
    r"|- Expected a path but .* either not accessible or invalid|Given value type: .*"
    r"|Given value: (Namespace|NestedArg|[\[{]).*"
    r"|Subclass types expect one of:|- a class path \(str\)|- a dict with(out)? (class_path|parameters) .*"
)
"""Lines of a parser's message that say nothing to who gave the option."""
_CLASS = re.compile(r"Parser key \"(model|data)\": Problem with given class_path '([\w.]+)'")
_ABSTRACT = re.compile(r"Expected an instantiatable class, but [\w.]+\.(\w+) is abstract")
_NO_CLASS = re.compile(r"Expected a dot import path string: (\S+)( Given value: \1)?")
_NO_BACKBONE = re.compile(r"the following arguments are required: backbone$")
_OF_BASE = re.compile(
    r"Parser key \"(?:model|data)\": Problem with given class_path '[\w.]+\.(LightningModule|DataSource)': .*"
)
_UNNAMED = {
    "Backbone": "no backbone is named. Give one, e.g. -c configs/backbone/humanomni.yaml",
    "LightningModule": "no stage is named. Give one, e.g. -c configs/stage/grpo.yaml",
    "DataSource": "no data are named. Give them, e.g. -c configs/data/dfew.yaml or --data Manifest",
    "ClipSource": "no corpus is named. Give one, e.g. -c configs/data/dfew.yaml or --data Manifest",
}
"""What the command line does not say, if a base class is all that it names."""
_UNKNOWN = re.compile(
    r"(?:unrecognized arguments: |Option '|Group '(?P<group>[\w.]+)' does not accept option ')(-*)([\w.]+)"
)
"""An option that no parser knows, or part of one."""
_WORKER = re.compile(r"Caught (\w+) in .*?process \d+\.\s.*Original Traceback", re.DOTALL)
"""Begin of an error that a process of a loader has handed on."""
_IN_CLASS = "Problem with given class_path"
"""Begin of an error behind which stands what a constructor raised."""
_LONGEST = 1000


def read_strictly(arguments: Sequence[str]) -> None:
    """Check the YAML files that arguments name, and have this process' parsers read YAML as this module says.

    Raises:
        ValueError: a file is no YAML mapping, or has a key twice; names file and row.
    """
    for argument in arguments:
        for name in (argument, argument.partition("=")[2], argument.removeprefix("-c")):
            if name.endswith((".yaml", ".yml")) and Path(name).is_file():
                read_yaml_mapping(name)
    for mode in ("yaml", "omegaconf+"):
        set_loader(mode, _load, exceptions=(yaml.YAMLError,))


def _load(text: str) -> Any:
    if text.strip() == "None":  # what jsonargparse makes of `--model.backbone.lora null`
        return None
    if "\n" in text or "{" in text:
        check_yaml(text)
    return _load_as_before(text)


def settled(config: Any, name: str = "") -> Any:
    """A configuration, or a part of one, with the home directory for `~/` at the begin of a text.

    Raises:
        ValueError: a value is not a number; names it.
    """
    if isinstance(config, Namespace):
        for key, value in vars(config).items():
            config[key] = settled(value, f"{name}.{key}".lstrip("."))
    elif isinstance(config, dict):
        return {key: settled(value, f"{name}.{key}".lstrip(".")) for key, value in config.items()}
    elif isinstance(config, list):
        return [settled(value, name) for value in config]
    elif isinstance(config, str) and config.startswith("~/"):
        return str(Path(config).expanduser())
    elif isinstance(config, float) and math.isnan(config):
        raise ValueError(f"{name} is NaN. Expected a number.")
    return config


def is_meant_to_be_read(error: BaseException) -> bool:
    """Whether an error tells its user what to change, so that the place where it was raised says no more.

    These are errors of the arguments, of the system (a missing file, a full disk) and of trackers' servers, and what
    this project or Lightning raises by a `raise` of its own; not what Python finds wrong with their code.
    """
    error = _first(error)
    place = error.__traceback__
    if isinstance(error, argparse.ArgumentError | OSError | OmegaConfBaseException) or is_of_tracker(error):
        return True
    if place is None or isinstance(error, AssertionError | NotImplementedError):
        return False
    if _WORKER.match(str(error)):
        return isinstance(error, ValueError)
    while place.tb_next is not None:
        place = place.tb_next
    code = place.tb_frame.f_code
    return _speaks_to_users(Path(code.co_filename)) and code.co_code[place.tb_lasti] == _RAISE


def _speaks_to_users(file: Path) -> bool:
    parts = file.relative_to(_ROOT).parts if file.is_relative_to(_ROOT) else ()
    return bool(parts and parts[0] in _OWN) or {"site-packages", "lightning"} <= set(file.parts)


def _first(error: BaseException) -> BaseException:
    """What a constructor raised, where jsonargparse has tried several readings of the argument."""
    while str(error).startswith((_UNION, _IN_CLASS)):
        before = next(filter(is_meant_to_be_read, _of_readings(error)), error.__cause__ or error.__context__)
        if before is None:
            break
        error = before
    return error


def _of_readings(error: BaseException) -> Sequence[BaseException]:
    """The errors of all readings, of which jsonargparse hands on the first alone."""
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    return () if place is None else place.tb_frame.f_locals.get("exceptions", ())


def one_sentence(error: BaseException, command: str) -> str:
    """What an error of a command says, without secrets, as a line that a terminal shows as it is."""
    error = _first(error)
    if isinstance(error, argparse.ArgumentError):
        said = _in_plain_words(without_named_values(_of_parser(str(error))).rstrip("."))
        of_class = _CLASS.search(said)
        options = f"--{of_class[1]}.help {of_class[2]}" if of_class else "--help"
        text = f"{said}.{_nearest(error, said)} `python main.py {command} {options}` shows the options."
    elif isinstance(error, OSError) and error.strerror:
        names = " → ".join(str(name) for name in (error.filename, error.filename2) if name is not None)
        text = f"{names}: {error.strerror}" if names else error.strerror
    elif isinstance(error, OmegaConfBaseException):
        text = ": ".join(part for part in (error.full_key, f"{str(error).splitlines()[0]}.") if part)
    elif _WORKER.match(str(error)):
        text = str(error).strip().splitlines()[-1].partition(": ")[2]
    else:
        text = str(error)
    text = printable(hide_secrets(as_called(" ".join(text.split())))) or type(error).__name__
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def whole_story(error: BaseException) -> str:
    """Where an error was raised, without secrets, as lines that a terminal shows as they are."""
    return printable(hide_secrets("".join(traceback.format_exception(error))), multiline=True)


def _in_plain_words(said: str) -> str:
    """What a parser says of classes that nobody has named, or not rightly, in terms of what to give."""
    said = _OF_BASE.sub(lambda found: _UNNAMED[found[1]], said)
    said = _NO_BACKBONE.sub(_UNNAMED["Backbone"], said)
    said = _ABSTRACT.sub(lambda found: _UNNAMED.get(found[1], found[0]), said)
    return _NO_CLASS.sub(lambda found: f"there is no class {found[1]}. {_nearest_class(found[1])}", said)


def _nearest_class(name: str) -> str:
    modules = [module for path, module in list(sys.modules.items()) if path.partition(".")[0] in _OWN]
    classes = {key for module in modules for key, value in vars(module).items() if isinstance(value, type)}
    near = get_close_matches(name, sorted(key for key in classes if not key.startswith("_")), cutoff=0.8)
    return (
        f"The nearest: {', '.join(near)}" if near else "Give its name as the documentation has it, or its import path"
    )


def _nearest(error: BaseException, said: str) -> str:
    """Which options an unknown one may have meant: those of the innermost parser that the error came through."""
    unknown = _UNKNOWN.search(said)
    if unknown is None:
        return ""
    group, dashes, name = unknown.groups()
    known: list[str] = []
    inner: BaseException | None = error
    while inner is not None:
        for frame, _ in traceback.walk_tb(inner.__traceback__):
            parser = frame.f_locals.get("self")
            if isinstance(parser, ArgumentParser):
                known = [dashes + key for key, _ in parser.get_defaults().items()]
        inner = inner.__cause__ or inner.__context__
    return did_you_mean(dashes + (f"{group}.{name}" if group else name), known, most=3)


def _of_parser(message: str) -> str:
    """jsonargparse's tree of what it tried, without the branches that nobody meant."""
    lines = [line.strip() for line in message.splitlines()]
    return " ".join(line.removeprefix("- ") for line in lines if line and not _OF_UNIONS.fullmatch(line))
