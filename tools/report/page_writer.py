"""One HTML file of a page's parts: it loads nothing, and nothing that a model wrote can become markup or run."""

import base64
import hashlib
import html
import json
from collections.abc import Sequence
from importlib.resources import files
from string import Template
from typing import Any

from datamodules.files.printable import whole_characters

_SHARED = ("elements.js", "parts.js")
_SCRIPTS = ("state.js", *_SHARED, "overview.js", "clips.js", "clip.js", "main.js", "shell.js")
ROLLOUT_SCRIPTS = ("rollouts_state.js", *_SHARED, "curves.js", "rollouts.js", "rollouts_main.js", "shell.js")
"""Of the page of a training run, for the data of `rollouts.rollouts_data`."""

_IN_SCRIPT = {character: f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"}
"""Legal in JSON; in a script element the first three could end it, the last two are line ends to older browsers."""


def build_page(
    data: dict[str, Any],
    package: str = __package__,
    scripts: Sequence[str] = _SCRIPTS,
) -> str:
    """A page of the parts that lie in a package's `page/`, `page.html` among them; the report's where it has none.

    Args:
        data: what the scripts find in the element `data`; has a `title`.
        package: whose page; the report's, for the data of `data.page_data`.
        scripts: file names, in their order.
    """
    style = _part(package, "style.css")
    script = "\n".join(_part(package, name) for name in scripts)
    return Template(_part(package, "page.html")).substitute(
        title=html.escape(data["title"]),
        policy=_policy(style, script),
        style=style,
        script=script,
        data=embed_json(data),
    )


def embed_json(data: Any) -> str:
    """JSON that may stand in a script element and in a UTF-8 file: half of a surrogate pair becomes `\ufffd`.

    Raises:
        ValueError: a number is not finite.
    """
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character, escape in _IN_SCRIPT.items():
        text = text.replace(character, escape)
    return whole_characters(text)


def _part(package: str, name: str) -> str:
    own = files(package).joinpath("page", name)
    return (own if own.is_file() else files(__package__).joinpath("page", name)).read_text(encoding="utf-8")


def _policy(style: str, script: str) -> str:
    """Content security policy: these very style and script, embedded pictures, and media files beside the page."""
    return "; ".join(
        (
            "default-src 'none'",
            f"style-src {_hash(style)}",
            f"script-src {_hash(script)}",
            "img-src data:",
            "media-src 'self' file: data:",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode('utf-8')).digest()).decode('ascii')}'"
