"""Colours of emotions and relations."""

from typing import get_args

import pytest

from callbacks.colours import EMOTIONS, RELATIONS, SYMBOLS
from datamodules.emotions import GO_EMOTIONS
from lightning_modules.coherence import Relation

pytestmark = pytest.mark.unit


def test_every_label_and_every_relation_has_a_colour() -> None:
    assert set(EMOTIONS) == set(GO_EMOTIONS)
    assert set(RELATIONS) == set(SYMBOLS) == set(get_args(Relation))
