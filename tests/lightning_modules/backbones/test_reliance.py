"""What sentences rest on, on every backbone of the contract: tiny random weights in float32 on the CPU."""

import math
from dataclasses import replace
from itertools import chain
from pathlib import Path

import pytest
import torch
from torch import Tensor

from datamodules.batch import ClipBatch
from lightning_modules.backbones.decoder_backbone import DecoderBackbone
from lightning_modules.reliance import OPENING, other_clips, sentence_reliance, sentence_tokens
from lightning_modules.rl.rows import take

from .conftest import Case

pytestmark = pytest.mark.numerics

SENTENCES = ["The man frowns hard.", "Él sonríe – 微笑 😊!", '"No!" he shouts.', "é"]
FIRST, SECOND = [1, 2, 0], [2, 0, 1]
"""Clips in the place of clips 0, 1 and 2."""


def dubbed(batch: ClipBatch, pictures: list[int] | None = None, sound: list[int] | None = None) -> ClipBatch:
    """The clips with frames and sound of others."""
    if pictures is not None:
        batch = replace(batch, frames=batch.frames[pictures])
    if sound is not None:
        batch = replace(batch, waveform=batch.waveform[sound], waveform_lengths=batch.waveform_lengths[sound])
    return batch


@pytest.fixture
def model(model: DecoderBackbone, case: Case) -> DecoderBackbone:
    """The backbone as stage 3 has it: its towers frozen."""
    model.set_trainable(case.trained)
    return model


@pytest.fixture
def even(clips: ClipBatch) -> ClipBatch:
    """Clips of equal length, whose sound takes as many tokens in every model."""
    waveform = torch.randn(3, 8000, generator=torch.Generator().manual_seed(0)) / 10
    return replace(clips, waveform=waveform, waveform_lengths=torch.full((3,), 8000), has_audio=torch.ones(3) > 0)


def test_a_percept_takes_a_modality_of_other_clips(model: DecoderBackbone, even: ClipBatch) -> None:
    percept = model.perceive(even)
    others = take(percept, FIRST)
    assert percept.modalities
    for modality in percept.modalities:
        actual = model.encode(even, percept.replaced(modality, others))
        expected = model.encode(dubbed(even, **{modality: FIRST}))
        torch.testing.assert_close(actual.embeddings, expected.embeddings, atol=1e-4, rtol=0)
        assert not torch.allclose(actual.embeddings, model.encode(even, percept).embeddings, atol=1e-3)


def test_sound_of_another_length_leaves_prompts_as_long_as_they_were(model: DecoderBackbone, clips: ClipBatch) -> None:
    percept = model.perceive(clips)
    assert len(set(clips.waveform_lengths.tolist())) > 1
    before = model.encode(clips, percept)
    for modality in percept.modalities:
        after = model.encode(clips, percept.replaced(modality, take(percept, FIRST)))
        assert torch.equal(after.attention_mask, before.attention_mask)
        assert torch.isfinite(after.embeddings).all()


def test_a_sentence_has_its_own_tokens_and_no_other(model: DecoderBackbone) -> None:
    completions = model.completion_ids([OPENING + sentence for sentence in SENTENCES])
    own = sentence_tokens(model.tokenizer, completions.token_ids, completions.mask)
    for row, sentence in enumerate(SENTENCES):
        text = model.tokenizer.decode(completions.token_ids[row][own[row]])
        assert text.endswith(sentence), "all of it"
        assert len(text) - len(sentence) <= OPENING.count(">"), "at most a token that holds a piece of the tag, too"
        first = int(own[row].nonzero()[0])
        assert OPENING.startswith(model.tokenizer.decode(completions.token_ids[row][:first]))
        assert not own[row, int(completions.mask[row].sum()) - 1], "not the end of the sequence"


def test_reliance_is_what_the_backbone_loses_on_the_clips_themselves(model: DecoderBackbone, even: ClipBatch) -> None:
    said = [[SENTENCES[0], SENTENCES[1]], [], [SENTENCES[1]], [SENTENCES[2], SENTENCES[2]], [SENTENCES[3]], []]
    percept = model.perceive(even)
    others = other_clips(percept, 5)
    assert len(others) == 2, "no more than there are"
    actual = sentence_reliance(model, even, percept, others, said, with_both=True)
    assert [len(own) for own in actual] == [len(own) for own in said]
    assert actual[3][0] == actual[3][1]

    def logprob(batch: ClipBatch, clip: int, sentence: str) -> float:
        completions = model.completion_ids([OPENING + sentence])
        own = sentence_tokens(model.tokenizer, completions.token_ids, completions.mask)
        part = batch.rows(clip, clip + 1)
        return float(model.logprobs(model.encode(part), completions)[own].sum())

    taken: dict[str, list[dict[str, list[int]]]] = {
        "pictures": [{"pictures": order} for order in (FIRST, SECOND)],
        "sound": [{"sound": order} for order in (FIRST, SECOND)],
        "both": [{"pictures": order, "sound": order} for order in (FIRST, SECOND)],
    }
    for row, own in enumerate(said):
        for sentence, reliance in zip(own, actual[row], strict=True):
            full = logprob(even, row // 2, sentence)
            for name, ways in taken.items():
                value = getattr(reliance, name)
                if value is None:
                    assert name not in percept.modalities and len(percept.modalities) == 1
                    continue
                rest = [math.exp(logprob(dubbed(even, **way), row // 2, sentence) - full) for way in ways]
                assert value == pytest.approx(-math.log(sum(rest) / 2), abs=2e-3), (row, name)
    in_parts = sentence_reliance(model, even, percept, others, said, size=1)
    for a, b in zip(chain(*in_parts), chain(*actual), strict=True):
        for modality in percept.modalities:
            assert getattr(a, modality) == pytest.approx(getattr(b, modality), abs=1e-3)
        assert a.both is None


def test_what_a_tower_in_training_returns_cannot_be_replaced(
    model: DecoderBackbone, case: Case, even: ClipBatch, tmp_path: Path
) -> None:
    percept = model.perceive(even)
    if percept.modality_fields:
        features: Tensor = getattr(percept, percept.modality_fields["pictures"])
        shorter = replace(percept, **{percept.modality_fields["pictures"]: features[:, :-1]})
        with pytest.raises(ValueError, match="features of pictures have the shape"):
            percept.replaced("pictures", shorter)
        return
    model.set_trainable([name for name in model.parts if name.endswith("_tower")])
    percept = model.perceive(even)
    assert percept.modalities == ()
    with pytest.raises(ValueError, match="does not hold pictures and sound apart"):
        sentence_reliance(model, even, percept, other_clips(percept, 1), [["He smiles."]] * 3)
