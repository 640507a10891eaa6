"""YAML as it is read everywhere: a key that is there twice is refused, of which PyYAML takes the last."""

from pathlib import Path
from typing import Any

import yaml

from datamodules.files.text import read_text

_Loader: type = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def refuse_repeated_keys(text: str) -> None:
    """Raises `yaml.YAMLError` where a mapping of a YAML text has a key twice, or the text is no YAML."""
    _check(yaml.compose(text, _Loader))


def read_yaml_mapping(path: str | Path) -> dict[str, Any]:
    """Content of a YAML file that holds a mapping, such as a run's `config.yaml`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no YAML, a key that is there twice, something else than a mapping, or another encoding.
    """
    text = read_text(path)
    try:
        refuse_repeated_keys(text)
        content = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        row = "" if error.problem_mark is None else f":{error.problem_mark.line + 1}"
        raise ValueError(f"{path}{row}: not valid YAML: {error.problem or error}.") from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ValueError(f"{path}: not valid YAML: {error}.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: got {type(content).__name__}. Expected a YAML mapping, `name: value` per line.")
    return content


def _check(root: yaml.Node | None) -> None:
    nodes = [root]  # no recursion: the composer has refused what is too deep for it, and aliases are walked once
    seen = set[int]()
    while nodes:
        node = nodes.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            nodes += node.value
        elif isinstance(node, yaml.MappingNode):
            keys = set[str]()
            for key, value in node.value:
                nodes.append(value)
                if isinstance(key, yaml.ScalarNode) and key.value != "<<" and key.value in keys:
                    raise yaml.MarkedYAMLError(
                        problem=f"the key {key.value!r} is there twice", problem_mark=key.start_mark
                    )
                keys.add(str(key.value))
