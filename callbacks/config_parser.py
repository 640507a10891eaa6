"""The parser of configurations: it gives out no secret (`config_secrets`), and writes them so that they run again.

Where loggers, callbacks and a profiler write to the run directory, it is written as a reference, too: otherwise a
recorded configuration with another `trainer.default_root_dir` would write to the old one.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import torch
import yaml
from jsonargparse import Namespace
from jsonargparse.typing import register_type
from lightning.pytorch.cli import LightningArgumentParser
from omegaconf import OmegaConf

from callbacks.config_secrets import from_environment, hide_secrets, with_references
from callbacks.secret_names import is_secret_option, without_named_values, without_passwords
from datamodules.files.writing import written_whole

_RUN = "${trainer.default_root_dir}"


class SecretKeepingParser(LightningArgumentParser):
    """Parses configurations, and gives out no secret of them."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # The default of some of Lightning's callbacks.
        register_type(torch.device, str, torch.device, fail_already_registered=False)
        OmegaConf.register_resolver("oc.env", from_environment, replace=True)

    def dump(self, *args: Any, **kwargs: Any) -> str:
        """A configuration as text: secrets as references to the environment, the run directory as one to its option.

        A secret that is written in the configuration is an error of the parser's.
        """
        text = super().dump(*args, **kwargs)
        config = yaml.safe_load(text)
        for name, value in _leaves(config):
            written = with_references(str(value))
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
        with written_whole(path) as temporary:
            super().save(config, str(temporary), *args, **kwargs)

    def refuse_written_secrets(self, config: Namespace) -> None:
        """End with an error where a secret stands in a configuration."""
        self.dump(config, skip_validation=True)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """End with a message that shows no secret."""
        super().error(without_named_values(hide_secrets(message)), ex)


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
        written = with_references(str(value))
        return value if written == str(value) else written
    return value


def _following_run(config: Any) -> Any:
    """The configuration, where what loggers, callbacks and a profiler write to the run directory follows its option."""
    trainer = config.get("trainer") if isinstance(config, dict) else None
    directory = trainer and trainer.get("default_root_dir")
    if not directory:
        return config
    inside = re.compile(rf"^{re.escape(str(directory))}(?=/|$)")
    parts = {part: trainer[part] for part in ("logger", "callbacks", "profiler") if part in trainer}
    following = _map_values(parts, lambda value, _: inside.sub(_RUN, value) if isinstance(value, str) else value)
    return {**config, "trainer": {**trainer, **following}}


def _map_values(config: Any, change: Callable[[Any, str], Any], name: str = "") -> Any:
    """The configuration with each of its values, given with its name, changed."""
    if isinstance(config, dict):
        return {key: _map_values(value, change, f"{name}.{key}") for key, value in config.items()}
    if isinstance(config, list):
        return [_map_values(value, change, name) for value in config]
    return change(config, name)
