"""Format reward: the completion is a rationale and an answer in their tags, and nothing else."""

import re
from collections.abc import Sequence

import torch
from torch import Tensor

from callbacks.rewards.base import Reward
from datamodules.rationale import Response
from lightning_modules.emotion_verifier import SentenceReading

_BEGIN, _END = "<think>", "</answer>"
_MIDDLE = re.compile(r"</think>\s*<answer>")


def format_score(completion: str) -> float:
    """1 if the whole completion is `<think>…</think>`, white space, `<answer>…</answer>`; else 0."""
    # Not one pattern for all of it, which would be tried anew at each of many tags.
    tagged = completion.startswith(_BEGIN) and completion.endswith(_END)
    return float(tagged and _MIDDLE.search(completion, len(_BEGIN), len(completion) - len(_END)) is not None)


class FormatReward(Reward):
    """1 if the whole completion is `<think>…</think>`, white space, `<answer>…</answer>`; else 0.

    Repeated tags and an empty rationale pass; one character before or after fails.
    """

    name = "format"

    def __call__(
        self,
        responses: Sequence[Response],
        targets: Sequence[str],
        readings: Sequence[Sequence[SentenceReading]] | None = None,
    ) -> Tensor:
        return torch.tensor([format_score(response.completion) for response in responses], dtype=torch.float32)
