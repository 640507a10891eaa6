"""Secrets in configurations: they come from the environment, and are neither written nor shown.

A configuration says `api_key: ${oc.env:WANDB_API_KEY}`. The object gets the key; `config.yaml`, `--print_config` and
error messages say what the configuration said, so that a written configuration still runs. A key that stands in the
configuration itself is refused, because copies of it would be written.

What counts as a secret: `callbacks/secret_names.py`. Other values from the environment, such as a scratch directory,
are written as what they are.

The run directory is written as a reference, too, where loggers and callbacks write to it: a run of a recorded
configuration with another `trainer.default_root_dir` would else write to the old one.
"""

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import yaml
from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser
from omegaconf import Node, OmegaConf
from omegaconf.resolvers import oc

from callbacks.secret_names import is_secret_option, is_secret_variable, without_named_values, without_passwords

_RUN = "${trainer.default_root_dir}"

_SHORT = 8
"""Characters of the shortest secret that is looked for inside words, too."""

_written_as: dict[str, str] = {}
"""Of the secrets that were taken from the environment: what a configuration says in their stead."""


def _from_environment(name: str, *default: Any, _node_: Node) -> Any:
    """OmegaConf's `oc.env`; remembers secrets."""
    value = oc.env(name, *default)
    option = _node_._get_full_key(None)
    if os.environ.get(name) and (
        is_secret_variable(name) or is_secret_option(option) or without_passwords(value) != value
    ):
        _written_as[value] = f"${{oc.env:{name}}}"
    return value


class SecretKeepingParser(LightningArgumentParser):
    """Parses configurations, and gives out no secret of them."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        OmegaConf.register_resolver("oc.env", _from_environment, replace=True)

    def dump(self, *args: Any, **kwargs: Any) -> str:
        """A configuration as text: secrets as references to the environment, the run directory as one to its option.

        A secret that is written in the configuration is an error of the parser's.
        """
        text = super().dump(*args, **kwargs)
        config = yaml.safe_load(text)
        for name, value in _leaves(config):
            written = _with_references(str(value))
            if without_passwords(written) != written or (
                is_secret_option(name) and value not in ("", None) and "${" not in written
            ):
                self.error(
                    f"{name} holds a secret, which would be written to config.yaml. Put it into an environment "
                    "variable, and set the option to ${oc.env:NAME}, with the variable's name."
                )
        written = _following_run(_map_values(config, _hidden))
        if written == config:
            return text
        header = [line for line in text.splitlines(keepends=True) if line.startswith("#")]
        return "".join(header) + yaml.safe_dump(written, sort_keys=False, allow_unicode=True)

    def save(self, config: Namespace, path: str, *args: Any, **kwargs: Any) -> None:
        """Write a configuration whole or not at all: on a full disk the earlier one stays."""
        partial = f"{path}.partial"
        try:
            super().save(config, partial, *args, **kwargs)
            Path(partial).replace(path)
        finally:
            Path(partial).unlink(missing_ok=True)

    def refuse_written_secrets(self, config: Namespace) -> None:
        """End with an error where a secret stands in a configuration."""
        self.dump(config, skip_validation=True)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """End with a message that shows no secret."""
        super().error(without_named_values(hide_secrets(message)), ex)


def hide_secrets(text: str) -> str:
    """The text with references for secrets from the environment, and without passwords of addresses."""
    return without_passwords(_with_references(text))


def _with_references(text: str) -> str:
    for secret in sorted(_written_as, key=len, reverse=True):
        # A short one, such as `EMPTY`, is part of words that it has nothing to do with.
        pattern = re.escape(secret) if len(secret) >= _SHORT else rf"(?<![\w.]){re.escape(secret)}(?![\w.])"
        text = re.sub(pattern, _written_as[secret], text)  # a variable's name has no backslash
    return text


def _leaves(config: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Values of a configuration, but switches, with their names; those of a list have its name."""
    if isinstance(config, dict):
        for key, value in config.items():
            yield from _leaves(value, f"{name}.{key}".lstrip("."))
    elif isinstance(config, list):
        for value in config:
            yield from _leaves(value, name)
    elif not isinstance(config, bool):
        yield name, config


def _hidden(value: Any, name: str) -> Any:
    """A value of a configuration, or the reference that it is written as."""
    if isinstance(value, str) or is_secret_option(name):  # a password of digits is a number in YAML
        written = _with_references(str(value))
        return value if written == str(value) else written
    return value


def _following_run(config: Any) -> Any:
    """The configuration, where what loggers and callbacks write to the run directory follows its option."""
    trainer = config.get("trainer") if isinstance(config, dict) else None
    directory = trainer and trainer.get("default_root_dir")
    if not directory:
        return config
    inside = re.compile(rf"^{re.escape(str(directory))}(?=/|$)")
    parts = {part: trainer[part] for part in ("logger", "callbacks") if part in trainer}
    following = _map_values(parts, lambda value, _: inside.sub(_RUN, value) if isinstance(value, str) else value)
    return {**config, "trainer": {**trainer, **following}}


def _map_values(config: Any, change: Callable[[Any, str], Any], name: str = "") -> Any:
    """The configuration with each of its values, given with its name, changed."""
    if isinstance(config, dict):
        return {key: _map_values(value, change, f"{name}.{key}") for key, value in config.items()}
    if isinstance(config, list):
        return [_map_values(value, change, name) for value in config]
    return change(config, name)
