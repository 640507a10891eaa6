"""Pieces of batches: cut, picked and joined."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from lightning_modules.backbones.interface import Completions
from lightning_modules.backbones.percept import Percept
from lightning_modules.rl.rows import join, spans, take

pytestmark = pytest.mark.unit

PAD = 9


def completions(*lengths: int, first: int = 0) -> Completions:
    """Row n holds the token `first` + n as often as its length says."""
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    token_ids = torch.where(mask, first + torch.arange(len(lengths))[:, None], PAD)
    return Completions(token_ids, mask, torch.where(mask, -0.5, 0.0), torch.tensor([n < 3 for n in lengths]))


def test_spans() -> None:
    assert spans(5, 2) == [(0, 2), (2, 4), (4, 5)]
    assert spans(5, None) == spans(5, 8) == [(0, 5)]
    assert spans(0, None) == spans(0, 2) == []


def test_join_pads_to_the_widest() -> None:
    joined = join([completions(1, 2), completions(4, first=5)], PAD)
    assert joined.token_ids.tolist() == [[0, PAD, PAD, PAD], [1, 1, PAD, PAD], [5, 5, 5, 5]]
    assert joined.lengths.tolist() == [1, 2, 4] and joined.mask.dtype == torch.bool
    assert joined.logprobs.tolist() == [[-0.5, 0, 0, 0], [-0.5, -0.5, 0, 0], [-0.5] * 4]
    assert joined.finished.tolist() == [True, True, False]


def test_take_picks_rows_of_tensors_and_lists() -> None:
    @dataclass
    class Heard(Percept):
        audio: Tensor
        names: list[str]

    heard = take(Heard(torch.arange(6).view(3, 2), ["a", "b", "c"]), [2, 0])
    assert heard.audio.tolist() == [[4, 5], [0, 1]] and heard.names == ["c", "a"]
    assert take(completions(1, 2), [1]).token_ids.tolist() == [[1, 1]]
