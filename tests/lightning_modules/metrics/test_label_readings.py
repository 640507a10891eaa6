"""Label sets under other readings, against brute force and the definition of a relation."""

import pytest
import torch

from datamodules.emotions import GO_EMOTIONS, MAFW_TAXONOMY
from lightning_modules.coherence import relation
from lightning_modules.emotion_verifier import label_mask
from lightning_modules.metrics.label_readings import TARGET_LABELS, relation_codes, set_margins

pytestmark = pytest.mark.numerics


def random_probabilities(num_sentences: int, num_labels: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(num_sentences, num_labels, generator=generator) ** 4


def test_a_margin_is_the_smallest_error_that_changes_the_set():
    probabilities = random_probabilities(60, 4)
    margins = set_margins(probabilities)
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 0.0, 1.0])] * 4)
    for row, margin in zip(probabilities, margins, strict=True):
        before = label_mask(row[None])
        for factor, changes in ((0.999, False), (1.001, True)):
            moved = label_mask(row + signs * margin * factor)
            assert bool((moved != before).any()) is changes


def test_relations_are_those_of_coherence():
    mask = label_mask(random_probabilities(200, len(GO_EMOTIONS)))
    mask[0] = torch.tensor([label == "neutral" for label in GO_EMOTIONS])
    emotions = {label: emotion for emotion, label in MAFW_TAXONOMY.labels.items()}
    names = ("contradicting", "neutral", "matching")
    for row, codes in zip(mask.tolist(), relation_codes(mask, GO_EMOTIONS).tolist(), strict=True):
        own = {label for label, read in zip(GO_EMOTIONS, row, strict=True) if read}
        assert [names[code] for code in codes] == [
            relation(own, emotions[label], MAFW_TAXONOMY) for label in TARGET_LABELS
        ]
