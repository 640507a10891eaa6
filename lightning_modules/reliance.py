"""Does a sentence rest on what is seen and heard? What its probability loses when a modality is taken away.

Nothing needs to be known of the clip: a sentence that a model would write as readily of black frames, or of silence,
was not read off the pictures, or the sound. Towers run once per clip; the prompt is encoded and the completion scored
anew per modality.

Shape legend: B clips, G completions per clip, C completion tokens; row `b·G + g` is completion g of clip b.
"""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from datamodules.ablation import blank
from datamodules.batch import ClipBatch
from datamodules.rationale import Response
from lightning_modules.backbones.interface import Backbone, Completions, Modality, Percept

BOTH = "both"
"""Pictures and sound, taken away together."""

Span = tuple[int, int]


@dataclass(frozen=True)
class Reliance:
    """How much a sentence rests on each modality.

    Args:
        losses: modality, or `both` → what the sentence's log-probability loses without it, in nats, summed over its
            tokens; negative where the sentence is more probable without.
        num_tokens: of the sentence.
    """

    losses: Mapping[str, float]
    num_tokens: int

    def per_token(self, modality: str) -> float:
        """Loss per token, in nats."""
        return self.losses[modality] / self.num_tokens


def sentence_positions(response: Response) -> list[Span]:
    """Where each sentence of a response stands in its completion, in characters."""
    spans, cursor = [], response.completion.find("<think>") + len("<think>")
    for sentence in response.sentences:
        start = response.completion.index(sentence, cursor)
        cursor = start + len(sentence)
        spans.append((start, cursor))
    return spans


def token_spans(tokenizer: PreTrainedTokenizerBase, token_ids: Sequence[int], spans: Sequence[Span]) -> list[Span]:
    """The tokens that some stretches of a decoded text come from: a stretch → its first token, and that after its last.

    Sampled tokens need not be those that the text would be cut into, so that prefixes are decoded. A token that is only
    partly in a stretch belongs to it.

    Args:
        tokenizer: decodes, special tokens dropped.
        token_ids: of the text.
        spans: in characters of the text.
    """
    text = tokenizer.decode(token_ids, skip_special_tokens=True)

    def end(count: int) -> int:
        """How much of the text the first tokens settle: a cut character stands as another one at the end."""
        prefix = tokenizer.decode(token_ids[:count], skip_special_tokens=True)
        return next((i for i, (own, whole) in enumerate(zip(prefix, text, strict=False)) if own != whole), len(prefix))

    counts = range(len(token_ids) + 1)
    found = []
    for start, stop in spans:
        first = bisect_left(counts, start, key=end)
        first -= end(first) > start
        found.append((first, bisect_left(counts, stop, key=end)))
    return found


@torch.no_grad()
def blank_percept(backbone: Backbone, batch: ClipBatch) -> Percept:
    """What the towers return for black frames and silence as long as each clip; clips of one length share a pass."""
    blanks = blank(batch)
    lengths = list(zip(batch.waveform_lengths.tolist(), batch.durations_seconds.tolist(), strict=True))
    kinds = list(dict.fromkeys(lengths))
    perceived = backbone.perceive(blanks.take([lengths.index(kind) for kind in kinds]))
    rows = [kinds.index(length) for length in lengths]
    return type(perceived).join([perceived.rows(row, row + 1) for row in rows])


def losses_without(
    backbone: Backbone,
    batch: ClipBatch,
    percept: Percept,
    other: Percept,
    completions: Completions,
    temperature: float = 1.0,
) -> dict[str, Tensor]:
    """What each token's log-probability loses, float32 `[B·G, C]` by modality and for `both`, 0 where masked out.

    Args:
        backbone: that scores.
        batch: the clips.
        percept: of the clips.
        other: what stands in the place of a modality that is taken away.
        completions: G of each clip.
        temperature: of the policy.

    Raises:
        ValueError: the percept does not hold the modalities apart.
    """
    without: dict[str, Percept] = {modality: percept.replaced(modality, other) for modality in percept.modalities}
    if not without:
        raise ValueError(f"{type(percept).__name__} does not hold pictures and sound apart: neither can be taken away.")
    if len(without) > 1:
        without[BOTH] = other
    full = backbone.logprobs(backbone.encode(batch, percept), completions, temperature)
    return {
        name: full - backbone.logprobs(backbone.encode(batch, poorer), completions, temperature)
        for name, poorer in without.items()
    }


def sentence_reliance(
    tokenizer: PreTrainedTokenizerBase,
    completions: Completions,
    responses: Sequence[Response],
    losses: Mapping[str, Tensor],
) -> list[list[Reliance]]:
    """How much each sentence of each completion rests on each modality.

    Args:
        tokenizer: that the completions are written in.
        completions: token ids, N rows.
        responses: the same, read.
        losses: see `losses_without`.
    """
    own = {name: values.double().cpu() for name, values in losses.items()}
    reliances = []
    for row, response in enumerate(responses):
        ids = completions.token_ids[row][completions.mask[row]].tolist()
        spans = token_spans(tokenizer, ids, sentence_positions(response)) if response.sentences else []
        reliances.append(
            [
                Reliance({name: float(values[row, first:stop].sum()) for name, values in own.items()}, stop - first)
                for first, stop in spans
            ]
        )
    return reliances
