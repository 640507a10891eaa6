"""How a sentence relates to a target emotion."""

import pytest

from datamodules.emotions import MAFW_TAXONOMY
from lightning_modules.coherence import relation

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("emotions", "target", "expected"),
    [
        (("joy", "love"), "happiness", "matching"),  # the verifier's label of happiness is joy
        (("neutral",), "happiness", "neutral"),
        (("neutral",), "neutral", "matching"),
        (("neutral", "anger"), "happiness", "contradicting"),  # not neutral alone
        (("anger",), "neutral", "contradicting"),
        (("disgust",), "anger_disgust", "matching"),
        (("joy",), None, None),
        (("neutral",), None, "neutral"),
    ],
)
def test_relation(emotions: tuple[str, ...], target: str | None, expected: str | None) -> None:
    assert relation(emotions, target, MAFW_TAXONOMY) == expected
