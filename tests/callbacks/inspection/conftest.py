"""A clip with what was said of it."""

from collections.abc import Callable, Sequence

import pytest
import torch

from callbacks.inspection.panel import Panel, ShownCompletion, ShownSentence, is_correct
from datamodules.emotions import DFEW_TAXONOMY, MAFW_TAXONOMY
from datamodules.rationale import read_response
from lightning_modules.coherence import relation


def completion(text: str, emotions: Sequence[Sequence[str]], target: str | None = "anger", **worth) -> ShownCompletion:
    """A completion whose sentences express the given emotions."""
    response = read_response(text, DFEW_TAXONOMY)
    sentences = tuple(
        ShownSentence(sentence, tuple(own), relation(own, target, DFEW_TAXONOMY))
        for sentence, own in zip(response.sentences, emotions, strict=True)
    )
    return ShownCompletion(response, sentences, is_correct(response.prediction, target), **worth)


SAID = completion(
    "<think>He shouts. He sits. He laughs.</think><answer>angry</answer>", [["anger"], ["neutral"], ["joy", "love"]]
)


@pytest.fixture
def make_panel() -> Callable[..., Panel]:
    def make(*completions: ShownCompletion, **fields) -> Panel:
        frames = torch.arange(4 * 3 * 24 * 24).view(4, 3, 24, 24).remainder(251).to(torch.uint8)
        waveform = torch.sin(torch.arange(16_000) / 10.0)
        values = {"id": "clip", "target": "anger", "frames": frames, "waveform": waveform, "duration_seconds": 2.0}
        return Panel(
            **{**values, "failure": None, "taxonomy": MAFW_TAXONOMY, **fields}, completions=completions or (SAID,)
        )

    return make
