"""Secrets in configurations: they come from the environment, and are neither written nor shown.

A configuration says `api_key: ${oc.env:WANDB_API_KEY}`. The object gets the key; `config.yaml`, `--print_config` and
error messages say what the configuration said, so that a written configuration still runs. A key that stands in the
configuration itself is refused, because copies of it would be written.

`callbacks/secret_names.py` says what counts as a secret. Other values from the environment, such as a scratch
directory, are written as they are.
"""

import os
import re
from typing import Any

from omegaconf import Node
from omegaconf.resolvers import oc

from callbacks.secret_names import is_secret_option, is_secret_variable, without_passwords

_SHORT = 8
"""Characters of the shortest secret that is looked for inside words, too."""

_written_as: dict[str, str] = {}
"""Of the secrets that were taken from the environment: what a configuration says in their stead."""


def from_environment(name: str, *default: Any, _node_: Node) -> Any:
    """OmegaConf's `oc.env`; remembers secrets."""
    value = oc.env(name, *default)
    option = _node_._get_full_key(None)
    if os.environ.get(name) and (
        is_secret_variable(name) or is_secret_option(option) or without_passwords(value) != value
    ):
        _written_as[value] = f"${{oc.env:{name}}}"
    return value


def hide_secrets(text: str) -> str:
    """The text with references for secrets from the environment, and without passwords of addresses."""
    return without_passwords(with_references(text))


def with_references(text: str) -> str:
    """The text with references for secrets from the environment."""
    for secret in sorted(_written_as, key=len, reverse=True):
        # A short one, such as `EMPTY`, is part of words that it has nothing to do with.
        pattern = re.escape(secret) if len(secret) >= _SHORT else rf"(?<![\w.]){re.escape(secret)}(?![\w.])"
        text = re.sub(pattern, _written_as[secret], text)  # a variable's name has no backslash
    return text
