"""The app's page: one HTML file with all its parts in it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from callbacks.colours import EMOTIONS, RELATIONS, colour_of
from datamodules.emotions import Taxonomy
from tools.report.page_writer import build_page

if TYPE_CHECKING:
    from datamodules.ablation import Ablation

MODES: "dict[Ablation, str]" = {
    "full": "the whole clip",
    "video_only": "without sound",
    "audio_only": "without pictures",
}
"""What a model is given of a clip → what the page calls it."""

_SCRIPTS = ("elements.js", "app.js")
_STYLES = ("style.css", "app.css")
_SOURCES = {"connect-src": "'self'", "img-src": "data:", "media-src": "blob:"}
"""The clip that one has chosen is played from the browser's own memory."""


def page_of(models: Sequence[str], taxonomy: Taxonomy, is_verified: bool, max_megabytes: int) -> str:
    """The page as HTML.

    Args:
        models: their names, in their order.
        taxonomy: whose colours the emotions have.
        is_verified: whether a verifier reads the sentences.
        max_megabytes: largest file, in 10⁶ bytes.
    """
    data = {
        "title": "Explain a clip",
        "models": list(models),
        "modes": MODES,
        "is_verified": is_verified,
        "max_megabytes": max_megabytes,
        "colours": {
            "relations": RELATIONS,
            "emotions": EMOTIONS | {name: colour_of(name, taxonomy) for name in taxonomy.classes},
        },
    }
    return build_page(data, __package__, _SCRIPTS, _STYLES, _SOURCES)
