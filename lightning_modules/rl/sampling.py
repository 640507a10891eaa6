"""Sampling groups of completions for training, many prompts at once.

Shape legend: B prompts (one per clip), G completions per prompt, C completion tokens.
"""

import torch

from datamodules.batch import ClipBatch
from lightning_modules.backbones.interface import Backbone, Completions, Percept, Prompt, Sampling
from lightning_modules.rl.rows import join, spans
from lightning_modules.rl.timing import StepMeter


def remember_prompts(backbone: Backbone, batch: ClipBatch, percept: Percept, meter: StepMeter) -> Prompt | None:
    """All prompts of a batch, run by the language model with gradient; None where the backbone cannot.

    Args:
        backbone: the policy.
        batch: the clips.
        percept: what the towers made of them.
        meter: is told what takes how long.
    """
    with meter.phase("encode"), torch.enable_grad():
        prompt = backbone.encode(batch, percept)
    with meter.phase("sample"):
        prompt = backbone.remember(prompt)
    return None if prompt.memory is None else prompt


@torch.no_grad()
def sample_groups(
    backbone: Backbone,
    batch: ClipBatch,
    percept: Percept,
    remembered: Prompt | None,
    group_size: int,
    sampling: Sampling,
    batch_size: int | None,
    meter: StepMeter,
) -> Completions:
    """G completions of each clip, `[B·G, C]`.

    Args:
        backbone: the policy.
        batch: the clips.
        percept: what the towers made of them.
        remembered: what `remember_prompts` returned for them, which is sampled from at once; None: prompts are run
            here.
        group_size: G.
        sampling: how completions are drawn.
        batch_size: prompts that are run and sampled at once; None: all.
        meter: is told what takes how long.
    """
    parts = []
    for start, stop in spans(len(batch), batch_size if remembered is None else None):
        prompt = remembered
        if prompt is None:
            with meter.phase("encode"):
                prompt = backbone.encode(batch.rows(start, stop), percept.rows(start, stop))
        with meter.phase("sample"):
            parts.append(backbone.generate(prompt, group_size, sampling))
    completions = join(parts, backbone.tokenizer.pad_token_id)
    meter.add_tokens(int(completions.lengths.sum()))
    return completions
