"""YAML as it is read everywhere. Refused are a key that is there twice, of which PyYAML takes the last, and a depth at
which its loader crashes.
"""

from pathlib import Path
from typing import Any

import yaml

from datamodules.files.text import read_text

_Loader: type = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_MOST_LEVELS = 100


def check_yaml(text: str) -> None:
    """Refuse a YAML text before it is loaded.

    Raises:
        yaml.YAMLError: it is no YAML, has a key twice in a mapping, or more levels inside each other than its loader,
            which calls itself for each, is given.
    """
    open_nodes: list[set[str] | None] = []  # of a mapping its keys so far, of a sequence None
    is_key = [False]  # whether the next node is a key, for each level
    for event in yaml.parse(text, _Loader):
        if isinstance(event, yaml.ScalarEvent) and is_key[-1] and event.value != "<<":
            keys = open_nodes[-1]
            assert keys is not None
            if event.value in keys:
                raise yaml.MarkedYAMLError(
                    problem=f"the key {event.value!r} is there twice", problem_mark=event.start_mark
                )
            keys.add(event.value)
        if isinstance(event, yaml.CollectionStartEvent):
            if len(open_nodes) == _MOST_LEVELS:
                problem = f"more than {_MOST_LEVELS} levels inside each other"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)
            is_mapping = isinstance(event, yaml.MappingStartEvent)
            open_nodes.append(set() if is_mapping else None)
            is_key.append(is_mapping)
        elif isinstance(event, yaml.NodeEvent | yaml.CollectionEndEvent):  # a node is complete
            if isinstance(event, yaml.CollectionEndEvent):
                open_nodes.pop()
                is_key.pop()
            is_key[-1] = bool(open_nodes) and open_nodes[-1] is not None and not is_key[-1]


def read_yaml_mapping(path: str | Path) -> dict[str, Any]:
    """Content of a YAML file that holds a mapping, such as a run's `config.yaml`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no YAML, a key that is there twice, something else than a mapping, or another encoding.
    """
    text = read_text(path)
    try:
        check_yaml(text)
        content = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        row = "" if error.problem_mark is None else f":{error.problem_mark.line + 1}"
        raise ValueError(f"{path}{row}: not valid YAML: {error.problem or error}.") from error
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(f"{path}: not valid YAML: {error}.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: got {type(content).__name__}. Expected a YAML mapping, `name: value` per line.")
    return content
