"""Does a sentence rest on what is seen and heard? Its log-probability with each modality of other clips instead.

Nothing needs to be known of the clips, and nobody labels anything: other clips of the batch lend their pictures and
their sound, so that the model sees and hears what it knows, and the towers run once per clip. Each sentence is scored
alone, as a rationale's first: after others, its emotion follows from theirs (decision 48 has the measurement).

Shape legend: B clips, G completions per clip, U different sentences of a clip at most, C tokens, K other clips.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from datamodules.batch import ClipBatch
from lightning_modules.backbones.interface import Backbone
from lightning_modules.backbones.percept import Percept
from lightning_modules.metrics.reliance import Reliance
from lightning_modules.rl.rows import spans, take

OPENING = "<think>"


@torch.no_grad()
def sentence_reliance(
    backbone: Backbone,
    batch: ClipBatch,
    percept: Percept,
    others: Sequence[Percept],
    sentences: Sequence[Sequence[str]],
    with_both: bool = False,
    size: int | None = None,
) -> list[list[Reliance]]:
    """What each modality tells the backbone about each sentence.

    Args:
        backbone: that scores; without dropout, so in eval mode.
        batch: the clips.
        percept: what its towers made of them.
        others: another clip in the place of each; K of them, see `other_clips`.
        sentences: of each completion, row `b·G + g` for completion g of clip b.
        with_both: also take both away together, for half as much time again.
        size: clips that are scored at once; None: all.

    Returns:
        Of each sentence of each completion.

    Raises:
        ValueError: a percept that does not hold pictures and sound apart.
    """
    if not percept.modalities:
        raise ValueError(
            f"{type(percept).__name__} does not hold pictures and sound apart, so that neither can be taken from "
            "another clip. Name the fields in its `modality_fields`, or leave reliance out."
        )
    group_size = len(sentences) // len(batch)
    groups = [sentences[b * group_size : (b + 1) * group_size] for b in range(len(batch))]
    distinct = [list(dict.fromkeys(s for own in group for s in own)) for group in groups]
    if not any(distinct):
        return [[] for _ in sentences]
    nats: list[dict[str, Reliance]] = []
    for start, stop in spans(len(batch), size):
        alone = _Alone(backbone, batch.rows(start, stop), distinct[start:stop])
        own = percept.rows(start, stop)
        lent = [other.rows(start, stop) for other in others]
        full = alone.logprobs(own)
        values = {
            modality: information(full, torch.stack([alone.logprobs(own.replaced(modality, o)) for o in lent]))
            for modality in percept.modalities
        }
        if with_both and len(values) > 1:
            both = torch.stack([alone.logprobs(_replaced_all(own, o)) for o in lent])
            values["both"] = information(full, both)
        columns = {name: value.view(stop - start, -1).tolist() for name, value in values.items()}
        for b, texts in enumerate(distinct[start:stop]):
            nats.append({t: Reliance(**{n: rows[b][i] for n, rows in columns.items()}) for i, t in enumerate(texts)})
    return [[nats[b][sentence] for sentence in own] for b, group in enumerate(groups) for own in group]


def information(own: Tensor, others: Tensor) -> Tensor:
    """Nats that the own evidence gives a sentence: float64 `[S]`.

    Args:
        own: log-probability of each sentence on its clip, `[S]`.
        others: the same with a modality of K other clips, `[K, S]`.
    """
    return own.double() - (others.double().logsumexp(dim=0) - math.log(len(others)))


class _Alone:
    """Sentences of some clips, each as the first of a rationale.

    Args:
        backbone: that scores.
        batch: the clips.
        sentences: of each clip; padded to U with a repeated one.
    """

    def __init__(self, backbone: Backbone, batch: ClipBatch, sentences: Sequence[Sequence[str]]) -> None:
        width = max(1, max(map(len, sentences)))
        padded = [text for own in sentences for text in [*own, *[own[0] if own else ""] * (width - len(own))]]
        self.backbone, self.batch = backbone, batch
        self.completions = backbone.completion_ids([OPENING + text for text in padded])
        self.mask = sentence_tokens(backbone.tokenizer, self.completions.token_ids, self.completions.mask)

    def logprobs(self, percept: Percept) -> Tensor:
        """Of each sentence, float32 `[B·U]`."""
        prompt = self.backbone.encode(self.batch, percept)
        return (self.backbone.logprobs(prompt, self.completions) * self.mask).sum(dim=1)


def sentence_tokens(tokenizer: PreTrainedTokenizerBase, token_ids: Tensor, mask: Tensor) -> Tensor:
    """Tokens of the text behind the opening tag, bool `[N, C]`: neither the tag's nor the end of the sequence.

    A token that holds a piece of both counts. Prefixes are decoded, as not every tokenizer knows its tokens' places.

    Args:
        tokenizer: of the tokens.
        token_ids: int64 `[N, C]`, of texts that begin with the tag.
        mask: bool `[N, C]`, True up to and including the end of the sequence.
    """
    own = torch.zeros_like(mask)
    for row, ids in enumerate(token_ids.tolist()):
        end = int(mask[row].sum()) - 1
        start = next((i for i in range(end) if len(tokenizer.decode(ids[: i + 1])) > len(OPENING)), end)
        own[row, start:end] = True
    return own


def other_clips(percept: Percept, count: int) -> list[Percept]:
    """Percepts in which another clip of the batch stands in each clip's place, evenly spread over the batch.

    Args:
        percept: of the batch.
        count: of others for each clip, at least one; all there are where there are fewer.

    Raises:
        ValueError: there is a single clip.
    """
    size = len(percept)
    if size < 2:
        raise ValueError(
            "What sentences rest on shows beside other clips of the batch, and this one has a single clip. Set "
            "data.batch_size (in evaluation data.eval_batch_size) to 2 or more, better to 8."
        )
    count = min(count, size - 1)
    shifts = [1 + k * (size - 1) // count for k in range(count)]
    return [take(percept, [(row + shift) % size for row in range(size)]) for shift in shifts]


def _replaced_all(own: Percept, other: Percept) -> Percept:
    for modality in own.modalities:
        own = own.replaced(modality, other)
    return own
