"""Clips in a batch: one entry of every field for each, and parts that hold what the whole held."""

from dataclasses import fields

import pytest
import torch
from torch import Tensor

from datamodules.batch import BadClip, Clip, ClipBatch, collate

pytestmark = pytest.mark.unit

DURATIONS = (1.6, 0.04, 3.5)
NUM_SAMPLES = (5, 0, 3)


def made_up(number: int, **values) -> Clip:
    """A clip whose every field tells its number."""
    return Clip(
        **{
            "id": f"clip{number}",
            "media": f"{number}.mp4",
            "frames": torch.full((2, 3, 4, 4), number, dtype=torch.uint8),
            "waveform": torch.full((NUM_SAMPLES[number],), number + 0.5),
            "has_audio": NUM_SAMPLES[number] > 0,
            "instruction": f"Which emotion has number {number}?",
            "target": None if number == 2 else "anger",
            "response": f"{number}",
            "dataset": f"corpus{number}",
            "mel": torch.full((2, 6), number - 0.5),
            "duration_seconds": DURATIONS[number],
            **values,
        }
    )


def assert_same(batch: ClipBatch, expected: ClipBatch) -> None:
    for field in fields(ClipBatch):
        ours, theirs = getattr(batch, field.name), getattr(expected, field.name)
        if isinstance(theirs, Tensor):
            torch.testing.assert_close(ours, theirs, atol=0, rtol=0, msg=field.name)
        else:
            assert ours == theirs, field.name


def test_durations_are_one_number_per_clip() -> None:
    batch = collate([made_up(number) for number in range(3)])
    torch.testing.assert_close(batch.durations_seconds, torch.tensor(DURATIONS), atol=0, rtol=0)
    assert batch.durations_seconds.dtype == torch.float32


@pytest.mark.parametrize("drop_failures", [False, True])
def test_failed_clip_lasts_no_time_or_is_dropped(drop_failures: bool) -> None:
    clips = [made_up(0), made_up(1, failure="zero bytes", duration_seconds=0.0), made_up(2)]
    durations = collate(clips, drop_failures).durations_seconds.tolist()
    assert durations == pytest.approx([1.6, 3.5] if drop_failures else [1.6, 0.0, 3.5])


def test_batch_of_failures_only_has_no_durations() -> None:
    batch = collate([made_up(0, failure="zero bytes")], drop_failures=True)
    assert batch.durations_seconds.shape == (0,)
    assert batch.durations_seconds.dtype == torch.float32


@pytest.mark.parametrize(("start", "stop"), [(0, 1), (1, 3), (0, 3), (2, 2)])
def test_rows_hold_every_field_of_their_clips(start: int, stop: int) -> None:
    clips = [made_up(number) for number in range(3)]
    part = collate(clips).rows(start, stop)
    assert len(part) == stop - start
    for field in fields(ClipBatch):
        assert len(getattr(part, field.name)) == (0 if field.name == "skipped" else stop - start), field.name
    assert part.waveform.shape[1] == max(NUM_SAMPLES)  # padded as in the whole batch
    if start < stop:
        alone = collate(clips[start:stop])
        missing = max(NUM_SAMPLES) - alone.waveform.shape[1]
        alone.waveform = torch.nn.functional.pad(alone.waveform, (0, missing))
        assert_same(part, alone)


def test_rows_of_a_batch_without_mel_features_have_none() -> None:
    assert collate([made_up(number, mel=None) for number in range(3)]).rows(0, 2).mel is None


def test_skipped_clips_stay_with_the_whole_batch() -> None:
    batch = collate([made_up(0), made_up(1, failure="zero bytes"), made_up(2)], drop_failures=True)
    part = batch.rows(1, 2)
    assert (part.ids, part.skipped) == (["clip2"], [])
    assert list(map(str, batch.skipped)) == ["1.mp4: zero bytes"]


def test_take_picks_clips_in_the_given_order(batch: ClipBatch) -> None:
    batch.skipped.append(lost := BadClip("lost", "lost.mp4", "empty"))
    picked = batch.take([2, 1])
    assert picked.ids == ["clip2", "clip1"] and picked.targets == ["happiness", "anger"]
    assert torch.equal(picked.frames, batch.frames[[2, 1]]) and torch.equal(picked.waveform, batch.waveform[[2, 1]])
    assert picked.mel is None and picked.skipped == [] and batch.skipped == [lost]
