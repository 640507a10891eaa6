"""Groups of an experience: left out and replaced."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from datamodules.batch import ClipBatch
from datamodules.emotions import DFEW_TAXONOMY
from datamodules.rationale import read_response
from lightning_modules.backbones.interface import Completions
from lightning_modules.backbones.percept import Percept
from lightning_modules.emotion_verifier import SentenceReading
from lightning_modules.rl.advantages import group_advantages, has_spread
from lightning_modules.rl.experience import Experience, Rollout

pytestmark = pytest.mark.unit

SIZE = 2


@dataclass
class Seen(Percept):
    video: Tensor


def experience(batch: ClipBatch, rewards: list[float], width: int, name: str) -> Experience:
    """Row n's only token is 10 · n, its text names `name` and n."""
    total, rows = torch.tensor(rewards), len(rewards)
    completions = Completions(
        (10 * torch.arange(rows))[:, None].expand(rows, width).contiguous(),
        torch.ones(rows, width, dtype=torch.bool),
        torch.zeros(rows, width),
        torch.ones(rows, dtype=torch.bool),
    )
    texts = [f"<think>{name}{n}.</think><answer>angry</answer>" for n in range(rows)]
    responses = [read_response(text, DFEW_TAXONOMY) for text in texts]
    targets = [target or "" for target in batch.targets for _ in range(SIZE)]
    percept = Seen(torch.arange(len(batch)))
    readings = [[SentenceReading(s, torch.zeros(28), ("anger",)) for s in r.sentences] for r in responses]
    advantages, spread = group_advantages(total, SIZE), has_spread(total, SIZE)
    rollout = Rollout(batch, percept, completions, responses, targets)
    return Experience(rollout, {"accuracy": total}, total, advantages, spread, readings)


def test_groups_without_spread_are_left_out(batch: ClipBatch) -> None:
    whole = experience(batch, [1, 1, 0, 1, 2, 0], width=2, name="a")
    assert whole.uniform_prompts == [0]
    part = whole.with_spread()
    assert part is not None
    assert part.rollout.batch.ids == ["clip1", "clip2"] and part.rollout.group_size == SIZE
    assert part.rollout.percept.video.tolist() == [1, 2]
    assert part.rollout.completions.token_ids[:, 0].tolist() == [20, 30, 40, 50]
    assert [r.sentences[0] for r in part.rollout.responses] == ["a2.", "a3.", "a4.", "a5."]
    assert part.rollout.targets == ["anger", "anger", "happiness", "happiness"]
    assert part.total.tolist() == part.rewards["accuracy"].tolist() == [0, 1, 2, 0]
    assert torch.equal(part.advantages, whole.advantages[2:]) and part.spread.all()
    assert part.readings is not None and part.readings[0][0].text == "a2."


def test_all_or_none_have_spread(batch: ClipBatch) -> None:
    whole = experience(batch, [0, 1, 0, 1, 2, 0], width=1, name="a")
    assert whole.with_spread() is whole
    assert experience(batch, [1] * 6, width=1, name="a").with_spread() is None


def test_groups_are_replaced_in_their_place(batch: ClipBatch) -> None:
    whole = experience(batch, [1, 1, 0, 1, 2, 2], width=1, name="a")
    again = experience(batch.rows(0, 2), [3, 4, 5, 5], width=3, name="b")
    new = whole.put([0, 2], again, pad_token_id=99)
    assert new.rollout.batch is batch and new.rollout.percept is whole.rollout.percept
    assert new.rollout.completions.token_ids.tolist() == [
        [0, 0, 0],
        [10, 10, 10],
        [20, 99, 99],
        [30, 99, 99],
        [20, 20, 20],
        [30, 30, 30],
    ]
    assert [r.sentences[0] for r in new.rollout.responses] == ["b0.", "b1.", "a2.", "a3.", "b2.", "b3."]
    assert new.total.tolist() == new.rewards["accuracy"].tolist() == [3, 4, 0, 1, 5, 5]
    assert torch.equal(new.advantages, group_advantages(new.total, SIZE))
    assert new.uniform_prompts == [2]
    assert new.readings is not None and [r[0].text for r in new.readings][:3] == ["b0.", "b1.", "a2."]
