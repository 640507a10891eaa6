"""Format reward: the completion is a rationale and an answer in their tags, and nothing else."""

import re

import torch
from torch import Tensor

from callbacks.rewards.base import Reward, RewardInput
from datamodules.rationale import is_well_formed

_BEGIN, _END = "<think>", "</answer>"
_MIDDLE = re.compile(r"</think>\s*<answer>")


def format_score(completion: str) -> float:
    """1 if the whole completion is `<think>…</think>`, white space, `<answer>…</answer>`; else 0, as published."""
    # Not one pattern for all of it, which would be tried anew at each of many tags.
    tagged = completion.startswith(_BEGIN) and completion.endswith(_END)
    return float(tagged and _MIDDLE.search(completion, len(_BEGIN), len(completion) - len(_END)) is not None)


class FormatReward(Reward):
    """1 if the whole completion is `<think>…</think>`, white space, `<answer>…</answer>`; else 0.

    An empty rationale passes; one character before or after fails, and where completions are read strictly a repeated
    tag, too.
    """

    name = "format"

    def __call__(self, given: RewardInput) -> Tensor:
        completions = [response.completion for response in given.responses]
        strict = [not given.strict or is_well_formed(completion) for completion in completions]
        scores = [format_score(text) * well_formed for text, well_formed in zip(completions, strict, strict=True)]
        return torch.tensor(scores, dtype=torch.float32)
