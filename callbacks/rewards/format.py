"""Format reward: the completion is a rationale and an answer in their tags, and nothing else."""

import re
from collections.abc import Sequence

import torch
from torch import Tensor

from callbacks.rewards.base import Reward, RewardInput
from datamodules.rationale import is_well_formed

_BEGIN, _END = "<think>", "</answer>"
_MIDDLE = re.compile(r"</think>\s*<answer>")


def format_score(completion: str, sections: Sequence[str] = ()) -> float:
    """1 if the whole completion is `<think>…</think>`, white space, `<answer>…</answer>`; else 0, as published.

    With sections, each of them stands before, too, and no tag more than once.
    """
    if sections:
        return float(is_well_formed(completion, sections))
    # Not one pattern for all of it, which would be tried anew at each of many tags.
    tagged = completion.startswith(_BEGIN) and completion.endswith(_END)
    return float(tagged and _MIDDLE.search(completion, len(_BEGIN), len(completion) - len(_END)) is not None)


class FormatReward(Reward):
    """1 if the whole completion is `<think>…</think>`, white space, `<answer>…</answer>`; else 0.

    An empty rationale passes; one character before or after fails, and where completions are read strictly a repeated
    tag, too. Where the model has `sections`, each of them must stand before, once and in order.
    """

    name = "format"

    def __call__(self, given: RewardInput) -> Tensor:
        read = [(response.completion, tuple(response.sections)) for response in given.responses]
        strict = [not given.strict or is_well_formed(text, sections) for text, sections in read]
        scores = [format_score(*own) * well_formed for own, well_formed in zip(read, strict, strict=True)]
        return torch.tensor(scores, dtype=torch.float32)
